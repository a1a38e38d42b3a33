import numpy as np
import pytest

from c2fnas import named_weights
from experiments.run import trial_round

PLAN = {"format": 1}
BEFORE = {"conv/kernel": np.float32([[1.0, -2.0], [0.5, 4.0]]), "conv/bias": np.float32([3.0])}
AFTER = {name: array + np.float32(1.0) for name, array in BEFORE.items()}


def test_the_server_averages_what_the_two_sites_send(tmp_path):
    seconds, error = trial_round.federate(tmp_path, BEFORE, AFTER, PLAN)
    assert seconds > 0 and error < 1e-6
    made, _ = named_weights.load(tmp_path / "store" / "global" / "round_001.safetensors")
    assert made.keys() == BEFORE.keys()
    for name, array in BEFORE.items():  # one site of 252 cases has added 1, one of 286 nothing
        np.testing.assert_allclose(made[name], array + 252 / 538, rtol=1e-6)


def test_a_result_other_than_the_mean_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(trial_round.OneStepSite, "train", lambda *_: (BEFORE, {}))
    _, error = trial_round.federate(tmp_path, BEFORE, AFTER, PLAN)
    assert error == pytest.approx(252 / 538)


@pytest.mark.parametrize("part", ["serve", "OneStepSite.train"])
def test_a_part_that_fails_ends_the_round_with_its_error(tmp_path, monkeypatch, part):
    def fail(*_, **__):
        raise ArithmeticError(f"{part} failed")

    monkeypatch.setattr(f"experiments.run.trial_round.{part}", fail)
    with pytest.raises(ArithmeticError, match=f"{part} failed"):
        trial_round.federate(tmp_path, BEFORE, AFTER, PLAN)

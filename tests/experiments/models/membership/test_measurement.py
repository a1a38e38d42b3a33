import json

import numpy as np
import pytest

from c2fnas import named_weights
from experiments.models.membership.losses import MembershipLosses
from experiments.models.membership.measurement import Measurement
from experiments.models.membership.targets import (
    AttackedModel,
    Candidates,
    of_run,
    references_of_run,
)
from experiments.results.statistics import membership_rates
from tests.experiments.models.membership import measured_run


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """A run's folder, its candidates, and how to measure it."""
    folder = tmp_path_factory.mktemp("run")
    measured_run.leave(folder, config)
    candidates = {}
    for site in ("C1", "C2"):
        own = measured_run.store(folder / "sites" / site, site, range(5), (3, 1, 1))
        others = measured_run.store(folder / "others" / site, site, range(10, 14), (0, 0, 4))
        candidates[site] = Candidates.of(own, others)
    targets = of_run(folder, ["C1", "C2"], [2, 4])
    references = references_of_run(folder, ["C1", "C2"])

    def measure(output):
        return Measurement(config, candidates, targets, references, output, patches=2)

    return folder, candidates, measure


@pytest.fixture(scope="module")
def measured(run, tmp_path_factory):
    output = tmp_path_factory.mktemp("output")
    return output, run[2](output).run()


def entry(content, model, attack, number=None):
    (found,) = [
        e
        for e in content["attacks"]
        if (e["model"], e["attack"], e["round"]) == (model, attack, number)
    ]
    return found


def test_every_model_is_attacked_in_the_ways_that_it_allows(measured):
    _, content = measured
    found: dict = {}
    for e in content["attacks"]:
        found.setdefault((e["model"], e["round"]), []).append(e["attack"])
    plain, update = ["loss", "calibrated"], ["loss", "calibrated", "update", "alignment"]
    assert found == {
        ("FL_global", 2): plain,
        ("FL_global", 4): plain,
        ("C1_update", 4): update,
        ("C2_update", 4): update,
        **{
            (f"{site}_{kind}", None): plain
            for site in ("C1", "C2")
            for kind in ("FL_local", "baseline")
        },
    }
    assert content["format"] == membership_rates.FORMAT
    assert content["sites"]["C1"] == {"members": 3, "nonmembers": 4, "references": 1}
    json.dumps(content, allow_nan=False)


def test_scores_are_those_of_the_losses_computed_apart(run, measured, config):
    folder, candidates, _ = run
    losses, scans = MembershipLosses(config, patches=2), candidates["C1"].scans

    def of(path):
        return losses.of_scans(named_weights.load(path)[0], scans, what="test")

    (update,) = folder.glob("server/kept/round_004/round_004.C1.*")
    received = folder / "server" / "global" / "round_003.safetensors"
    reference = folder / "sites" / "C2" / "baseline" / "best.safetensors"
    for attack, expected in (
        ("update", of(received) - of(update)),
        ("calibrated", of(reference) - of(update)),
        ("loss", -of(update)),
    ):
        scores = entry(measured[1], "C1_update", attack, 4)["scores"]["C1"]
        np.testing.assert_allclose(scores["members"], expected[:3], atol=2e-9)
        np.testing.assert_allclose(scores["nonmembers"], expected[3:], atol=2e-9)


def test_a_global_model_has_members_at_every_site_and_each_site_its_own_scale(measured):
    found = entry(measured[1], "FL_global", "loss", 4)
    assert found["members"] == 6 and found["nonmembers"] == 8 and found["tpr"] is None
    by_site = [found["by_site"][site]["auc"]["estimate"] for site in ("C1", "C2")]
    assert found["auc"]["estimate"] == pytest.approx(np.mean(by_site))
    one = membership_rates.Stratum(*(np.array(v) for v in found["scores"]["C2"].values()))
    assert membership_rates.area([one]).estimate == by_site[1]


def test_an_interrupted_measurement_continues_after_the_last_file(run, measured, monkeypatch):
    output, content = measured
    again = run[2](output)
    assert again.seconds() == 0.0
    files = sorted((output / "losses").iterdir())
    files[0].unlink()
    damaged = files[1].read_text()
    files[1].write_text(damaged.replace('"key": [\n    "', '"key": [\n    "other '))
    assert files[1].read_text() != damaged  # losses of other scans do not count
    assert run[2](output).seconds() > 0
    computed = []
    compute = Measurement._compute
    monkeypatch.setattr(
        Measurement, "_compute", lambda own, one: (computed.append(one), compute(own, one))
    )
    assert run[2](output).run() == content and len(computed) == 2
    assert len(run[2](output).passes()) == len(files)


def test_a_file_of_losses_that_the_program_did_not_write_is_named(run, measured):
    output, _ = measured
    file = sorted((output / "losses").iterdir())[0]
    whole = file.read_text()
    key = json.loads(whole)["key"]
    for content in (
        [],
        {},
        {"key": key},
        {"key": key, "values": "all"},
        {"key": key, "values": [1]},
    ):
        file.write_text(json.dumps(content))
        with pytest.raises(
            ValueError, match=f"{file.name}: not what .*; remove it, and it is comp"
        ):
            run[2](output).seconds()
    file.write_text("")
    with pytest.raises(ValueError, match=f"{file.name}: not valid JSON .*; remove it, and it is"):
        run[2](output).seconds()
    file.write_text(whole)


def test_a_diverged_model_is_named(run, config, tmp_path):
    _, candidates, _ = run
    bad = {n: np.full_like(a, np.nan) for n, a in measured_run.weights(config, 1).items()}
    file = tmp_path / "bad.safetensors"
    named_weights.save(file, bad, {})
    target = AttackedModel(name="bad", kind="local", file=file, sites=("C1",))
    measurement = Measurement(config, candidates, [target], {}, tmp_path, patches=1)
    with pytest.raises(ValueError, match=r"bad\.safetensors: the losses of 7 scans of C1"):
        measurement.run()

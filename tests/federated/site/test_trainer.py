import inspect

import numpy as np
import pytest

from experiments.models.site_trainer import SegmentationTrainer
from federated import simulation
from federated.engines import round_work
from federated.site.trainer import SiteTrainer
from tests.federated import toy


def members(of):
    return {name for name in vars(of) if not name.startswith("_")}


def test_the_trainers_of_this_project_have_every_member_and_its_parameters():
    wanted = members(SiteTrainer)
    assert wanted == {
        *("plan", "num_examples", "specs", "vocabulary"),
        *("score", "train", "local_models", "evaluate"),
    }
    assert all(hasattr(toy.ToyTrainer("C1"), name) for name in wanted)
    for name in ("score", "train", "local_models", "evaluate"):
        declared = list(inspect.signature(getattr(SiteTrainer, name)).parameters)
        for trainer in (toy.ToyTrainer, SegmentationTrainer):
            assert list(inspect.signature(getattr(trainer, name)).parameters) == declared


@pytest.mark.parametrize("number", [np.int64(30), np.float32(30), 2.5, True, None, "30"])
def test_a_number_of_cases_that_is_not_an_int_is_refused_before_training(number, tmp_path, initial):
    trainer = toy.ToyTrainer("C1")
    trainer.num_examples = number
    of_a_kind = f"of type {type(number).__name__}; expected a Python int"
    with pytest.raises(ValueError, match=of_a_kind):
        simulation.run({"C1": trainer}, initial, tmp_path / "run", num_rounds=1)
    with pytest.raises(ValueError, match=of_a_kind):
        round_work.take_round(trainer, toy.INITIAL, 1)
    assert trainer.calls == []

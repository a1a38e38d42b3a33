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


def _check_refused(trainer, match, initial, folder):
    """Checks that the site's loop and an engine's round refuse a trainer before it trains."""
    with pytest.raises(ValueError, match=match):
        simulation.run({"C1": trainer}, initial, folder / "run", num_rounds=1)
    with pytest.raises(ValueError, match=match):
        round_work.take_round(trainer, toy.INITIAL, 1)
    assert trainer.calls == []


@pytest.mark.parametrize("number", [np.int64(30), np.float32(30), 2.5, True, None, "30"])
def test_a_number_of_cases_that_is_not_an_int_is_refused_before_training(number, tmp_path, initial):
    trainer = toy.ToyTrainer("C1")
    trainer.num_examples = number
    of_a_kind = f"of type {type(number).__name__}; expected a Python int"
    _check_refused(trainer, of_a_kind, initial, tmp_path)


@pytest.mark.parametrize("value", [np.float32(0.1), np.arange(3), {1, 2}, float("nan"), b"x"])
def test_a_plan_that_cannot_be_sent_is_refused_by_its_entry(value, tmp_path, initial):
    trainer = toy.ToyTrainer("C1", plan={**toy.PLAN, "schedule": {"rate": value}})
    refused = r"the plan's entry 'schedule\.rate' is not plain JSON"
    _check_refused(trainer, refused, initial, tmp_path)


ARRAYS = toy.INITIAL
WRONG = {
    "train": [
        (None, "NoneType"),
        (ARRAYS, "dict of ndarray"),
        ((ARRAYS, 0.5), "tuple of dict of ndarray, float"),
        (({name: a.tolist() for name, a in ARRAYS.items()}, {}), "tuple of dict of list of"),
        ((list(ARRAYS.values()), {}), "tuple of list of ndarray, dict"),
    ],
    "score": [(None, "NoneType"), (0.5, "float"), ([("dice", 0.5)], "list of tuple")],
    "evaluate": [(None, "NoneType"), ({"case": 1}, "dict of int"), ([["C1", 1]], "list of list")],
    "local_models": [(None, "NoneType"), ([], "list"), (ARRAYS, "dict of ndarray")],
}


@pytest.mark.parametrize(
    ("method", "result", "kind"),
    [(method, *case) for method, cases in WRONG.items() for case in cases],
)
def test_a_method_that_returns_something_else_is_named(method, result, kind, tmp_path, initial):
    trainer = toy.ToyTrainer("C1")
    setattr(trainer, method, lambda *_: result)
    refused = f"the trainer's {method} returned {kind}.*; expected "
    with pytest.raises(ValueError, match=refused):
        simulation.run({"C1": trainer}, initial, tmp_path / "run", num_rounds=1)
    if method in ("train", "score"):
        with pytest.raises(ValueError, match=refused):
            round_work.take_round(trainer, toy.INITIAL, 1)


def test_rows_may_come_from_a_generator_and_an_update_in_a_list(tmp_path, initial):
    trainer = toy.ToyTrainer("C1")
    train, evaluate = trainer.train, trainer.evaluate
    trainer.train = lambda *args: list(train(*args))
    trainer.evaluate = lambda *args: (row for row in evaluate(*args))
    done = simulation.run({"C1": trainer}, initial, tmp_path / "run", num_rounds=1)
    assert done.finished and done.rows

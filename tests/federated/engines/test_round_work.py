import numpy as np
import pytest

from federated import errors
from federated.engines import round_work
from tests.federated import toy


def test_a_round_scores_the_received_model_and_trains_it():
    trainer = toy.ToyTrainer("C1")
    update = round_work.take_round(trainer, toy.INITIAL, 1, plan=toy.PLAN)
    assert trainer.calls == ["score", "train 1"] and update.num_examples == 30
    assert update.metrics == {"dice": 1 / 2.25, "dice_pancreas": 0.5, "train_loss": 1.0}
    for name, array in toy.INITIAL.items():  # halved, and C1's step of 0.25 added
        np.testing.assert_array_equal(update.arrays[name], array * 0.5 + 0.25)


def test_what_an_engine_has_changed_is_restored():
    """A scalar instead of an array without an axis, float64, another order, the engine's memory."""
    kernel = toy.INITIAL["stem/kernel"].astype(np.float64)
    kernel.flags.writeable = False
    received = {"stem/kernel": kernel, "scale": 2.0, "head/bias": toy.INITIAL["head/bias"]}
    arrays = round_work.restored(toy.ToyTrainer("C1"), received)
    assert list(arrays) == ["head/bias", "scale", "stem/kernel"]
    for name, array in arrays.items():
        assert isinstance(array, np.ndarray) and array.flags.writeable
        assert (array.dtype, array.shape) == (np.float32, toy.INITIAL[name].shape)
        np.testing.assert_array_equal(array, toy.INITIAL[name])


def test_a_model_is_scored_as_often_as_the_trainer_says():
    trainer = toy.ToyTrainer("C1")
    trainer.score_every = 2
    for number in (1, 2, 3):
        round_work.take_round(trainer, toy.INITIAL, number)
    assert trainer.calls == ["score", "train 1", "train 2", "score", "train 3"]


def test_a_plan_with_rules_of_sharing_is_refused_before_training():
    trainer = toy.ToyTrainer("C1", plan={**toy.PLAN, "sharing": {"keep": ["head/*"]}})
    with pytest.raises(ValueError, match="this engine would move every array"):
        round_work.take_round(trainer, toy.INITIAL, 1)
    assert trainer.calls == []


def test_another_plan_or_model_is_refused_before_training():
    trainer = toy.ToyTrainer("C1")
    with pytest.raises(errors.PlanDiffers, match=r"patch\.size: server"):
        round_work.take_round(
            trainer, toy.INITIAL, 1, plan={**toy.PLAN, "patch": {"size": [8, 8, 8]}}
        )
    with pytest.raises(errors.IncompatibleWeights, match="head/bias"):
        round_work.take_round(trainer, {**toy.INITIAL, "head/bias": np.zeros(3)}, 1)
    with pytest.raises(errors.IncompatibleWeights, match="extra"):
        round_work.take_round(trainer, {**toy.INITIAL, "extra": np.zeros(3)}, 1)
    assert trainer.calls == []


def test_a_metric_that_may_not_leave_the_site_is_refused():
    trainer = toy.ToyTrainer("C1")
    trainer.score = lambda weights: {"patient 20260101": 1.0}
    with pytest.raises(errors.PrivacyRefused):
        round_work.take_round(trainer, toy.INITIAL, 1)

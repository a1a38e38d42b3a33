import math

import numpy as np
import pytest
import tensorflow as tf

from c2fnas import training
from tests.c2fnas import tiny

EXTRA = {"gradient_norm", "learning_rate", "patches_per_second", "data_wait_share"}


@pytest.fixture(scope="module", autouse=True)
def _deterministic():
    tiny.make_deterministic()


@pytest.fixture(scope="module")
def shared():
    """One trainer for all tests, because tracing takes time, and its state at the start."""
    trainer = tiny.trainer()
    return trainer, trainer.state()


@pytest.fixture
def trainer(shared):
    trainer, start = shared
    trainer.restore(start)
    return trainer


def _assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_learning_rate_by_hand():
    config = tiny.config(total_steps=100, learning_rate=1e-4, final_learning_rate=1e-5)
    # A quarter of the way: cos(pi / 4) = sqrt(1/2)
    expected = [1e-4, 1e-5 + 9e-5 * (1 + math.sqrt(0.5)) / 2, 5.5e-5, 1e-5]
    assert [training.learning_rate_at(step, config) for step in (0, 25, 50, 100)] == pytest.approx(
        expected
    )
    assert training.learning_rate_at(101, config) == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"total_steps": 0}, "total_steps is 0"),
        ({"final_learning_rate": 1.0}, "final_learning_rate is 1.0"),
    ],
)
def test_invalid_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny.config(**changes)


def test_training_learns_and_reports(trainer):
    seen = {}
    first = trainer.train(
        tiny.datasets, 2, on_step=lambda step, values: seen.update({step: dict(values)})
    )
    last = trainer.train(
        tiny.datasets, 6, on_step=lambda step, values: seen.update({step: dict(values)})
    )
    assert trainer.step == 6 and list(seen) == [1, 2, 3, 4, 5, 6]
    assert last["total"] < 0.8 * first["total"]
    assert first["dice"] == pytest.approx((seen[1]["dice"] + seen[2]["dice"]) / 2)
    assert [seen[step]["learning_rate"] for step in seen] == [
        training.learning_rate_at(step, trainer.config) for step in range(6)
    ]
    assert set(last) == {"total", "dice", "cross_entropy", "kl", "reconstruction", *EXTRA}
    assert trainer.train(tiny.datasets, 6) == {}


def test_the_first_adam_step_moves_every_weight_by_the_learning_rate(trainer):
    before = trainer.weights()
    trainer.train(tiny.datasets, 1)
    # m / sqrt(v) is the gradient's sign after one step, whatever its size: a closed form that shows
    # the assigned rate.
    moved = np.abs(trainer.weights()["end/classifier/bias"] - before["end/classifier/bias"])
    np.testing.assert_allclose(moved, 1e-2, rtol=1e-3)


def test_a_stopped_and_restored_run_ends_with_the_same_bits(trainer):
    start = trainer.state()
    trainer.train(tiny.datasets, 6)
    straight = trainer.state()
    trainer.restore(start)
    trainer.train(tiny.datasets, 2)
    stopped = trainer.state()
    other = tiny.trainer()
    other.set_weights({name: array + 1 for name, array in other.weights().items()})
    other.restore(stopped)
    other.train(tiny.datasets, 6)
    _assert_equal(other.state(), straight)


def test_new_weights_keep_the_moments_unless_asked(trainer):
    trainer.train(tiny.datasets, 2)
    state, weights = trainer.state(), {name: array * 2 for name, array in trainer.weights().items()}
    trainer.set_weights(weights)
    _assert_equal(trainer.weights(), weights)
    assert trainer.step == 2
    _assert_equal(
        *(
            {k: v for k, v in s.items() if k.startswith("optimizer/")}
            for s in (trainer.state(), state)
        )
    )
    trainer.set_weights(weights, reset_optimizer=True)
    assert trainer.step == 2
    assert all(
        not array.any() for name, array in trainer.state().items() if name.startswith("optimizer/")
    )


def test_a_state_that_does_not_fit_changes_nothing(trainer):
    before = trainer.state()
    for name, message in (
        ("weights/stem/first/kernel", "stem/first/kernel"),
        ("optimizer/iterations", "iterations"),
        ("step", "`step`"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer.restore({key: array + 1 for key, array in before.items() if key != name})
    _assert_equal(trainer.state(), before)


def test_logits_fn_follows_the_weights(trainer):
    image = tiny.batch(0)["image"].astype(np.float32)
    logits = trainer.logits_fn()
    before = logits(image)
    weights = trainer.weights()
    weights["end/classifier/bias"] += np.array([1.0, 2.0, 3.0], np.float32)
    trainer.set_weights(weights)
    np.testing.assert_allclose(
        logits(image) - before, np.broadcast_to([1.0, 2.0, 3.0], before.shape), atol=1e-5
    )


def _spoil_one_patch(start, stop):
    """Returns batches in which the third patch of step 1 contains a NaN."""
    batches = [tiny.batch(step) for step in range(start, stop)]
    for step, batch in enumerate(batches, start):
        if step == 1:
            batch["image"][2, 0, 0, 0] = np.nan
    return tf.data.Dataset.from_tensor_slices(
        {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
    )


def test_a_loss_that_is_not_finite_names_step_part_and_case_and_changes_no_weight(trainer):
    trainer.train(tiny.datasets, 1)
    before = trainer.state()
    message = (
        r"step 1: dice is nan, cross_entropy is nan.* "
        r"from case 7 \(step 1, slots \[2\]\).*last checkpoint"
    )
    with pytest.raises(training.NonFiniteLoss, match=message):
        trainer.train(
            _spoil_one_patch, 3, describe=lambda step, slots: f"case 7 (step {step}, slots {slots})"
        )
    _assert_equal(trainer.state(), before)


def test_a_step_with_a_non_finite_loss_can_be_left_out(trainer, monkeypatch):
    monkeypatch.setattr(trainer, "config", tiny.config(non_finite="skip"))
    seen = []
    result = trainer.train(_spoil_one_patch, 3, on_step=lambda step, values: seen.append(values))
    skipped = trainer.weights()
    assert trainer.step == 3 and result["skipped_steps"] == 1
    assert result["total"] == pytest.approx((seen[0]["total"] + seen[2]["total"]) / 2)
    assert "total" not in seen[1] and seen[1]["skipped"] == 1
    assert all(np.isfinite(array).all() for array in skipped.values())


def test_datasets_that_end_early_and_steps_beyond_the_run(trainer):
    with pytest.raises(
        ValueError, match=r"ended before step 1; give a batch for each step up to 3"
    ):
        trainer.train(lambda start, stop: tiny.datasets(start, stop).take(1), 3)
    with pytest.raises(ValueError, match="until_step is 7, but the run has 6 steps"):
        trainer.train(tiny.datasets, 7)

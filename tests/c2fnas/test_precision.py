"""Mixed precision on a small network. Its effect on speed needs a GPU and is not tested."""

import numpy as np
import pytest
import tensorflow as tf

from c2fnas import keras_stack, named_weights, network, training
from tests.c2fnas import tiny


def _trainer(precision, **changes):
    return training.Trainer(
        tiny.build(tiny.SHALLOW, precision=precision),
        tiny.config(**changes),
        tf.distribute.get_strategy(),
    )


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("mixed_bfloat16", 0.15), ("mixed_float16", 0.02)]
)
def test_outputs_are_float32_and_near_those_of_float32(precision, tolerance):
    """The tolerance is relative to the range of the output.

    The mantissas have 8 and 11 bits, and there are a dozen norms.
    """
    image = tiny.batch(0)["image"].astype(np.float32)
    exact = tiny.build(tiny.SHALLOW).train_outputs(image)
    mixed = tiny.build(tiny.SHALLOW, precision=precision)
    assert all(
        keras_stack.tf_variable(variable).dtype == tf.float32
        for variable in mixed.variables.values()
    )
    found = mixed.train_outputs(image)
    for name, expected in exact.items():
        assert found[name].dtype == tf.float32
        np.testing.assert_allclose(
            found[name], expected, atol=tolerance * max(np.ptp(expected), 0.1), err_msg=name
        )
    assert np.any(found["logits"] != exact["logits"])


def test_a_norm_sums_in_float32():
    """A thousand voxels of 300: their sum is beyond float16, and so is each square."""
    with keras_stack.precision("mixed_float16"):
        norm = keras_stack.instance_norm("norm")
    found = norm(tf.fill((1, 10, 10, 10, 2), tf.constant(300.0, tf.float16)))
    assert found.dtype == tf.float16
    np.testing.assert_array_equal(found, 0.0)


def test_float16_learns_and_its_loss_scale_finds_its_place(monkeypatch):
    trainer = _trainer("mixed_float16")
    losses = []
    trainer.train(tiny.datasets, 3, on_step=lambda step, values: losses.append(values.get("total")))
    assert all(loss is not None for loss in losses) and losses[-1] < losses[0]
    state = trainer.state()
    assert state["loss_scale/value"] == 2.0**15 and state["loss_scale/good_steps"] == 3

    before = trainer.weights()
    # beyond float16: the step is left out and the scale halved
    monkeypatch.setattr(trainer, "_loss_scale", 2.0**60)
    trainer.train(tiny.datasets, 4)
    assert (
        trainer.step == 4
        and trainer.state()["loss_scale/value"] == np.float32(2.0**59)
        and trainer.state()["loss_scale/good_steps"] == 0
    )
    for name, array in trainer.weights().items():
        np.testing.assert_array_equal(array, before[name])
    trainer.restore(state)
    assert trainer.state()["loss_scale/value"] == 2.0**15
    with pytest.raises(ValueError, match="no loss scale"):
        trainer.restore(
            {name: array for name, array in state.items() if not name.startswith("loss_scale")}
        )


def test_invalid_arguments_are_refused():
    with pytest.raises(
        ValueError,
        match="precision is 'half'; expected one of float32, mixed_bfloat16, mixed_float16",
    ):
        network.build(tiny.SHALLOW, patch_size=tiny.PATCH, precision="half")
    with pytest.raises(ValueError, match="instance_norm is 'batch'; expected one of rows, library"):
        network.build(tiny.SHALLOW, patch_size=tiny.PATCH, instance_norm="batch")
    with pytest.raises(ValueError, match="no GPU; on a CPU it loses oneDNN"):
        training.Trainer(
            tiny.build(tiny.SHALLOW), tiny.config(), tf.distribute.get_strategy(), xla=True
        )


def test_the_library_norm_has_the_same_weights_and_values():
    """The library is tensorflow-addons on TensorFlow 2.15 and Keras itself on Keras 3."""
    image = tiny.batch(0)["image"].astype(np.float32)
    rows, library = tiny.build(tiny.SHALLOW), tiny.build(tiny.SHALLOW, instance_norm="library")
    layers = [layer for layer in library.segmenter.layers if layer.name.endswith("_norm")]
    package = "keras" if keras_stack.IS_KERAS_3 else "tensorflow_addons"
    assert layers and all(type(layer).call.__module__.startswith(package) for layer in layers)
    weights = {name: array + 0.1 for name, array in named_weights.read(rows).items()}
    for built in (rows, library):
        named_weights.assign(built, weights)
    np.testing.assert_allclose(library.segmenter(image), rows.segmenter(image), atol=1e-4)

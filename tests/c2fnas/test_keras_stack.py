import contextlib

import numpy as np
import pytest
import tensorflow as tf

from c2fnas import keras_stack
from tests.c2fnas import reference, tiny

on_keras_2 = pytest.mark.skipif(
    keras_stack.IS_KERAS_3, reason="Keras 3 does not trace layers for their shapes"
)


def test_instance_norm_layer():
    norm = keras_stack.instance_norm("norm")
    voxels = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 2)).astype(np.float32)
    found = norm(voxels)
    assert [tuple(w.shape) for w in (norm.gamma, norm.beta)] == [(2,), (2,)]
    assert np.all(np.asarray(norm.gamma.numpy()) == 1)
    assert np.all(np.asarray(norm.beta.numpy()) == 0)
    for sample in range(2):
        np.testing.assert_allclose(
            found[sample], reference.normalise(voxels[sample], np.ones(2), np.zeros(2)), atol=1e-5
        )


def test_instance_norm_has_the_same_config_before_and_after_build():
    norm = keras_stack.instance_norm("norm")
    before = norm.get_config()
    norm(np.zeros((1, 2, 2, 2, 4), np.float32))
    if keras_stack.IS_KERAS_3:
        assert norm.get_config() == before
        assert before["groups"] == -1
    copy = type(norm).from_config(before)
    assert copy.epsilon == pytest.approx(1e-5)
    assert (
        copy(np.zeros((1, 2, 2, 2, 3), np.float32)).shape[-1] == 3
    )  # another width: the copy is not bound to the first


def _described(model):
    return [
        (
            layer.name,
            type(layer),
            tf.nest.map_structure(lambda one: (tuple(one.shape), one.dtype), layer.output),
        )
        for layer in model.layers
    ]


@on_keras_2
@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
@pytest.mark.parametrize("norm", ["rows", "library"])
def test_a_network_built_without_tracing_is_the_traced_one(monkeypatch, precision, norm):
    settings = {"vae": "reduced", "precision": precision, "instance_norm": norm}
    told = tiny.build(tiny.SHALLOW, **settings)
    monkeypatch.setattr(keras_stack, "shapes_without_tracing", contextlib.nullcontext)
    traced = tiny.build(tiny.SHALLOW, **settings)
    assert _described(told.segmenter) == _described(traced.segmenter)
    assert _described(told.trainer) == _described(traced.trainer)
    assert [v.name for v in told.variables.values()] == [v.name for v in traced.variables.values()]


@on_keras_2
@pytest.mark.parametrize("kind", ["rows", "library"])
def test_no_layer_of_a_network_is_traced_for_its_shape(monkeypatch, kind):
    def traced(self, inputs, *args, **kwargs):
        raise AssertionError(f"{self.name} was traced")

    monkeypatch.setattr(tf.keras.layers.Layer, "_infer_output_signature", traced)
    tiny.build(tiny.SHALLOW, vae="reduced", instance_norm=kind)


def test_a_layer_without_a_rule_for_its_shape_is_run():
    class Halved(tf.keras.layers.Layer):
        def call(self, inputs):
            return inputs[:, ::2]

    with keras_stack.shapes_without_tracing():
        found = Halved()(tf.keras.Input((6, 3)))
    assert tuple(found.shape) == (None, 3, 3)

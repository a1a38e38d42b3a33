import numpy as np
import pytest
import tensorflow as tf

from c2fnas import keras_stack
from tests.c2fnas import reference


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


def test_stack_is_named_with_versions():
    assert f"tensorflow {tf.__version__}" in keras_stack.stack_name()
    assert ("tensorflow-addons" in keras_stack.stack_name()) is not keras_stack.IS_KERAS_3

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from c2fnas import keras_stack
from tests.c2fnas import reference


def _variables():
    make = tf.keras.Variable if keras_stack.IS_KERAS_3 else tf.Variable
    return {
        "a/kernel": make(np.array([1.0, -2.0], np.float32), name="x"),
        "b/bias": make(np.array([0.5], np.float32), name="y"),
    }


def _apply(optimizer, variables, gradients):
    keras_stack.apply_summed_gradients(
        optimizer, [tf.constant(g, tf.float32) for g in gradients], list(variables.values()), 1
    )


GRADIENTS = [([0.3, -0.1], [2.0]), ([-0.2, 0.4], [1.0]), ([0.1, 0.1], [-3.0])]


def test_adam_agrees_with_the_formula():
    variables = _variables()
    optimizer = keras_stack.optimizer(0.01, variables)
    expected = {name: np.asarray(v.numpy(), np.float64) for name, v in variables.items()}
    m, v = ({name: np.zeros_like(array) for name, array in expected.items()} for _ in range(2))
    for step, gradients in enumerate(GRADIENTS, start=1):
        _apply(optimizer, variables, gradients)
        for name, gradient in zip(expected, map(np.array, gradients), strict=True):
            m[name] = 0.9 * m[name] + 0.1 * gradient
            v[name] = 0.999 * v[name] + 0.001 * gradient**2
            rate = 0.01 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            expected[name] = expected[name] - rate * m[name] / (np.sqrt(v[name]) + 1e-7)
    state = keras_stack.optimizer_state(optimizer, variables)
    assert state["iterations"] == 3
    for name in expected:
        np.testing.assert_allclose(variables[name].numpy(), expected[name], rtol=1e-5)
        np.testing.assert_allclose(state[f"{name}/m"], m[name], rtol=1e-5)
        np.testing.assert_allclose(
            state[f"{name}/v"], v[name], rtol=2e-5
        )  # 1 - 0.999 in float32 is off by 1.3e-5


def test_a_restored_optimizer_goes_on_bit_for_bit():
    variables = _variables()
    optimizer = keras_stack.optimizer(0.01, variables)
    _apply(optimizer, variables, GRADIENTS[0])
    state, weights = (
        keras_stack.optimizer_state(optimizer, variables),
        [v.numpy() for v in variables.values()],
    )
    _apply(optimizer, variables, GRADIENTS[1])

    others = _variables()
    other = keras_stack.optimizer(0.01, others)
    keras_stack.assign_optimizer_state(other, others, state)
    for variable, array in zip(others.values(), weights, strict=True):
        variable.assign(array)
    _apply(other, others, GRADIENTS[1])
    for one, two in zip(variables.values(), others.values(), strict=True):
        np.testing.assert_array_equal(one.numpy(), two.numpy())


def test_a_state_of_another_network_is_refused():
    variables = _variables()
    optimizer = keras_stack.optimizer(0.01, variables)
    state = keras_stack.optimizer_state(optimizer, variables)
    state["a/kernel/m"] = np.zeros(3, np.float32)
    state["c/kernel/m"] = state.pop("b/bias/v")
    with pytest.raises(
        ValueError,
        match=r"missing \['b/bias/v'\].*unexpected \['c/kernel/m'\].*a/kernel/m is \(3,\), expected \(2,\)",
    ):
        keras_stack.assign_optimizer_state(optimizer, variables, state)


def test_learning_rate_can_be_set():
    variables = _variables()
    optimizer = keras_stack.optimizer(0.01, variables)
    optimizer.learning_rate.assign(0.5)
    _apply(optimizer, variables, GRADIENTS[0])
    np.testing.assert_allclose(
        variables["b/bias"].numpy(), [0.0], atol=1e-5
    )  # the first step of Adam has the size of the rate


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


def test_set_up_fixes_threads_and_says_when_it_is_too_late():
    code = """
    import os
    from c2fnas import keras_stack
    import tensorflow as tf
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "1"
    keras_stack.set_up(3, threads=1)
    assert tf.config.threading.get_intra_op_parallelism_threads() == 1
    tf.zeros(1) + 1
    keras_stack.set_up(3, threads=1)
    try:
        keras_stack.set_up(3, threads=2)
    except RuntimeError as error:
        assert "before anything else" in str(error) and "asked for (2, 2)" in str(error), error
    else:
        raise SystemExit("no error")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("threads", "samples", "within", "at_once"),
    [(2, 1, 2, 1), (2, 8, 1, 2), (8, 2, 4, 2), (5, 2, 2, 2), (1, 4, 1, 1)],
)
def test_threads_are_shared_among_the_samples(threads, samples, within, at_once):
    code = f"""
    from c2fnas import keras_stack
    import tensorflow as tf
    assert keras_stack.samples_at_once() == 1  # before anything is set
    keras_stack.set_up(3, {threads}, samples={samples})
    assert tf.config.threading.get_intra_op_parallelism_threads() == {within}
    assert tf.config.threading.get_inter_op_parallelism_threads() == {threads}
    assert keras_stack.samples_at_once() == {at_once}
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_threads_below_one_are_refused():
    with pytest.raises(ValueError, match="threads is 0"):
        keras_stack.set_up(1, threads=0)

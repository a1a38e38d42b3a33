import numpy as np
import pytest
import tensorflow as tf

from c2fnas import adam, keras_stack


def _variables():
    make = tf.keras.Variable if keras_stack.IS_KERAS_3 else tf.Variable
    return {
        "a/kernel": make(np.array([1.0, -2.0], np.float32), name="x"),
        "b/bias": make(np.array([0.5], np.float32), name="y"),
    }


def _apply(optimizer, variables, gradients):
    adam.apply_summed_gradients(
        optimizer, [tf.constant(g, tf.float32) for g in gradients], list(variables.values()), 1
    )


GRADIENTS = [([0.3, -0.1], [2.0]), ([-0.2, 0.4], [1.0]), ([0.1, 0.1], [-3.0])]


def test_adam_agrees_with_the_formula():
    variables = _variables()
    optimizer = adam.optimizer(0.01, variables)
    expected = {name: np.asarray(v.numpy(), np.float64) for name, v in variables.items()}
    m, v = ({name: np.zeros_like(array) for name, array in expected.items()} for _ in range(2))
    for step, gradients in enumerate(GRADIENTS, start=1):
        _apply(optimizer, variables, gradients)
        for name, gradient in zip(expected, map(np.array, gradients), strict=True):
            m[name] = 0.9 * m[name] + 0.1 * gradient
            v[name] = 0.999 * v[name] + 0.001 * gradient**2
            rate = 0.01 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            expected[name] = expected[name] - rate * m[name] / (np.sqrt(v[name]) + 1e-7)
    state = adam.state(optimizer, variables)
    assert state["iterations"] == 3
    for name in expected:
        np.testing.assert_allclose(variables[name].numpy(), expected[name], rtol=1e-5)
        np.testing.assert_allclose(state[f"{name}/m"], m[name], rtol=1e-5)
        np.testing.assert_allclose(
            state[f"{name}/v"], v[name], rtol=2e-5
        )  # 1 - 0.999 in float32 is off by 1.3e-5


def test_a_restored_optimizer_continues_bit_for_bit():
    variables = _variables()
    optimizer = adam.optimizer(0.01, variables)
    _apply(optimizer, variables, GRADIENTS[0])
    state, weights = (
        adam.state(optimizer, variables),
        [v.numpy() for v in variables.values()],
    )
    _apply(optimizer, variables, GRADIENTS[1])

    others = _variables()
    other = adam.optimizer(0.01, others)
    adam.assign_state(other, others, state)
    for variable, array in zip(others.values(), weights, strict=True):
        variable.assign(array)
    _apply(other, others, GRADIENTS[1])
    for one, two in zip(variables.values(), others.values(), strict=True):
        np.testing.assert_array_equal(one.numpy(), two.numpy())


def test_a_state_of_another_network_is_refused():
    variables = _variables()
    optimizer = adam.optimizer(0.01, variables)
    state = adam.state(optimizer, variables)
    state["a/kernel/m"] = np.zeros(3, np.float32)
    state["c/kernel/m"] = state.pop("b/bias/v")
    with pytest.raises(
        ValueError,
        match=r"missing b/bias/v; unexpected c/kernel/m; other shapes: "
        r"a/kernel/m is \(3,\), expected \(2,\)",
    ):
        adam.assign_state(optimizer, variables, state)


def test_learning_rate_can_be_set():
    variables = _variables()
    optimizer = adam.optimizer(0.01, variables)
    optimizer.learning_rate.assign(0.5)
    _apply(optimizer, variables, GRADIENTS[0])
    np.testing.assert_allclose(
        variables["b/bias"].numpy(), [0.0], atol=1e-5
    )  # the first step of Adam has the size of the rate


def test_shares_scale_the_learning_rate_of_single_variables():
    variables = _variables()
    before = {name: variable.numpy() for name, variable in variables.items()}
    gradients = [tf.constant(gradient, tf.float32) for gradient in GRADIENTS[0]]
    adam.apply_summed_gradients(
        adam.optimizer(0.5, variables), gradients, list(variables.values()), 1, shares=[1.0, 0.1]
    )
    # the first step of Adam is the rate times the sign of the gradient
    moved = [variables[name].numpy() - before[name] for name in variables]
    np.testing.assert_allclose(moved[0], [-0.5, 0.5], rtol=1e-4)
    np.testing.assert_allclose(moved[1], [-0.05], rtol=1e-4)


def test_shares_need_adam():
    with pytest.raises(ValueError, match="SGD cannot give some weights another learning rate"):
        adam.apply_summed_gradients(tf.keras.optimizers.SGD(0.1), [], [], 1, shares=[])


def test_alternatives_move_by_their_own_steps_alone():
    """Each group's weights are those of an Adam that took only the group's steps."""
    make = tf.keras.Variable if keras_stack.IS_KERAS_3 else tf.Variable
    variables = {name: make(np.array([1.0, -2.0], np.float32), name=name[0]) for name in "abc"}
    optimizer = adam.optimizer(0.01, variables)
    choice, counts = tf.Variable(0, dtype=tf.int64), tf.Variable([0, 0], dtype=tf.int64)
    groups = adam.Alternatives(
        (frozenset("b"), frozenset("c")), lambda: tf.convert_to_tensor(choice), counts
    )

    @tf.function(autograph=False)
    def step(gradient):
        adam.apply_summed_gradients(
            optimizer,
            [gradient] * 3,
            list(variables.values()),
            1,
            alternatives=[(groups, [[1], [2]])],
        )

    taken = {"a": [], "b": [], "c": []}
    rng = np.random.default_rng(0)
    for number in (0, 1, 1, 0, 1):
        gradient = rng.normal(size=2)
        choice.assign(number)
        step(tf.constant(gradient, tf.float32))
        taken["a"].append(gradient)
        taken["bc"[number]].append(gradient)
    for name, gradients in taken.items():
        expected, m, v = np.array([1.0, -2.0]), 0.0, 0.0
        for count, gradient in enumerate(gradients, start=1):
            m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            rate = 0.01 * np.sqrt(1 - 0.999**count) / (1 - 0.9**count)
            expected = expected - rate * m / (np.sqrt(v) + 1e-7)
        np.testing.assert_allclose(variables[name].numpy(), expected, rtol=1e-5, err_msg=name)
    assert counts.numpy().tolist() == [2, 3]
    assert step.experimental_get_tracing_count() == 1


def test_alternatives_need_adam():
    sgd = tf.keras.optimizers.SGD()
    with pytest.raises(ValueError, match="SGD cannot leave out the weights of other paths"):
        adam.apply_summed_gradients(sgd, [], [], 1, alternatives=[(None, [])])

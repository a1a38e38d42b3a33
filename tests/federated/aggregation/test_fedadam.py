import numpy as np

from federated.aggregation.fedadam import FedAdam
from federated.aggregation.rule import Slab


def reference(memory, model, updates, examples, *, beta_1, beta_2, tau, learning_rate):
    gradient = model - np.average(updates, axis=0, weights=examples)
    memory["m"] = beta_1 * memory.get("m", 0.0) + (1 - beta_1) * gradient
    memory["v"] = beta_2 * memory.get("v", tau**2) + (1 - beta_2) * np.square(gradient)
    return model - learning_rate * memory["m"] / (np.sqrt(memory["v"]) + tau)


def test_two_rounds_by_hand():
    rule = FedAdam(beta_1=0.5, beta_2=0.75, tau=2.0, learning_rate=8.0)
    model = np.float32([1.0])
    assert rule.init(()) == {"first_moment": 0.0, "second_moment": 4.0}
    state = {"first_moment": np.zeros(1), "second_moment": np.full(1, 4.0)}
    updates = [np.float32([4.0]), np.float32([8.0])]
    result = rule.aggregate(Slab(updates, [3, 1], model, state))
    # mean 5, change 4; first moment 4/2 = 2; second moment 0.75*4 + 0.25*16 = 7
    assert result.state == {"first_moment": 2.0, "second_moment": 7.0}
    np.testing.assert_allclose(result.model, 1 + 8 * 2 / (7**0.5 + 2), rtol=1e-15)
    # The next round begins from a model that was moved to 3; change -2.
    result = rule.aggregate(Slab([np.float32([1.0])], [9], np.float32([3.0]), result.state))
    # first moment 0.5*2 - 0.5*2 = 0; second moment 0.75*7 + 0.25*4 = 6.25; no step at all
    assert result.state == {"first_moment": 0.0, "second_moment": 6.25}
    assert result.model == 3.0


def steps(rule, change, rounds):
    """Returns how far a value moves in each of several rounds if every site changes it alike."""
    model = np.zeros(1)
    state, found = {name: np.full(1, value) for name, value in rule.init(()).items()}, []
    for _ in range(rounds):
        result = rule.aggregate(Slab([model + change], [1], model, state))
        found.append(float(result.model[0] - model[0]))
        model, state = result.model, result.state
    return found


def test_steps_far_above_tau_approach_the_learning_rate_whatever_the_size_of_the_change():
    rule = FedAdam(beta_2=0.9, learning_rate=0.25)
    for change in (10.0, -1000.0):
        assert np.isclose(steps(rule, change, 300)[-1], np.copysign(0.25, change), rtol=1e-3)


def test_steps_far_below_tau_are_the_change_times_learning_rate_over_two_tau_in_the_first_rounds():
    # The second moment is still about tau ** 2, so the denominator is tau + tau.
    rule = FedAdam(beta_1=0.0, beta_2=0.99, tau=1.0, learning_rate=0.5)
    assert np.isclose(steps(rule, 1e-4, 1)[0], 1e-4 * 0.5 / 2, rtol=0.01)

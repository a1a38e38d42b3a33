import numpy as np

from federated.aggregation.fedavgm import FedAvgM
from federated.aggregation.rule import Slab


def reference(memory, model, updates, examples, *, momentum, learning_rate):
    gradient = model - np.average(updates, axis=0, weights=examples)
    memory["velocity"] = momentum * memory.get("velocity", 0.0) + gradient
    return model - learning_rate * memory["velocity"]


def rounds(rule, model, updates_of_rounds, num_examples):
    """Returns the models of one slab over rounds."""
    models, state = [], {"velocity": np.zeros(model.shape)}
    for updates in updates_of_rounds:
        result = rule.aggregate(Slab(updates, num_examples, model, state))
        model, state = result.model.astype(np.float32), result.state
        models.append(model)
    return models


def test_two_rounds_by_hand():
    rule = FedAvgM(momentum=0.5, learning_rate=2.0)
    first, second = rounds(
        rule,
        np.float32([8.0]),
        [[np.float32([4.0]), np.float32([8.0])], [np.float32([1.0]), np.float32([1.0])]],
        [3, 1],
    )
    assert first == 2.0  # mean (3*4 + 8)/4 = 5, velocity 8 - 5 = 3, model 8 - 2*3 = 2
    assert second == -3.0  # mean 1, velocity 0.5*3 + (2 - 1) = 2.5, model 2 - 2*2.5 = -3


def test_without_momentum_and_at_rate_one_it_is_the_mean():
    rng = np.random.default_rng(1)
    updates = [[rng.normal(size=99).astype("f4") for _ in range(3)] for _ in range(4)]
    models = rounds(FedAvgM(momentum=0.0), rng.normal(size=99).astype("f4"), updates, [5, 1, 30])
    for model, stacked in zip(models, updates, strict=True):
        expected = np.average(np.stack(stacked).astype("f8"), axis=0, weights=[5, 1, 30])
        np.testing.assert_allclose(model, expected, rtol=2**-23, atol=1e-15)


def test_sites_that_pull_in_one_direction_give_steps_that_grow_to_one_over_one_minus_momentum():
    rule, model = FedAvgM(momentum=0.75), np.zeros(1, np.float32)
    state, steps = {"velocity": np.zeros(1)}, []
    for _ in range(60):  # every site moves the model it received by 1
        result = rule.aggregate(Slab([model + np.float32(1)], [1], model, state))
        steps.append(float(result.model[0] - model[0]))
        model, state = result.model.astype(np.float32), result.state
    assert steps[:3] == [1.0, 1.75, 2.3125]
    np.testing.assert_allclose(steps[-1], 4.0, rtol=1e-5)

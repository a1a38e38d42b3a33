"""Prints as JSON a step of one global batch on 1, 2 and 4 CPU devices, and the parts of a step.

It is a program of its own because logical devices must be made before TensorFlow computes anything.
"""

from __future__ import annotations

import json
import tempfile
from typing import Any
from unittest import mock

import numpy as np
import tensorflow as tf

from c2fnas import adam, checkpoints, gpus, keras_stack, training, variable_values
from c2fnas.losses import LossConfig
from c2fnas.proximal import ProximalTerm
from experiments.models import strategies
from tests.c2fnas import tiny


def over(replicas: int) -> tf.distribute.Strategy:
    return strategies.mirrored([f"CPU:{index}" for index in range(replicas)])


def adam_steps(replicas: int) -> dict[str, list[float]]:
    """Returns weights, moments and count after three steps of Adam with given gradients."""
    strategy = over(replicas)
    with strategy.scope():
        make = tf.keras.Variable if keras_stack.IS_KERAS_3 else tf.Variable
        variables = {
            "w": make(np.array([1.0, -2.0], np.float32), name="w"),
            "b": make(np.array([0.5], np.float32), name="b"),
        }
        optimizer = adam.optimizer(0.01, variables)

    @tf.function
    def step(gradients):
        strategy.run(
            lambda: adam.apply_summed_gradients(
                optimizer, gradients, list(variables.values()), replicas
            )
        )

    for scale in (1.0, -0.5, 3.0):
        step([tf.constant([0.3, -0.1]) * scale, tf.constant([2.0]) * scale])
    state = {
        **{name: v.numpy() for name, v in variables.items()},
        **adam.state(optimizer, variables),
    }
    # Once more through assignments, which must reach the copies of all devices.
    weights = variable_values.read(variables.values())
    variable_values.assign(list(variables.values()), [np.zeros_like(value) for value in weights])
    variable_values.assign(list(variables.values()), weights)
    on_devices = [
        part.numpy()
        for part in strategy.experimental_local_results(keras_stack.tf_variable(variables["w"]))
    ]
    state["devices"] = np.ptp(np.stack(on_devices), axis=0)  # how far the devices' copies lie apart
    return {name: np.asarray(array, np.float64).ravel().tolist() for name, array in state.items()}


def third_step() -> dict[str, dict[str, Any]]:
    """Returns the third step of 1, 2 and 4 devices that start it from one checkpoint.

    Two devices take two steps of Adam and write the checkpoint. Four take the graph of a GPU, whose
    weights are one vector.

    Returns:
      For each number of devices: `parts`, the values of the step; and how far they are from two
      devices, `state` in what they read, `weights` after the step, and `gradients` relative to the
      largest of each weight.
    """

    def trainer(replicas: int) -> training.Trainer:
        strategy = over(replicas)
        with strategy.scope():
            network = tiny.build(tiny.SHALLOW)
        # A strong KL part, so that noise that depends on the replica would show.
        return training.Trainer(network, tiny.config(loss=LossConfig(kl=500.0)), strategy)

    def step(one: training.Trainer) -> dict[str, float]:
        parts: list[dict[str, float]] = []
        one.train(tiny.datasets, 3, on_step=lambda _, values: parts.append(dict(values)))
        (found,) = parts
        return {
            n: v for n, v in found.items() if n not in ("patches_per_second", "data_wait_share")
        }

    def gradients(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> dict[str, Any]:
        names = [name for name in before if name.startswith("optimizer/") and name.endswith("/m")]
        return {name: (after[name] - 0.9 * before[name]) / 0.1 for name in names}

    with tempfile.TemporaryDirectory() as folder:
        first = trainer(2)
        first.train(tiny.datasets, 2)
        checkpoints.save(folder, first, {"round": 7})
        state = first.state()
        found: dict[str, dict[str, Any]] = {"2": {"parts": step(first)}}
        own, weights = gradients(state, first.state()), first.weights()
        for replicas in (1, 4):
            with mock.patch.object(gpus, "is_used", lambda count=replicas: count == 4):
                other = trainer(replicas)
                assert isinstance(other._optimizer, adam.VectorAdam) == (replicas == 4)
                assert checkpoints.load(folder, other) == {"round": 7} and other.step == 2
                read = other.state()
                assert read.keys() == state.keys()
                parts = step(other)
            others = gradients(state, other.state())
            found[str(replicas)] = {
                "parts": parts,
                "state": max(float(np.abs(read[name] - state[name]).max()) for name in state),
                "weights": max(
                    float(np.abs(array - weights[name]).max())
                    for name, array in other.weights().items()
                ),
                "gradients": max(
                    float(np.abs(array - own[name]).max() / max(np.abs(own[name]).max(), 1e-3))
                    for name, array in others.items()
                ),
            }
    return found


def sgd_step(replicas: int) -> list[float]:
    """Returns a weight after a step of another optimizer than Adam, on every device."""
    strategy = over(replicas)
    with strategy.scope():
        make = tf.keras.Variable if keras_stack.IS_KERAS_3 else tf.Variable
        weights = make(np.array([1.0, -2.0], np.float32), name="w")
        optimizer = tf.keras.optimizers.SGD(0.5)
        optimizer.build([weights])

    @tf.function
    def step(gradient):
        strategy.run(
            lambda: adam.apply_summed_gradients(optimizer, [gradient], [weights], replicas)
        )

    step(tf.constant([2.0, 4.0]))
    on_devices = strategy.experimental_local_results(keras_stack.tf_variable(weights))
    return np.concatenate([part.numpy() for part in on_devices]).tolist()


def proximal_term(replicas: int) -> list[float]:
    """Returns the value of a proximal term and the gradient with it, on every device."""
    strategy = over(replicas)
    with strategy.scope():
        make = tf.keras.Variable if keras_stack.IS_KERAS_3 else tf.Variable
        weights = make(np.array([1.0, -2.0], np.float32), name="w")
        term = ProximalTerm(0.5, {"w": weights}, replicas)
    term.assign({"w": np.array([0.0, 2.0], np.float32)})

    @tf.function
    def step(gradient):
        return strategy.run(lambda: term.added(["w"], [gradient]))

    value, (gradient,) = step(tf.constant([10.0, 20.0]))
    total = strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None)
    on_devices = [part.numpy() for part in strategy.experimental_local_results(gradient)]
    return [float(total), *np.concatenate(on_devices).tolist()]


def main() -> None:
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration() for _ in range(4)],
    )
    result: dict[str, Any] = {"steps": third_step()}
    for replicas in (1, 2, 4):
        result[str(replicas)] = {
            "adam": adam_steps(replicas),
            "proximal": proximal_term(replicas),
            "sgd": sgd_step(replicas),
        }
    try:
        # must be refused before a weight is copied to three devices
        training.Trainer(
            tiny.build(tiny.SHALLOW),
            tiny.config(),
            over(3),
            optimizer=tf.keras.optimizers.SGD(0.0),
        )
    except ValueError as error:
        result["refused"] = str(error)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

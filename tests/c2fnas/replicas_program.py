"""Prints as JSON the results of three SGD steps of one global batch on 1, 2 and 4 CPU devices.

It is a program of its own because logical devices must be made before TensorFlow computes anything.
"""

from __future__ import annotations

import json
import tempfile
from typing import Any

import numpy as np
import tensorflow as tf

from c2fnas import adam, checkpoints, keras_stack, training
from c2fnas.losses import LossConfig
from c2fnas.proximal import ProximalTerm
from experiments.models import devices
from tests.c2fnas import tiny

STEPS = 3


def over(replicas: int) -> tf.distribute.Strategy:
    return devices.mirrored([f"CPU:{index}" for index in range(replicas)])


def run(replicas: int) -> tuple[list[dict[str, float]], dict[str, np.ndarray]]:
    strategy = over(replicas)
    with strategy.scope():
        network = tiny.build(tiny.SHALLOW)
        optimizer = tf.keras.optimizers.SGD(0.0)
        optimizer.build(list(network.variables.values()))
    # A strong KL part, so that noise that depends on the replica would show.
    trainer = training.Trainer(
        network, tiny.config(loss=LossConfig(kl=500.0)), strategy, optimizer=optimizer
    )
    parts = []
    trainer.train(tiny.datasets, STEPS, on_step=lambda step, values: parts.append(dict(values)))
    for values in parts:
        values.pop("patches_per_second")
        values.pop("data_wait_share")
    return parts, trainer.weights()


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
    on_devices = [
        part.numpy()
        for part in strategy.experimental_local_results(keras_stack.tf_variable(variables["w"]))
    ]
    state["devices"] = np.ptp(np.stack(on_devices), axis=0)  # how far the devices' copies lie apart
    return {name: np.asarray(array, np.float64).ravel().tolist() for name, array in state.items()}


def resumed() -> dict[str, dict[str, float]]:
    """Returns, for 1 and 4 devices, how far they are from 2 that took all steps.

    Two devices take two steps of Adam and write a checkpoint; 1 and 4 devices go on from it. `state` is the difference of what they read, `weights` that after the third step.
    """

    def trainer(replicas: int) -> training.Trainer:
        strategy = over(replicas)
        with strategy.scope():
            network = tiny.build(tiny.SHALLOW, vae=None)
        return training.Trainer(network, tiny.config(), strategy)

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        first = trainer(2)
        first.train(tiny.datasets, 2)
        checkpoints.save(folder, first, {"round": 7})
        state = first.state()
        first.train(tiny.datasets, 3)
        for replicas in (1, 4):
            other = trainer(replicas)
            assert checkpoints.load(folder, other) == {"round": 7} and other.step == 2
            read = other.state()
            assert read.keys() == state.keys()
            other.train(tiny.datasets, 3)
            found[str(replicas)] = {
                "state": max(float(np.abs(read[name] - state[name]).max()) for name in state),
                "weights": max(
                    float(np.abs(array - first.weights()[name]).max())
                    for name, array in other.weights().items()
                ),
            }
    return found


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
    result: dict[str, Any] = {"resumed": resumed()}
    reference: dict[str, np.ndarray] = {}
    for replicas in (1, 2, 4):
        parts, weights = run(replicas)
        reference = reference or weights
        # Relative to the largest weight of each array, because weights near 0 differ by rounding.
        difference = max(
            np.abs(weights[name] - reference[name]).max() / max(np.abs(reference[name]).max(), 1e-3)
            for name in weights
        )
        result[str(replicas)] = {
            "parts": parts,
            "difference": float(difference),
            "adam": adam_steps(replicas),
            "proximal": proximal_term(replicas),
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

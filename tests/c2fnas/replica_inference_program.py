"""Prints as JSON how far windows shared over replicas are from those of one device.

It is a program of its own because logical devices must be made before TensorFlow computes anything.
"""

import json
import types

import numpy as np
import tensorflow as tf

from c2fnas import inference, sliding_window
from tests.c2fnas import tiny


def build():
    weights = np.random.default_rng(2).normal(size=(3, 3, 3, 1, 3)).astype(np.float32)
    layer = tf.keras.layers.Conv3D(
        3,
        3,
        padding="same",
        use_bias=False,
        kernel_initializer=lambda shape, dtype=None: tf.constant(weights),
    )
    segmenter = tf.keras.Sequential([tf.keras.Input((None, None, None, 1)), layer])
    return types.SimpleNamespace(genotype=tiny.GENOTYPE, segmenter=segmenter)


def window(batch):
    return sliding_window.WindowConfig((8, 8, 8), 0.5, "gaussian", batch)


def main():
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
    )
    image = np.random.default_rng(1).uniform(-1, 1, (24, 20, 12)).astype(np.float32)
    one = sliding_window.predict_logits(image, inference.logits_fn(build()), window(1))
    result = {"largest": float(np.abs(one).max())}
    for replicas, batch in ((2, 2), (4, 8)):
        strategy = tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(replicas)])
        with strategy.scope():
            network = build()
        logits_fn = inference.logits_fn(network, strategy)
        shared = sliding_window.predict_logits(image, logits_fn, window(batch))
        result[str(replicas)] = float(np.abs(shared - one).max())
    try:
        logits_fn(np.zeros((6, 8, 8, 8, 1), np.float32))
    except ValueError as error:
        result["error"] = str(error)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

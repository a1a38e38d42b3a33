"""Windows shared over replicas.

This runs in a separate process because logical devices must be created before TensorFlow starts.
"""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = """
import json
import types

import numpy as np
import tensorflow as tf

tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)
from c2fnas import inference, sliding_window
from tests.c2fnas import tiny


def build():
    weights = np.random.default_rng(2).normal(size=(3, 3, 3, 1, 3)).astype(np.float32)
    start = lambda shape, dtype=None: tf.constant(weights)
    layer = tf.keras.layers.Conv3D(
        3, 3, padding="same", use_bias=False, kernel_initializer=start
    )
    segmenter = tf.keras.Sequential([tf.keras.Input((None, None, None, 1)), layer])
    return types.SimpleNamespace(genotype=tiny.GENOTYPE, segmenter=segmenter)


image = np.random.default_rng(1).uniform(-1, 1, (24, 20, 12)).astype(np.float32)
window = lambda batch: sliding_window.WindowConfig((8, 8, 8), 0.5, "gaussian", batch)
one = sliding_window.predict_logits(image, inference.logits_fn(build()), window(1))
result = {"largest": float(np.abs(one).max())}
for replicas, batch in ((2, 2), (4, 8)):
    strategy = tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(replicas)])
    with strategy.scope():
        network = build()
    logits_fn = inference.logits_fn(network, strategy)
    shared = sliding_window.predict_logits(image, logits_fn, window(batch))
    result[replicas] = float(np.abs(shared - one).max())
try:
    logits_fn(np.zeros((6, 8, 8, 8, 1), np.float32))
except ValueError as error:
    result["error"] = str(error)
print(json.dumps(result))
"""


def test_windows_shared_over_replicas_give_the_logits_of_one_device():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["largest"] > 1
    assert result["2"] < 1e-5 and result["4"] < 1e-5
    assert result["error"].startswith("6 windows for 4 replicas")

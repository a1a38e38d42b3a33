"""Tests that need a GPU: its kernels for norms, the same bits twice, a limit on its memory."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from c2fnas import gpus
from c2fnas.normalisation import instance_normalise
from tests.c2fnas import reference, tiny

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_the_norm_of_all_samples_is_that_of_the_definition(samples):
    rng = np.random.default_rng(3)
    voxels = rng.normal(2.0, 3.0, (samples, 8, 6, 4, 3)).astype(np.float32)
    gamma, beta = rng.uniform(0.5, 2, 3).astype(np.float32), rng.normal(size=3).astype(np.float32)
    assert gpus.is_used()
    found = instance_normalise(tf.constant(voxels), gamma, beta, epsilon=1e-5)
    for sample in range(samples):
        expected = reference.normalise(voxels[sample], gamma, beta)
        np.testing.assert_allclose(found[sample], expected, atol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_two_trainings_give_the_same_bits(precision):
    tiny.make_deterministic()
    ends = []
    for _ in range(2):
        strategy = tf.distribute.MirroredStrategy(["GPU:0"])
        from c2fnas import training

        with strategy.scope():
            built = tiny.build(precision=precision)
        trainer = training.Trainer(built, tiny.config(), strategy)
        trainer.train(tiny.datasets, 3)
        ends.append(trainer.weights())
    for name, array in ends[0].items():
        np.testing.assert_array_equal(array, ends[1][name], err_msg=name)


def test_a_step_beyond_the_limit_of_memory_is_one_clear_error():
    code = """
    import numpy as np
    import tensorflow as tf
    from c2fnas import genotype, gpus, network, training
    from tests.c2fnas import tiny

    gpus.set_up(1024)
    genes = genotype.load("c2fnas").with_size(filters=8)
    built = network.build(genes, patch_size=(96, 96, 96), vae=None)
    trainer = training.Trainer(built, tiny.config(batch_size=8), tf.distribute.get_strategy())
    batch = {
        "image": np.zeros((8, 96, 96, 96, 1), np.float16),
        "label": np.zeros((8, 96, 96, 96), np.uint8),
        "sample_seed": np.zeros((8, 2), np.int32),
    }
    try:
        trainer.train(lambda first, last: tf.data.Dataset.from_tensors(batch), 1)
    except ValueError as error:
        print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "no memory is left on the device for 8 patches of 96 x 96 x 96" in done.stdout
    assert "gpu_memory_mib allows 1.0 GiB" in done.stdout and "fits" in done.stdout

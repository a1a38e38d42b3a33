"""A GPU without free memory, simulated by a stand-in that raises its errors."""

import types

import numpy as np
import pytest
import tensorflow as tf

from c2fnas import exhausted_memory, gpu_memory, gpus, inference
from c2fnas.exhausted_memory import OutOfDeviceMemory, is_about_memory
from tests.c2fnas import tiny

GIB = 2**30


def exhausted(*arguments, **named):
    raise tf.errors.ResourceExhaustedError(
        None, None, "OOM when allocating tensor with shape[2,8,16,16,8] by allocator GPU_0_bfc"
    )


@pytest.fixture
def limited(monkeypatch):
    """Makes the process believe that it computes on a GPU with this many bytes."""

    def limit(available, by_flag=True):
        monkeypatch.setattr(gpus, "is_used", lambda: True)
        monkeypatch.setattr(
            gpus, "memory_limit_mib", lambda: available // 2**20 if by_flag else None
        )
        monkeypatch.setattr(
            exhausted_memory.tf.config.experimental,
            "get_memory_info",
            lambda device: {"peak": available},
        )

    return limit


def test_a_step_without_memory_names_batch_and_patch_and_keeps_the_weights(monkeypatch):
    trainer = tiny.trainer(tiny.SHALLOW)
    before = trainer.weights()
    monkeypatch.setattr(trainer._train_step, "gradients", exhausted)
    with pytest.raises(OutOfDeviceMemory) as error:
        trainer.train(tiny.datasets, 1)
    words = str(error.value)
    assert words.startswith(
        "step 0: no memory is left on the device for 4 patches of 16 x 16 x 8 voxels "
        "(batch_size 4 over 1 device); it needs about 0.0 GiB. "
    )
    assert "\n" not in words and "GPU" not in words and "smaller batch_size" in words
    assert isinstance(error.value.__cause__, tf.errors.ResourceExhaustedError)
    assert trainer.step == 0
    for name, array in trainer.weights().items():
        np.testing.assert_array_equal(array, before[name])


def test_the_batch_that_would_fit_is_named_and_does_by_the_estimate(limited):
    network = tiny.build(tiny.SHALLOW)
    three = int(1.25 * gpu_memory.training_step(network, 3).total)
    limited(-(-three // 2**20) * 2**20)
    room = exhausted_memory.available_bytes()
    assert three <= room
    words = exhausted_memory.training_message(network, 8000, 2, 7)
    fitting = gpu_memory.fitting_batch(network, 4000, room)
    assert f"By this estimate, batch_size {2 * fitting} fits." in words
    assert "gpu_memory_mib allows" in words and "over 2 devices" in words
    assert 1.25 * gpu_memory.training_step(network, fitting).total <= room
    assert 1.25 * gpu_memory.training_step(network, fitting + 1).total > room
    # What failed is never proposed again, however much the estimate leaves.
    assert gpu_memory.fitting_batch(network, 2, 1e15) == 1
    assert gpu_memory.fitting_batch(network, 1, 1e15) == 0


def test_the_patch_that_would_fit_is_named_where_no_batch_does(limited):
    network = tiny.build(patch_size=(96, 96, 48), vae=None)
    one = gpu_memory.training_step(network, 1)
    limited(int(1.25 * (one.weights + one.activations / 7.9)), by_flag=False)
    words = exhausted_memory.training_message(network, 1, 1, 0)
    smaller = gpu_memory.fitting_patch(network, exhausted_memory.available_bytes())
    assert smaller is not None and all(n % network.genotype.size_multiple == 0 for n in smaller)
    x, y, z = smaller
    assert x == y and 0 < x * y * z <= 96 * 96 * 48 / 7.9 < 1.6 * x * y * z
    assert f"batch_size 1 with patch_size {x},{y},{z} fits" in words
    assert "this program had 0.0 GiB" in words and "mixed_float16" in words
    limited(0, by_flag=False)
    words = exhausted_memory.training_message(network, 1, 1, 0)
    assert "no smaller batch or patch fits" in words


def test_windows_without_memory_name_their_size_and_one_that_would_fit(limited, monkeypatch):
    network = tiny.build(tiny.SHALLOW, vae=None)
    broken = types.SimpleNamespace(**{**vars(network), "segmenter": exhausted})
    image = np.zeros((2, 64, 64, 32, 1), np.float32)
    with pytest.raises(OutOfDeviceMemory, match=r"2 windows of 64 x 64 x 32 voxels; they need"):
        inference.logits_fn(broken)(image)
    needed = gpu_memory.window(network, image.shape[1:4])
    limited(int(1.25 * needed / 2), by_flag=False)
    words = exhausted_memory.window_message(network, image.shape, 2)
    assert "for 1 window of 64 x 64 x 32" in words
    x, y, z = gpu_memory.fitting_window(network, (64, 64, 32), exhausted_memory.available_bytes())
    assert f"a window of {x},{y},{z} fits" in words and "--inference_window" in words
    assert x * y * z <= 64 * 64 * 32 / 2


@pytest.mark.parametrize(
    ("kind", "words", "about"),
    [
        (tf.errors.UnknownError, "Failed to get convolution algorithm. This is probably because "
         "cuDNN failed to initialize, so try looking to see if a warning log message", True),
        (tf.errors.InternalError, "DNN library initialization failed. Look at the errors above",
         True),
        (tf.errors.FailedPreconditionError, "DNN library initialization failed.", True),
        (tf.errors.UnimplementedError, "DNN library is not found.", True),
        (tf.errors.InternalError, "CUDA runtime implicit initialization on GPU:0 failed. Status: "
         "out of memory", True),
        (tf.errors.InternalError, "Failed to create cublas handle: CUBLAS_STATUS_ALLOC_FAILED",
         True),
        (tf.errors.ResourceExhaustedError, "anything", True),
        (tf.errors.InternalError, "ptxas exited with non-zero error code", False),
        (tf.errors.InvalidArgumentError, "cuDNN failed to initialize", False),
        (tf.errors.UnimplementedError, "The Conv3D op only supports NDHWC", False),
    ],
)  # fmt: skip
def test_the_libraries_say_it_in_several_ways(kind, words, about):
    error = kind(None, None, words)
    assert is_about_memory(error) is about
    expected = OutOfDeviceMemory if about else kind
    with pytest.raises(expected), exhausted_memory.explained(lambda: "too much"):
        raise error


def test_other_errors_pass():
    with pytest.raises(KeyError), exhausted_memory.explained(lambda: "too much"):
        raise KeyError("a")

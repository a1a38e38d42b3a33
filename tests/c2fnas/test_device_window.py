"""The window of a GPU, computed on the processor, beside the one of the processor."""

import types

import numpy as np
import pytest
import tensorflow as tf

from c2fnas import device_window, gpu_memory, gpus, inference, sliding_window
from c2fnas.device_window import DeviceNetwork, WindowPlan, plan
from c2fnas.exhausted_memory import OutOfDeviceMemory
from c2fnas.sliding_window import WindowConfig
from tests.c2fnas import tiny

ANY_SIZE = types.SimpleNamespace(
    genotype=types.SimpleNamespace(check_size=lambda size: None, size_multiple=1), trainer=None
)


def position_dependent(patches):
    """Returns logits that depend on a voxel's place in its window, so that blending shows."""
    x, y, z = (np.reshape(np.arange(n, dtype=np.float32), shape) for n, shape in zip(
        patches.shape[1:4], ((-1, 1, 1), (1, -1, 1), (1, 1, -1)), strict=True,
    ))  # fmt: skip
    voxels = patches[..., 0]
    return tf.stack([voxels * (1 + x) + y, z - voxels, voxels * voxels * 5 + 0 * x], axis=-1)


def by_host(patches):
    return position_dependent(patches).numpy()


def by_device(monkeypatch, windows, forward=position_dependent):
    monkeypatch.setattr(
        device_window, "plan_of", lambda network, place, free: WindowPlan(windows, place.size[0])
    )
    return DeviceNetwork(ANY_SIZE, forward)


@pytest.mark.parametrize("blending", ["constant", "gaussian"])
@pytest.mark.parametrize(
    ("shape", "size", "overlap", "windows"),
    [
        ((13, 9, 11), (6, 4, 5), 0.5, 4),
        ((20, 5, 6), (4, 5, 6), 0.7, 1),
        ((3, 12, 9), (8, 6, 5), 0.25, 3),  # smaller than the window along x
        ((17, 4, 2), (8, 6, 5), 0.5, 2),
        ((9, 9, 9), (3, 3, 3), 0.0, 4),
    ],
)
def test_logits_are_those_of_the_host(shape, size, overlap, windows, blending, monkeypatch):
    image = np.random.default_rng(5).uniform(-1, 1, shape).astype(np.float16)
    config = WindowConfig(size, overlap, blending)
    expected = sliding_window.predict_logits(image, by_host, config)
    network = by_device(monkeypatch, windows)
    found = sliding_window.predict_logits(image, network, config)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)  # the last bits
    probabilities = sliding_window.predict_probabilities(image, network, config)
    np.testing.assert_allclose(probabilities.sum(-1), 1.0, atol=1e-6)


def test_a_mask_is_that_of_the_host_and_an_observer_sees_it_with_its_logits(monkeypatch):
    image = np.random.default_rng(1).uniform(-1, 1, (14, 9, 7)).astype(np.float32)
    config, seen = WindowConfig((6, 5, 4), 0.5, "gaussian"), []
    mask = inference.segment(
        image,
        by_device(monkeypatch, 2),
        config,
        observe=lambda part, logits: seen.append((part.copy(), logits.copy())),
    )
    assert mask.dtype == np.uint8 and len(np.unique(mask)) == 3
    np.testing.assert_array_equal(mask, inference.segment(image, by_host, config))
    np.testing.assert_array_equal(np.concatenate([part for part, _ in seen]), mask)
    expected = sliding_window.predict_logits(image, by_host, config)
    found = np.concatenate([logits for _, logits in seen])
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


def test_of_equal_logits_the_lower_class_wins():
    logits = np.array([[1, 1, 0], [0, 2, 2], [0, 0, 3], [-5, -5, -5]], np.float32)
    slab = device_window.DeviceSlab(tf.constant(logits.reshape(1, 2, 2, 3)))
    np.testing.assert_array_equal(slab.mask().ravel(), [0, 1, 2, 0])


def test_mirrored_views_are_averaged_on_the_device(monkeypatch):
    image = np.random.default_rng(2).uniform(-1, 1, (11, 8, 9)).astype(np.float32)
    config = WindowConfig((6, 5, 4), 0.5)
    expected = sliding_window.predict_logits(image, inference.with_flips(by_host, (2, 0)), config)
    flipped = inference.with_flips(by_device(monkeypatch, 3), (2, 0))
    assert isinstance(flipped, DeviceNetwork)
    found = sliding_window.predict_logits(image, flipped, config)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=5e-6)
    window = image[np.newaxis, :6, :5, :4, np.newaxis]
    views = inference.with_flips(by_host, (2, 0))(window)
    np.testing.assert_allclose(flipped(window), views, rtol=2e-6, atol=2e-6)


def test_a_network_on_a_gpu_blends_there_and_its_weights_are_the_current_ones(monkeypatch):
    network = tiny.build(tiny.SHALLOW, vae=None)
    config = WindowConfig(tiny.PATCH, 0.5, "gaussian", multiple=4)
    image = np.random.default_rng(3).uniform(-1, 1, (20, 24, 8)).astype(np.float32)
    by_processor = inference.logits_fn(network)
    monkeypatch.setattr(gpus, "is_used", lambda: True)
    monkeypatch.setattr(gpus, "free_bytes", lambda: 10**9)
    on_gpu = inference.logits_fn(network)
    bias = network.variables["end/classifier/bias"]
    for shift in (0.0, 1.0):
        bias.assign(np.array([shift, 0, 0], np.float32))
        expected = sliding_window.predict_logits(image, by_processor, config)
        found = sliding_window.predict_logits(image, on_gpu, config)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    with pytest.raises(ValueError, match="multiples of 2"):
        on_gpu(np.zeros((1, 15, 16, 8, 1), np.float32))


def test_windows_that_find_no_memory_are_tried_fewer_at_a_time(monkeypatch):
    calls = []

    def forward(patches):
        calls.append(patches.shape[0])
        if patches.shape[0] > limit:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
        return position_dependent(patches)

    monkeypatch.setattr(
        device_window.exhausted_memory, "window_message", lambda *arguments: "no memory"
    )
    image = np.random.default_rng(4).uniform(-1, 1, (8, 9, 8)).astype(np.float32)
    config, limit = WindowConfig((4, 4, 4), 0.25), 1
    found = sliding_window.predict_logits(image, by_device(monkeypatch, 4, forward), config)
    assert calls[:3] == [4, 2, 1] and set(calls[3:]) == {1}
    expected = sliding_window.predict_logits(image, by_host, config)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)
    limit = 0
    with pytest.raises(OutOfDeviceMemory, match="no memory"):
        sliding_window.predict_logits(image, by_device(monkeypatch, 2, forward), config)


def test_without_memory_for_the_sums_the_host_adds_up(monkeypatch):
    network = by_device(monkeypatch, 1)
    monkeypatch.setattr(device_window, "plan_of", lambda *arguments: WindowPlan(1, 0))
    image = np.random.default_rng(6).uniform(-1, 1, (8, 9, 8)).astype(np.float32)
    config = WindowConfig((4, 4, 4), 0.25)
    assert network.slabs(image, config) is None
    for function in (sliding_window.predict_logits, inference.segment):
        np.testing.assert_array_equal(
            function(image, network, config), function(image, by_host, config)
        )


def test_invalid_outputs_and_images_are_refused(monkeypatch):
    config, image = WindowConfig((4, 4, 4)), np.zeros((5, 5, 5), np.float32)
    with pytest.raises(ValueError, match="not finite"):
        inference.segment(image, by_device(monkeypatch, 2, lambda p: p * np.nan), config)
    with pytest.raises(ValueError, match=r"logits of shape \(2, 2, 4, 4, 1\)"):
        inference.segment(image, by_device(monkeypatch, 2, lambda p: p[:, :2]), config)
    with pytest.raises(ValueError, match="x, y and z"):
        inference.segment(image[0], by_device(monkeypatch, 2), config)


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        (
            100 + 8 * 10 + 4 * 50,
            WindowPlan(3, 8),
        ),  # four would fit; six windows take two calls anyway
        (100 + 8 * 10 + 3 * 50, WindowPlan(3, 8)),
        (100 + 8 * 10 + 3 * 50 - 1, WindowPlan(2, 8)),
        (100 + 8 * 10 + 50, WindowPlan(1, 8)),
        (100 + 8 * 10 + 49, WindowPlan(1, 0)),
        (0, WindowPlan(1, 0)),
        (10**12, WindowPlan(3, 8)),
    ],
)
def test_the_plan_by_hand(available, expected):
    settings = {"fixed": 100, "per_window": 50, "per_plane": 10, "thickness": 8, "spots": 6}
    assert plan(available, **settings) == expected
    assert plan(10**12, **{**settings, "spots": 4}) == WindowPlan(4, 8)
    assert plan(10**12, **{**settings, "spots": 1}) == WindowPlan(1, 8)


def test_the_plan_of_a_volume_counts_voxels_sums_and_windows(monkeypatch):
    network = tiny.build(tiny.SHALLOW, vae=None)
    place = sliding_window.placement((40, 30, 20), WindowConfig((16, 16, 8), 0.5))
    spots = len(place.along[1]) * len(place.along[2])
    assert spots == 3 * 4
    each = gpu_memory.window(network, place.size, 2) - gpu_memory.window(network, place.size, 1)
    needed = gpu_memory.window(network, place.size, 1) + 8 * 3 * 16 * 16 * 8
    needed += 16 * 30 * 20 * 4 * (1 + 2 * 3)  # a slab's voxels, and its sums twice
    for windows in (1, 2, 3, 4):
        room = needed + (windows - 1) * each
        assert device_window.plan_of(network, place, room) == WindowPlan(windows, 16)
    assert device_window.plan_of(network, place, needed - 8) == WindowPlan(1, 0)
    assert device_window.plan_of(network, place, None) == WindowPlan(1, 16)

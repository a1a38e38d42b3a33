import itertools
import tracemalloc

import numpy as np
import pytest

from c2fnas import sliding_window
from c2fnas.sliding_window import WindowConfig


def identity(patches):
    """Returns logits (v, -v, 2v) of each voxel."""
    return np.concatenate([patches, -patches, 2 * patches], axis=-1)


def position_dependent(patches):
    """Returns logits that depend on a voxel's place in its window, so that blending shows."""
    grid = np.indices(patches.shape[1:4]).astype(np.float32)
    first = patches[..., 0] * (1 + grid[0]) + grid[1]
    return np.stack([first, grid[2] - patches[..., 0]], axis=-1)


def brute_force(image, logits_fn, config):
    """Blends window by window in three nested loops.

    Weights are a full 3D array and their sum a full volume.
    """
    total, norm = None, np.zeros(image.shape)
    offsets = [np.arange(n) - (n - 1) / 2 for n in config.size]
    if config.blending == "gaussian":
        squares = [np.square(o / (n / 8)) for o, n in zip(offsets, config.size, strict=True)]
        weights = np.exp(-0.5 * (squares[0][:, None, None] + squares[1][:, None] + squares[2]))
    else:
        weights = np.ones(config.size)
    corners = []
    for n, size in zip(image.shape, config.size, strict=True):
        step = max(1, int(size * (1 - config.overlap)))
        axis = [0]
        while axis[-1] + size < n:
            axis.append(min(axis[-1] + step, n - size))
        corners.append(axis)
    for corner in itertools.product(*corners):
        box = tuple(slice(c, c + size) for c, size in zip(corner, config.size, strict=True))
        logits = logits_fn(image[box][None, ..., None].astype(np.float32))[0].astype(np.float64)
        if total is None:
            total = np.zeros((*image.shape, logits.shape[-1]))
        total[box] += logits * weights[..., None]
        norm[box] += weights
    return total / norm[..., None]


@pytest.mark.parametrize(
    ("length", "window", "overlap", "expected"),
    [
        (10, 4, 0.0, (0, 4, 6)),  # the last is moved inside
        (12, 4, 0.5, (0, 2, 4, 6, 8)),
        (100, 96, 0.25, (0, 4)),
        (96, 96, 0.25, (0,)),
        (30, 96, 0.25, (0,)),
        (241, 96, 0.25, (0, 72, 144, 145)),
        (5, 2, 0.9, (0, 1, 2, 3)),  # never less than one voxel apart
    ],
)
def test_starts_by_hand(length, window, overlap, expected):
    assert sliding_window.starts(length, window, overlap) == expected


def test_gaussian_is_symmetric_with_sigma_of_an_eighth():
    weights = sliding_window.axis_weights(16, "gaussian")
    np.testing.assert_allclose(weights, weights[::-1])
    # Voxels 9.5 and 7.5 +- 2 from the centre: exp(-(2.5^2 - 0.5^2) / (2 * 2^2)) apart
    assert weights[10] / weights[8] == pytest.approx(np.exp(-(2.5**2 - 0.5**2) / 8))


@pytest.mark.parametrize("blending", ["constant", "gaussian"])
def test_normalised_weights_add_up_to_one(blending):
    total = np.zeros(23)
    parts = sliding_window.normalised_weights(23, 8, 0.6, blending)
    for start, weights in zip(sliding_window.starts(23, 8, 0.6), parts, strict=True):
        total[start : start + 8] += weights
    np.testing.assert_allclose(total, 1.0, atol=1e-6)


@pytest.mark.parametrize("blending", ["constant", "gaussian"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("shape", "size", "overlap"),
    [((13, 9, 11), (6, 4, 5), 0.5), ((8, 8, 8), (8, 3, 4), 0.25), ((20, 5, 6), (4, 5, 6), 0.7)],
)
def test_equals_brute_force(shape, size, overlap, blending, batch):
    image = np.random.default_rng(5).uniform(-1, 1, shape).astype(np.float32)
    config = WindowConfig(size, overlap, blending, batch)
    result = sliding_window.predict_logits(image, position_dependent, config)
    assert result.dtype == np.float32
    np.testing.assert_allclose(
        result, brute_force(image, position_dependent, config), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("blending", ["constant", "gaussian"])
@pytest.mark.parametrize("shape", [(17, 12, 9), (3, 12, 9), (3, 4, 2), (1, 1, 1), (17, 4, 2)])
def test_a_pointwise_network_gives_its_own_values(shape, blending):
    image = np.random.default_rng(6).uniform(-1, 1, shape).astype(np.float16)
    result = sliding_window.predict_logits(image, identity, WindowConfig((8, 6, 5), 0.5, blending))
    np.testing.assert_allclose(result, identity(image[..., None].astype(np.float32)), atol=1e-6)


def test_probabilities_are_the_softmax_of_the_logits():
    image = np.random.default_rng(7).uniform(-1, 1, (7, 6, 5)).astype(np.float32)
    result = sliding_window.predict_probabilities(image, identity, WindowConfig((4, 4, 4)))
    expected = np.exp(identity(image[..., None]).astype(np.float64))
    np.testing.assert_allclose(result, expected / expected.sum(-1, keepdims=True), atol=1e-6)


def test_a_small_volume_is_padded_with_air_on_both_sides():
    seen = []

    def network(patches):
        seen.append(patches.copy())
        return patches

    sliding_window.predict_logits(
        np.full((2, 3, 4), 0.5, np.float32), network, WindowConfig((4, 4, 4))
    )
    expected = np.full((4, 4, 4), -1.0, np.float32)
    expected[1:3, 0:3, :] = 0.5
    np.testing.assert_array_equal(seen, expected[None, None, ..., None])


def test_the_network_gets_a_single_shape():
    shapes = set()

    def network(patches):
        shapes.add((patches.shape, patches.dtype))
        return patches

    sliding_window.predict_logits(
        np.zeros((9, 9, 9), np.float16), network, WindowConfig((4, 4, 4), batch=4)
    )
    assert shapes == {((4, 4, 4, 4, 1), np.dtype(np.float32))}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (8, 8)}, r"window size is \(8, 8\)"),
        ({"size": (8, 8, 0)}, r"window size is \(8, 8, 0\)"),
        ({"size": (8, 8, 8), "overlap": 1.0}, "overlap is 1.0"),
        ({"size": (8, 8, 8), "blending": "cosine"}, "'cosine'.*constant, gaussian"),
        ({"size": (8, 8, 8), "batch": 0}, "batch is 0"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        WindowConfig(**settings)


def test_invalid_outputs_of_a_network_are_refused():
    config = WindowConfig((4, 4, 4))
    with pytest.raises(ValueError, match="not finite"):
        sliding_window.predict_logits(np.zeros((5, 5, 5)), lambda patches: patches * np.nan, config)
    with pytest.raises(ValueError, match=r"logits of shape \(1, 2, 4, 4, 1\)"):
        sliding_window.predict_logits(np.zeros((5, 5, 5)), lambda patches: patches[:, :2], config)
    with pytest.raises(ValueError, match="x, y and z"):
        sliding_window.predict_logits(np.zeros((5, 5)), identity, config)


def test_memory_does_not_grow_with_the_length_of_the_volume():
    config = WindowConfig((8, 12, 12), 0.5, "gaussian")

    def peak(length):
        image = np.zeros((length, 40, 30), np.float32)
        tracemalloc.start()  # NumPy reports its arrays to it
        for _ in sliding_window.slabs(image, identity, config):
            pass
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    slab = 8 * 40 * 30 * 3 * 4
    peak(16)
    # the largest of several, because the memory of two threads varies
    short = max(peak(32) for _ in range(8))
    assert slab < short < 2.5 * slab
    # 8 times as long: only the one-dimensional weights of more windows are added
    assert peak(256) < short + 0.2 * slab


def test_a_slab_read_from_another_memory_order_or_type_is_the_same():
    image = np.random.default_rng(8).uniform(-1, 1, (11, 9, 7)).astype(np.float16)
    config = WindowConfig((4, 4, 4), 0.5, "gaussian")
    expected = sliding_window.predict_logits(image.astype(np.float32), position_dependent, config)
    for other in (image, np.asfortranarray(image), image[::-1].copy()[::-1]):
        np.testing.assert_array_equal(
            sliding_window.predict_logits(other, position_dependent, config), expected
        )


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((90, 70, 30), (80, 64, 32)),
        ((80, 16, 33), (80, 16, 48)),
        ((200, 64, 64), (80, 64, 64)),
        ((1, 63, 17), (16, 64, 32)),
    ],
)
def test_the_window_shrinks_to_the_next_size_that_covers_a_volume(shape, size):
    config = WindowConfig((80, 64, 64), 0.25, "gaussian", multiple=16)
    assert config.fitted(shape).size == size and WindowConfig((80, 64, 64)).fitted(shape).size == (
        80,
        64,
        64,
    )
    seen = set()

    def watched(patches):
        seen.add(patches.shape)
        return identity(patches)

    image = np.random.default_rng(3).uniform(-1, 1, shape).astype(np.float32)
    np.testing.assert_allclose(
        sliding_window.predict_logits(image, watched, config),
        sliding_window.predict_logits(image, identity, WindowConfig((16, 16, 16))),
        atol=1e-5,
    )
    assert seen == {(1, *size, 1)}


def test_a_negative_multiple_is_refused():
    with pytest.raises(ValueError, match="multiple is -16; expected a number of voxels, or 0"):
        WindowConfig((16, 16, 16), multiple=-16)

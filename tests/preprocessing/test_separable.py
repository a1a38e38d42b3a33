import tracemalloc

import numpy as np
import pytest
import scipy.ndimage

from preprocessing import axes, separable


def places(count, size, rng):
    return np.sort(rng.uniform(-0.7, size - 0.3, count))  # beyond both edges as well


@pytest.mark.parametrize(
    "counts", [(5, 7, 9), (23, 31, 40), (23, 7, 40)], ids=["fewer", "more", "mixed"]
)
@pytest.mark.parametrize("layout", ["C", "F", "reversed", "turned"])
def test_agrees_with_scipy_in_every_memory_layout(counts, layout):
    rng = np.random.default_rng(3)
    array = rng.normal(0, 300, (12, 17, 21)).astype(np.float32)
    array = {
        "C": array,
        "F": np.asfortranarray(array),
        "reversed": np.asfortranarray(array)[::-1, :, ::-1],
        "turned": np.ascontiguousarray(array.transpose(1, 2, 0)).transpose(2, 0, 1),
    }[layout]
    coordinates = [places(m, n, rng) for m, n in zip(counts, array.shape, strict=True)]
    expected = scipy.ndimage.map_coordinates(
        array.astype(np.float64), np.meshgrid(*coordinates, indexing="ij"), order=1, mode="nearest"
    )
    result = separable.interpolate(array, coordinates)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=2e-3)
    assert axes.memory_order(result) == axes.memory_order(array)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.bool_, ">i2"])
def test_takes_any_stored_type(dtype):
    array = (np.arange(4 * 5 * 6).reshape(4, 5, 6) % 2).astype(dtype)
    result = separable.interpolate(
        array, [np.array([0.0, 2.5]), np.array([1.0]), np.array([0.25, 4.75])]
    )
    reference = array.astype(np.float64)
    mean = 0.5 * (reference[2] + reference[3])
    expected = [
        [[0.75 * p[1, 0] + 0.25 * p[1, 1], 0.25 * p[1, 4] + 0.75 * p[1, 5]]]
        for p in (reference[0], mean)
    ]
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_the_same_grid_gives_the_same_bits():
    array = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    np.testing.assert_array_equal(
        separable.interpolate(array, [np.arange(n) for n in array.shape]), array
    )


def test_one_voxel_along_an_axis_is_repeated():
    np.testing.assert_array_equal(
        separable.interpolate(np.full((1, 1, 2), 3.0), [np.arange(3), np.zeros(1), np.zeros(1)]),
        np.full((3, 1, 1), 3),
    )


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "counts",
    [(5, 7, 9), (23, 31, 40), (23, 7, 40), (12, 17, 21)],
    ids=["fewer", "more", "mixed", "same"],
)
@pytest.mark.parametrize("order", ["xyz", "xzy", "yxz", "yzx", "zxy", "zyx"])
def test_slabs_are_the_volume_in_c_order_whatever_order_it_is_stored_in(
    monkeypatch, order, counts, threads
):
    monkeypatch.setattr(separable, "_SLAB_VOXELS", 3 * counts[1] * counts[2])
    rng = np.random.default_rng(5)
    axes = ["xyz".index(letter) for letter in order]
    stored = rng.integers(-1000, 1000, [(12, 17, 21)[a] for a in axes]).astype(np.int16)
    array = stored.transpose(np.argsort(axes))[::-1, :, ::-1]
    coordinates = [
        np.arange(m) if m == n else places(m, n, rng)
        for m, n in zip(counts, array.shape, strict=True)
    ]
    found = list(separable.slabs(array, coordinates, finish=lambda slab: slab * 2, threads=threads))
    assert all(
        slab.flags.c_contiguous and slab.dtype == np.float32 and len(slab) <= 3 for slab in found
    )
    np.testing.assert_allclose(
        np.concatenate(found), 2 * separable.interpolate(array, coordinates), atol=2e-3
    )


def test_slabs_do_not_depend_on_the_number_of_threads():
    array = np.asfortranarray(np.random.default_rng(0).normal(size=(40, 30, 20)).astype(np.float32))
    coordinates = [np.arange(m) * n / m for m, n in zip((90, 25, 50), array.shape, strict=True)]
    one, two = (
        np.concatenate(list(separable.slabs(array, coordinates, threads=threads)))
        for threads in (1, 2)
    )
    np.testing.assert_array_equal(one, two)


def test_slabs_keep_planes_and_not_the_volume_in_memory():
    array = np.zeros((100, 100, 20), dtype=np.int16, order="F")
    coordinates = [
        np.arange(n) * (n / m) for n, m in zip((200, 200, 200), (200, 200, 2000), strict=True)
    ]
    planes = 4 * 20 * 200 * 200
    tracemalloc.start()
    voxels = sum(slab.size for slab in separable.slabs(array, coordinates))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert voxels == 200**3
    assert peak < planes + 2**23

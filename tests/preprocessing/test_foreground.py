import itertools

import numpy as np
import pytest

from preprocessing import geometry
from preprocessing.foreground import LabelBox
from preprocessing.volume import Grid, Volume
from tests.preprocessing.test_geometry import ORIENTATIONS, stored_affine


def label_map(shape=(7, 6, 9), seed=0, share=0.15):
    rng = np.random.default_rng(seed)
    return ((rng.random(shape) < share) * rng.integers(1, 3, shape)).astype(np.uint8)


def blob(shape=(9, 8, 10)):
    label = np.zeros(shape, dtype=np.uint8)
    label[2:7, 1:4, 5:9] = 1
    label[3:5, 2:4, 6:8] = 2
    return label


@pytest.mark.parametrize(
    "layout",
    [np.ascontiguousarray, np.asfortranarray, lambda a: np.asfortranarray(a)[::-1, :, ::-1]],
)
def test_the_box_is_the_smallest_around_the_foreground(layout):
    label = layout(blob())
    box = LabelBox.of(label)
    voxels = np.argwhere(label)
    assert box.start == tuple(voxels.min(axis=0)) and box.voxels.shape == tuple(
        voxels.max(axis=0) - voxels.min(axis=0) + 1
    )
    np.testing.assert_array_equal(box.array(), label)


def test_the_box_turns_as_the_volume_does():
    label = blob()
    for axes, signs in ORIENTATIONS:
        native = Grid(label.shape, stored_affine(axes, signs))
        upright = LabelBox.of(label).to_ras(native)
        np.testing.assert_array_equal(
            upright.array(), geometry.to_ras(Volume(label, native.affine)).array
        )
        np.testing.assert_array_equal(upright.from_ras(native).array(), label)


@pytest.mark.parametrize(
    "label",
    [
        label_map(),
        label_map(share=0.9),
        blob(),
        label_map(shape=(1, 1, 20), share=0.5),
        np.ones((2, 2, 2), np.uint8),
    ],
)
def test_runs_list_every_foreground_voxel_in_order(label):
    runs = LabelBox.of(label).runs()
    for class_, voxels in (
        (None, np.flatnonzero(label)),
        (1, np.flatnonzero(label == 1)),
        (2, np.flatnonzero(label == 2)),
    ):
        assert runs.count(class_) == len(voxels)
        assert [runs.voxel(k, class_) for k in range(len(voxels))] == voxels.tolist()
    assert [flat for flat in range(label.size) if flat in runs] == np.flatnonzero(label).tolist()
    np.testing.assert_array_equal(runs.array(), label)
    assert runs.runs.dtype == np.int32
    assert runs.box == tuple(slice(min(places), max(places) + 1) for places in np.nonzero(label))


def test_runs_have_maximal_length():
    label = np.zeros((2, 3, 8), dtype=np.uint8)
    label[0, 1, 2:5], label[0, 1, 5:7], label[1, 2, 0], label[1, 2, 7] = 1, 2, 1, 1
    assert LabelBox.of(label).runs().runs.tolist() == [
        [10, 3, 1],
        [13, 2, 2],
        [40, 1, 1],
        [47, 1, 1],
    ]


def test_without_foreground_there_is_no_run():
    box = LabelBox.of(np.zeros((3, 4, 5), dtype=np.uint8))
    assert box.runs().count() == 0 and 7 not in box.runs()
    assert box.runs().box == (slice(0, 0),) * 3
    np.testing.assert_array_equal(box.runs().array(), np.zeros((3, 4, 5)))
    native = Grid((3, 4, 5), stored_affine((2, 0, 1), (1, -1, 1)))
    assert not box.to_ras(native).from_ras(native).array().any()


def test_runs_of_an_organ_take_a_hundredth_of_its_voxels_in_memory():
    grid = np.ogrid[-40:40, -40:40, -40:40]
    organ = (sum(g**2 for g in grid) < 30**2).astype(np.uint8)
    runs = LabelBox.of(organ).runs().runs
    assert (
        runs.nbytes < 0.01 * 8 * organ.size
    )  # 64-bit indices of every voxel, foreground and background, as samplers keep them


def test_every_memory_order_gives_the_same_runs():
    label = label_map(seed=3)
    expected = LabelBox.of(label).runs().runs
    for order in itertools.permutations(range(3)):
        turned = np.ascontiguousarray(label.transpose(order)).transpose(np.argsort(order))
        np.testing.assert_array_equal(LabelBox.of(turned).runs().runs, expected)

import numpy as np

from preprocessing import geometry
from preprocessing.checks import same_scan
from preprocessing.volume import Volume
from tests.preprocessing.corpus_files import AFFINE, CT, flip_x


def marks(array, affine=AFFINE):
    return same_scan.slice_marks(geometry.to_ras(Volume(array, affine)))


def test_a_scan_is_recognised_in_another_form():
    other = np.random.default_rng(2).integers(-100, 200, CT.shape).astype(np.int16)
    found = same_scan.same_scans(
        {
            "first": marks(CT.array),
            "another": marks(other),
            "as float": marks(CT.array.astype(np.float32)),
            "other axes": marks(
                np.ascontiguousarray(CT.array[::-1].transpose(2, 0, 1)),
                (AFFINE @ flip_x())[:, [2, 0, 1, 3]],
            ),
            "cropped": marks(CT.array[:, :, 5:-9]),
            "another, cropped": marks(other[:, :, 3:20]),
            "next patient": marks(CT.array + np.int16(1)),
        }
    )
    assert found == {
        "as float": "first",
        "other axes": "first",
        "cropped": "first",
        "another, cropped": "another",
    }


def test_a_few_common_slices_do_not_make_two_scans_one():
    mixed = np.random.default_rng(3).integers(-100, 200, CT.shape).astype(np.int16)
    mixed[:, :, :3] = CT.array[:, :, :3]
    assert same_scan.same_scans({"a": marks(CT.array), "b": marks(mixed)}) == {}


def test_common_air_does_not_make_two_patients_one():
    padded = [
        np.pad(
            np.random.default_rng(i).integers(-100, 200, (40, 40, 6)).astype(np.int16),
            ((0, 0), (0, 0), (0, 30)),
            constant_values=-1024,
        )
        for i in (1, 2)
    ]
    assert same_scan.same_scans({"a": marks(padded[0]), "b": marks(padded[1])}) == {}

import gzip
import itertools

import numpy as np
import pydicom
import pytest

from preprocessing import geometry, manifest, nifti, sources
from preprocessing.case_list import CaseManifest
from preprocessing.checks import integrity
from preprocessing.layouts import pancreas_ct
from preprocessing.volume import Volume
from tests.preprocessing.corpus_files import AFFINE, CT, LABEL
from tests.preprocessing.dicom_files import save, slices

HEALTHY = (LABEL.array > 0).astype(np.uint8)
SQUARE_CT = Volume(
    np.pad(CT.array, ((0, 0), (5, 5), (0, 0)), constant_values=-1000), AFFINE
)  # 64 x 64: x and y may be exchanged
SQUARE_LABEL = np.pad(HEALTHY, ((0, 0), (5, 5), (0, 0)))
TURNS = [
    "".join(s + a for s, a in zip(signs, axes, strict=True))
    for axes in ("xyz", "yxz")
    for signs in itertools.product("+-", repeat=3)
]


def stored_as(turn):
    """Returns the array that `turn` brings back onto the scan: each turn undone by hand."""
    signs, axes = turn[0::2], ["xyz".index(a) for a in turn[1::2]]
    array = np.flip(SQUARE_LABEL, [i for i, sign in enumerate(signs) if sign == "-"])
    return np.ascontiguousarray(array.transpose(np.argsort(axes)))


@pytest.mark.parametrize("turn", TURNS)
def test_every_turn_is_found_from_the_voxels(turn):
    np.testing.assert_array_equal(sources.turned(stored_as(turn), turn), SQUARE_LABEL)
    found, fit, runner_up = pancreas_ct.turn_of(SQUARE_CT, Volume(stored_as(turn), np.eye(4)))
    assert found == turn and fit > 0.6 and runner_up < fit - 0.25


def download(folder, labels):
    """Writes the tree as the archive's downloader does, for the given numbers."""
    for number, label in labels.items():
        made = slices(Volume(CT.array + np.int16(number), AFFINE), series=f"1.2.{number}")
        save(
            folder
            / f"Pancreas-CT/PANCREAS_{number:04d}"
            / f"11-24-2015-PANCREAS{number:04d}-59677/Pancreas-18957",
            made,
        )
        header_that_lies = np.diag([1.0, 1.0, 1.0, 1.0])
        path = folder / f"TCIA_pancreas_labels-02-05-2017/label{number:04d}.nii.gz"
        nifti.write_volume(path, Volume(label, header_that_lies))
        if number == 1:  # and one whose header places nothing at all
            raw = bytearray(gzip.decompress(path.read_bytes()))
            raw[280:328] = bytes(48)
            path.write_bytes(gzip.compress(raw))
    return folder / "Pancreas-CT", folder / "TCIA_pancreas_labels-02-05-2017"


def test_the_collection_as_it_is_downloaded(tmp_path):
    symmetric = np.zeros_like(HEALTHY)
    symmetric[20:44, 20:34, 8:20] = 1  # lies the same under every mirror image
    flipped = np.ascontiguousarray(HEALTHY[:, ::-1])
    images, labels = download(
        tmp_path,
        {1: flipped, 2: HEALTHY[::-1], 25: HEALTHY, 3: symmetric, 70: HEALTHY, 4: HEALTHY[:-1]},
    )
    cases = pancreas_ct.find_cases(images, labels)
    assert [case.case_id for case in cases] == [
        "PANCREAS_0001",
        "PANCREAS_0002",
        "PANCREAS_0003",
        "PANCREAS_0004",
    ]
    placed = pancreas_ct.place_labels(cases)
    assert [p.error.rule if p.error else None for p in placed] == [None, None, "N01", "G05"]
    assert "label0003.nii.gz" in str(placed[2].error) and placed[2].fit - placed[2].runner_up < 0.25
    manifest.write(
        tmp_path / "manifest.json",
        CaseManifest(
            "C1", tuple(p.case for p in placed), excluded=("PANCREAS_0003", "PANCREAS_0004")
        ),
    )
    for case in manifest.read(
        tmp_path / "manifest.json"
    ).included:  # the turn is in the manifest, and read from there
        image, label = sources.read_case(case)
        integrity.check_case(image, label)
        np.testing.assert_array_equal(geometry.to_ras(label).array, HEALTHY)


def test_a_scan_without_its_last_slices_is_blamed_and_not_its_label(tmp_path):
    images, labels = download(tmp_path, {2: HEALTHY[::-1]})
    files = sorted(
        (images / "PANCREAS_0002").rglob("*.dcm"),
        key=lambda path: pydicom.dcmread(path).InstanceNumber,
    )
    for path in files[-3:]:
        path.unlink()
    (placed,) = pancreas_ct.place_labels(pancreas_ct.find_cases(images, labels))
    assert placed.error.rule == "G05" and "PANCREAS_0002" in placed.error.file
    assert (
        "has 25 slices" in placed.error.problem
        and "3 of the scan did not arrive" in placed.error.problem
    )


def test_two_folders_or_labels_of_one_number_are_named_and_hidden_ones_are_not_looked_at(tmp_path):
    for name in ("Pancreas-CT/a/PANCREAS_0002", "Pancreas-CT/.git/annex/PANCREAS_0002", "labels"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "labels" / "label0002.nii.gz").write_bytes(b"")
    assert len(pancreas_ct.find_cases(tmp_path / "Pancreas-CT", tmp_path / "labels")) == 1
    (tmp_path / "labels" / "LABEL0002.nii").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"LABEL0002\.nii and .*label0002\.nii\.gz are both number 2"
    ):
        pancreas_ct.find_cases(tmp_path / "Pancreas-CT", tmp_path / "labels")
    (tmp_path / "Pancreas-CT" / "b" / "pancreas_0002").mkdir(parents=True)
    with pytest.raises(ValueError, match="both number 2"):
        pancreas_ct.find_cases(tmp_path / "Pancreas-CT", tmp_path / "labels")


def test_a_folder_without_the_collection_is_named(tmp_path):
    with pytest.raises(ValueError, match="PANCREAS_0001"):
        pancreas_ct.find_cases(tmp_path, tmp_path)


@pytest.mark.parametrize("turn", ["xyz", "+x+x+z", "+x+y", "*x+y+z", "+x+y+w"])
def test_impossible_turns_are_refused(turn):
    with pytest.raises(ValueError, match="each axis once"):
        sources.turned(HEALTHY, turn)

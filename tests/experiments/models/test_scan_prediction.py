import dataclasses
import errno
import pathlib
import zipfile

import nibabel
import numpy as np
import pytest

from c2fnas.scores.healthy_gate import HealthyGate
from c2fnas.sliding_window import WindowConfig
from experiments.models import own_masks, scan_prediction
from experiments.models.scan_prediction import PredictionSettings
from preprocessing import dicom, nifti
from preprocessing.volume import Volume
from tests.preprocessing.nifti_files import assert_same_place

SETTINGS = PredictionSettings(
    spacing_mm=(2.0, 2.0, 2.0),
    window_hu=(-200.0, 250.0),
    window=WindowConfig((16, 16, 8), 0.5, "gaussian"),
)


def threshold(patches):
    """Pancreas above 25 HU (0 in the window), tumour above 160 HU: three logits a voxel."""
    return np.concatenate([np.zeros_like(patches), 4 * patches, 8 * patches - 2.4], axis=-1)


def scan(
    path,
    *,
    box=(slice(8, 16), slice(8, 16), slice(4, 9)),
    shape=(30, 28, 14),
    spacing=(1.5, 1.5, 3.0),
    hu=80.0,
):
    """Writes a scan of fat with a bright box.

    The affine is oblique and reverses two axes, and the header contains more than a mask may
    repeat.
    """
    voxels = np.random.default_rng(1).normal(-90, 5, shape).round()
    voxels[0] = -1000
    if box is not None:
        voxels[box] = hu
    turn = np.deg2rad(4)
    affine = np.eye(4)
    affine[:3, :3] = np.array(
        [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    ) @ np.diag([-spacing[0], -spacing[1], spacing[2]])
    affine[:3, 3] = (80, 60, -300)
    image = nibabel.Nifti1Image(voxels.astype(np.int16), affine)
    image.header["descrip"] = b"Doe Jane"
    nibabel.save(image, path)
    return image


def test_the_mask_is_the_thresholded_scan_on_its_own_grid_with_its_header(tmp_path):
    image = scan(tmp_path / "ct.nii.gz")
    found = scan_prediction.predict_scan(
        tmp_path / "ct.nii.gz",
        tmp_path / "mask.nii.gz",
        threshold,
        SETTINGS,
        overlay=tmp_path / "look.png",
    )
    mask = nibabel.load(tmp_path / "mask.nii.gz")
    assert_same_place(mask.header, image.header)
    assert own_masks.is_own(tmp_path / "mask.nii.gz")
    voxels = np.asarray(mask.dataobj)
    assert voxels[9:15, 9:15, 5:8].min() == 1  # the box without its border, which resampling blurs
    voxels[7:17, 7:17, 3:10] = 0
    assert not voxels.any()
    assert (
        found.volumes_ml["pancreas"] == pytest.approx(8 * 8 * 5 * 6.75 / 1000, rel=0.35)
        and found.volumes_ml["tumour"] == 0
    )
    assert found.components == {"pancreas": 1, "tumour": 0} and found.notes == ()
    assert (tmp_path / "look.png").stat().st_size > 1000


def test_a_scan_smaller_than_the_window_is_surrounded_with_air(tmp_path):
    scan(tmp_path / "small.nii.gz", shape=(12, 11, 6), box=(slice(4, 9), slice(4, 9), slice(2, 5)))
    large = PredictionSettings(
        spacing_mm=SETTINGS.spacing_mm,
        window_hu=SETTINGS.window_hu,
        window=WindowConfig((32, 32, 32)),
    )
    scan_prediction.predict_scan(
        tmp_path / "small.nii.gz", tmp_path / "mask.nii.gz", threshold, large
    )
    voxels = np.asarray(nibabel.load(tmp_path / "mask.nii.gz").dataobj)
    assert voxels.shape == (12, 11, 6) and voxels[5:8, 5:8, 3].min() == 1 and voxels[0].max() == 0


def test_probabilities_are_those_of_the_classes_on_the_scans_grid(tmp_path):
    scan(tmp_path / "ct.nii.gz")
    scan_prediction.predict_scan(
        tmp_path / "ct.nii.gz", tmp_path / "mask.nii.gz", threshold, SETTINGS, probabilities=True
    )
    values = {
        name: nifti.read_ct(tmp_path / f"mask.{name}.nii.gz") for name in ("pancreas", "tumour")
    }
    logits = np.array([0, 4 * 55 / 225, 8 * 55 / 225 - 2.4])  # at 80 HU
    expected = np.exp(logits) / np.exp(logits).sum()
    assert values["pancreas"].array[11, 11, 6] == pytest.approx(expected[1], abs=0.01)
    assert values["tumour"].array[11, 11, 6] == pytest.approx(expected[2], abs=0.01)
    assert (
        values["pancreas"].affine.tobytes()
        == nifti.read_labels(tmp_path / "mask.nii.gz").affine.tobytes()
    )
    assert nifti.read_labels(tmp_path / "mask.nii.gz").array[11, 11, 6] == 1


def test_the_largest_component_alone_stays_where_that_is_asked_for(tmp_path):
    image = scan(tmp_path / "ct.nii.gz")
    voxels = np.asarray(image.dataobj).copy()
    voxels[22:26, 20:24, 9:12] = 80
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), tmp_path / "two.nii.gz")
    counts = []
    for largest in (False, True):
        settings = PredictionSettings(
            spacing_mm=SETTINGS.spacing_mm,
            window_hu=SETTINGS.window_hu,
            window=SETTINGS.window,
            largest_component=largest,
        )
        counts.append(
            scan_prediction.predict_scan(
                tmp_path / "two.nii.gz", tmp_path / "m.nii.gz", threshold, settings
            ).components["pancreas"]
        )
    assert counts == [2, 1]


def test_what_a_reader_should_know_before_believing_a_mask(tmp_path):
    scan(tmp_path / "nothing.nii.gz", box=None)
    found = scan_prediction.predict_scan(
        tmp_path / "nothing.nii.gz", tmp_path / "m.nii.gz", threshold, SETTINGS
    )
    assert found.notes == ("nothing found: is the upper abdomen in the scan?",)
    scan(tmp_path / "cut.nii.gz", box=(slice(8, 16), slice(8, 16), slice(9, 14)))
    (note,) = scan_prediction.predict_scan(
        tmp_path / "cut.nii.gz", tmp_path / "m.nii.gz", threshold, SETTINGS
    ).notes
    assert "reaches the border of the scan" in note


def refuses(tmp_path, image, message, **changes):
    settings = PredictionSettings(
        **{
            "spacing_mm": SETTINGS.spacing_mm,
            "window_hu": SETTINGS.window_hu,
            "window": SETTINGS.window,
            **changes,
        }
    )
    with pytest.raises(ValueError, match=message) as caught:
        scan_prediction.predict_scan(image, tmp_path / "out" / "mask.nii.gz", threshold, settings)
    assert not list(tmp_path.rglob("*mask*"))
    return str(caught.value)


def test_a_scan_without_the_expected_field_of_view_is_refused(tmp_path):
    scan(tmp_path / "head.nii.gz")  # 45 x 42 x 42 mm
    text = refuses(
        tmp_path,
        tmp_path / "head.nii.gz",
        "covers 42 mm along z",
        expected_view_mm=(80.0, 80.0, 90.0),
    )
    assert (
        str(tmp_path / "head.nii.gz") in text
        and "--accept_small_view" in text
        and "along x" not in text
    )
    scan_prediction.predict_scan(
        tmp_path / "head.nii.gz",
        tmp_path / "m.nii.gz",
        threshold,
        PredictionSettings(
            spacing_mm=SETTINGS.spacing_mm,
            window_hu=SETTINGS.window_hu,
            window=SETTINGS.window,
            expected_view_mm=(80.0, 80.0, 80.0),
        ),
    )


def test_what_is_no_ct_is_refused(tmp_path):
    nifti.write_volume(
        tmp_path / "labels.nii.gz", Volume(np.ones((20, 20, 20), np.uint8), np.eye(4))
    )
    refuses(tmp_path, tmp_path / "labels.nii.gz", r"labels\.nii\.gz.*HU")
    refuses(tmp_path, tmp_path / "none.nii.gz", r"none\.nii\.gz")
    (tmp_path / "cut.nii.gz").write_bytes(b"\x1f\x8b\0")
    refuses(tmp_path, tmp_path / "cut.nii.gz", r"cut\.nii\.gz")


def test_a_full_disk_leaves_no_half_mask_and_keeps_the_one_that_was_there(tmp_path, monkeypatch):
    scan(tmp_path / "ct.nii.gz")
    mask = tmp_path / "out" / "mask.nii.gz"
    scan_prediction.predict_scan(tmp_path / "ct.nii.gz", mask, threshold, SETTINGS)
    before = mask.read_bytes()

    def full(self, content):
        with open(self, "wb") as stream:
            stream.write(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(
        ValueError,
        match=r"out.mask\.nii\.gz: cannot be written \(No space left on device; it takes \d+ bytes\)",
    ):
        scan_prediction.predict_scan(tmp_path / "ct.nii.gz", mask, threshold, SETTINGS)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mask.nii.gz"]
    assert mask.read_bytes() == before


def test_a_mask_that_a_reader_drew_is_not_replaced_and_the_scan_is_not_even_read(tmp_path):
    (tmp_path / "mask.nii.gz").write_bytes(b"drawn by hand")
    with pytest.raises(ValueError, match=r"mask\.nii\.gz: is not a mask that a prediction wrote"):
        scan_prediction.predict_scan(
            tmp_path / "missing.nii.gz", tmp_path / "mask.nii.gz", threshold, SETTINGS
        )
    assert (tmp_path / "mask.nii.gz").read_bytes() == b"drawn by hand"


def test_a_plan_that_lacks_something_is_named():
    plan = {
        "spacing_mm": [1, 1, 1],
        "window_hu": [-200, 250],
        "inference": {"window": [96, 96, 96], "overlap": 0.5, "blending": "gaussian"},
    }
    assert PredictionSettings.of_plan(plan).window == WindowConfig((96, 96, 96), 0.5, "gaussian")
    with pytest.raises(ValueError, match="plan lacks 'window_hu'"):
        PredictionSettings.of_plan(
            {name: value for name, value in plan.items() if name != "window_hu"}
        )


def dicom_scan(folder, *, series="1.2.826.0.1.1", number=1, change=None):
    """Writes a bright box in fat as a series, 30 x 28 x 14 voxels; `change` edits its slices."""
    pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    from tests.preprocessing import dicom_files

    voxels = np.full((30, 28, 14), -90, np.int16)
    voxels[0], voxels[8:16, 8:16, 4:9] = -1000, 80
    made = dicom_files.slices(Volume(voxels, np.diag([-1.5, -1.5, 3.0, 1.0])), series=series)
    for ds in made:
        ds.SeriesNumber, ds.SeriesDescription = number, f"phase {number}"
    dicom_files.save(folder, change(made) if change else made, name=f"s{number}i{{:d}}.dcm".format)
    return made


def test_one_of_several_series_is_chosen_by_the_programs_option(tmp_path):
    dicom_scan(tmp_path / "ct", series="1.2.3", number=1)
    dicom_scan(tmp_path / "ct", series="1.2.4", number=2)
    text = refuses(
        tmp_path, tmp_path / "ct", r"1\.2\.3 \(number 1, 'phase 1', 14 slices\), 1\.2\.4 \(number 2"
    )
    assert "--series" in text and "manifest" not in text
    for chosen in ("1.2.4", "2"):
        found = scan_prediction.predict_scan(
            tmp_path / "ct", tmp_path / f"m{chosen}.nii.gz", threshold, SETTINGS, series=chosen
        )
        assert found.components["pancreas"] == 1


def test_one_of_several_acquisitions_is_chosen_by_the_programs_option(tmp_path):
    made = []
    for number in (1, 2):

        def change(slices, number=number):
            for k, ds in enumerate(slices):
                ds.AcquisitionNumber, ds.InstanceNumber = number, 100 * number + k
            made.extend(slices)
            return []

        dicom_scan(tmp_path / "none", change=change)
    from tests.preprocessing import dicom_files

    dicom_files.save(tmp_path / "ct", made)
    text = refuses(tmp_path, tmp_path / "ct", r"#1 \(14 slices.*#2 \(14 slices")
    assert "--series" in text and "manifest" not in text
    assert (
        scan_prediction.predict_scan(
            tmp_path / "ct", tmp_path / "m.nii.gz", threshold, SETTINGS, series="#2"
        ).components["pancreas"]
        == 1
    )


def test_a_zip_and_a_multi_frame_file_are_scans(tmp_path):
    dicom_scan(tmp_path / "ct")
    from tests.preprocessing import dicom_files

    with zipfile.ZipFile(tmp_path / "patient 1.ZIP", "w") as archive:
        for path in (tmp_path / "ct").iterdir():
            archive.write(path, f"DICOM/{path.name}")
    ct = dicom.read_series(tmp_path / "ct")
    dicom_files.save(tmp_path / "frames", [dicom_files.enhanced(ct)], name=lambda i: "patient.dcm")
    scan_prediction.predict_scan(tmp_path / "ct", tmp_path / "expected.nii.gz", threshold, SETTINGS)
    for number, image in enumerate(
        (tmp_path / "patient 1.ZIP", tmp_path / "frames" / "patient.dcm")
    ):
        before = image.read_bytes()
        scan_prediction.predict_scan(image, tmp_path / f"{number}.nii.gz", threshold, SETTINGS)
        assert (tmp_path / f"{number}.nii.gz").read_bytes() == (
            tmp_path / "expected.nii.gz"
        ).read_bytes() and image.read_bytes() == before
    assert [
        scan_prediction.stem(name) for name in ("a/patient 1.ZIP", "a/patient.dcm", "1.2.840.113")
    ] == [
        "patient 1",
        "patient",
        "1.2.840.113",
    ]


def test_what_is_unusual_in_a_series_is_a_note(tmp_path):
    dicom_scan(tmp_path / "ct", change=lambda made: made[2:])
    found = scan_prediction.predict_scan(
        tmp_path / "ct", tmp_path / "mask.nii.gz", threshold, SETTINGS
    )
    assert any("without 1, 2" in note and "D14" in note for note in found.notes)


def test_a_dicom_series_gets_a_mask_and_a_segmentation_object(tmp_path):
    pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    pytest.importorskip("highdicom", reason="the extra dicom_seg is not installed")
    from tests.preprocessing.test_dicom_segmentation import series

    voxels = np.full((30, 28, 14), -90, np.int16)
    voxels[0], voxels[8:16, 8:16, 4:9] = -1000, 80
    ct = series(tmp_path / "ct", voxels)
    found = scan_prediction.predict_scan(
        tmp_path / "ct",
        tmp_path / "mask.nii.gz",
        threshold,
        SETTINGS,
        dicom_seg=tmp_path / "mask.dcm",
        model_name="FL_global",
    )
    mask = nifti.read_labels(tmp_path / "mask.nii.gz")
    np.testing.assert_allclose(mask.affine, ct.affine, atol=1e-4)
    assert mask.array[10:14, 10:14, 5:8].min() == 1 and found.components["pancreas"] == 1
    written = pydicom.dcmread(tmp_path / "mask.dcm")
    assert written.SegmentSequence[0].SegmentLabel == "Pancreas" and int(
        written.pixel_array.sum()
    ) == int((mask.array == 1).sum())
    voxels[8:16, 8:16, 4:9] = -90
    series(tmp_path / "empty", voxels)
    found = scan_prediction.predict_scan(
        tmp_path / "empty",
        tmp_path / "none.nii.gz",
        threshold,
        SETTINGS,
        dicom_seg=tmp_path / "none.dcm",
    )
    assert (
        found.notes and not (tmp_path / "none.dcm").exists()
    )  # an object without a segment cannot be


@pytest.mark.parametrize("probabilities", [False, True])
def test_the_gate_takes_out_a_tumour_below_its_threshold_alone_and_says_so(tmp_path, probabilities):
    scan(
        tmp_path / "ct.nii.gz", hu=240.0
    )  # marked as tumour, about 120 voxels of 8 mm3 and a rim of pancreas
    ungated = scan_prediction.predict_scan(
        tmp_path / "ct.nii.gz", tmp_path / "plain.nii.gz", threshold, SETTINGS
    )
    assert ungated.gate == "" and 0 < ungated.score < 1.5 and ungated.volumes_ml["tumour"] > 0.5
    plain = np.asarray(nibabel.load(tmp_path / "plain.nii.gz").dataobj)
    for limit, word in ((ungated.score - 0.01, "passed"), (ungated.score + 0.01, "stopped")):
        settings = dataclasses.replace(SETTINGS, gate=HealthyGate(threshold=limit, patients=6))
        found = scan_prediction.predict_scan(
            tmp_path / "ct.nii.gz",
            tmp_path / "mask.nii.gz",
            threshold,
            settings,
            probabilities=probabilities,
        )
        mask = np.asarray(nibabel.load(tmp_path / "mask.nii.gz").dataobj)
        assert found.gate == word and found.score == pytest.approx(ungated.score, rel=1e-4)
        if word == "passed":
            np.testing.assert_array_equal(mask, plain)
            assert found.notes == ungated.notes
        else:
            assert found.volumes_ml["tumour"] == 0 and set(np.unique(mask)) <= {0, 1}
            assert (
                abs(int((mask == 1).sum()) - int((plain == 1).sum())) < 0.2 * (plain == 2).sum()
            )  # voxels at the border go either way
            assert (
                "the healthy gate removed a marked tumour" in found.notes[0]
                and "--nogate shows it" in found.notes[0]
            )


def test_a_scan_without_a_marked_tumour_neither_passes_nor_is_stopped(tmp_path):
    scan(tmp_path / "ct.nii.gz")
    settings = dataclasses.replace(SETTINGS, gate=HealthyGate(threshold=5.0, patients=6))
    found = scan_prediction.predict_scan(
        tmp_path / "ct.nii.gz", tmp_path / "mask.nii.gz", threshold, settings
    )
    assert (found.score, found.gate, found.notes) == (0.0, "", ())

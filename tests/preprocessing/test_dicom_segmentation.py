import zipfile

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
highdicom = pytest.importorskip("highdicom", reason="the extra dicom_seg is not installed")

from preprocessing import dicom, dicom_segmentation  # noqa: E402
from preprocessing.volume import Volume  # noqa: E402
from tests.preprocessing import dicom_files  # noqa: E402


def series(folder, array=None, **changes):
    """Writes a small series in a study, with unordered files, and returns what is read from it."""
    affine = np.array([[-0.8, 0, 0, 30.0], [0, -0.9, 0, 20.0], [0, 0, 2.5, -100.0], [0, 0, 0, 1]])
    if array is None:
        array = np.arange(7 * 6 * 5, dtype=np.int16).reshape(7, 6, 5) - 100
    datasets = dicom_files.slices(Volume(array, affine))
    study = {
        "StudyInstanceUID": "1.2.826.0.1.9",
        "FrameOfReferenceUID": "1.2.826.0.1.8",
        "PatientName": "Doe^Jane",
        "PatientID": "17",
        "PatientBirthDate": "",
        "PatientSex": "",
        "StudyDate": "",
        "StudyTime": "",
        "StudyID": "",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "Manufacturer": "",
        **changes,
    }
    for dataset in datasets:
        for name, value in study.items():
            if value is not None:
                setattr(dataset, name, value)
    dicom_files.save(folder, datasets)
    return dicom.read_series(folder)


def test_each_segment_lies_where_the_mask_lies(tmp_path):
    ct = series(tmp_path / "ct")
    mask = np.zeros(ct.shape, np.uint8)
    mask[1:5, 2:4, 1:4], mask[5, 3, 3] = 1, 2
    dicom_segmentation.write(tmp_path / "mask.dcm", mask, tmp_path / "ct", model_name="FL_global")
    written = pydicom.dcmread(tmp_path / "mask.dcm")
    assert (written.Modality, written.StudyInstanceUID, written.PatientID) == (
        "SEG",
        "1.2.826.0.1.9",
        "17",
    )
    assert [segment.SegmentLabel for segment in written.SegmentSequence] == [
        "Pancreas",
        "Pancreatic tumour",
    ]
    # read back by position, independently of the writer's order of slices and frames
    restored = np.zeros_like(mask)
    to_voxel = np.linalg.inv(ct.affine)
    for frame, pixels in zip(
        written.PerFrameFunctionalGroupsSequence, written.pixel_array, strict=True
    ):
        x, y, z = (float(v) for v in frame.PlanePositionSequence[0].ImagePositionPatient)
        _, _, k, _ = to_voxel @ [-x, -y, z, 1]  # DICOM's LPS
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        restored[:, :, round(k)][pixels.T > 0] = number
    np.testing.assert_array_equal(restored, mask)
    files = {
        item.ReferencedSOPInstanceUID
        for item in written.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    }
    assert len(files) == ct.shape[2]


def test_a_tumour_alone_is_one_segment(tmp_path):
    ct = series(tmp_path / "ct")
    mask = np.zeros(ct.shape, np.uint8)
    mask[3, 3, 3] = 2
    dicom_segmentation.write(tmp_path / "mask.dcm", mask, tmp_path / "ct", model_name="m")
    assert [
        segment.SegmentLabel for segment in pydicom.dcmread(tmp_path / "mask.dcm").SegmentSequence
    ] == ["Pancreatic tumour"]


def test_a_mask_that_cannot_become_an_object_is_refused_without_a_file(tmp_path):
    ct = series(tmp_path / "ct")
    mask = np.ones(ct.shape, np.uint8)
    for wrong, message in (
        (mask * 0, "mask is empty"),
        (mask[:-1], r"\(5, 6, 6\) slices, rows and columns, its series \(5, 6, 7\)"),
    ):
        with pytest.raises(ValueError, match=message):
            dicom_segmentation.write(tmp_path / "mask.dcm", wrong, tmp_path / "ct", model_name="m")
    series(tmp_path / "poor", StudyInstanceUID=None)
    with pytest.raises(
        ValueError,
        match=r"poor.*\.dcm: has no StudyInstanceUID, "
        r"which every object of its study must repeat \[D12",
    ):
        dicom_segmentation.write(tmp_path / "mask.dcm", mask, tmp_path / "poor", model_name="m")
    assert not list(tmp_path.glob("*mask*"))


OPTIONAL = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "Manufacturer",
)


@pytest.mark.parametrize(
    "absent",
    [*((name,) for name in OPTIONAL), OPTIONAL],
    ids=lambda names: "all" if len(names) > 1 else names[0],
)
def test_absent_attributes_that_may_be_empty_are_empty_in_the_object(tmp_path, absent):
    ct = series(tmp_path / "ct", **dict.fromkeys(absent))
    for path in (tmp_path / "ct").iterdir():
        one = pydicom.dcmread(path)
        for name in absent:
            if name in one:
                delattr(one, name)
        one.save_as(path)
    mask = np.zeros(ct.shape, np.uint8)
    mask[3, 3, 3] = 1
    dicom_segmentation.write(tmp_path / "mask.dcm", mask, tmp_path / "ct", model_name="m")
    written = pydicom.dcmread(tmp_path / "mask.dcm")
    assert int(written.pixel_array.sum()) == 1
    for name in set(absent) - {"Manufacturer"}:  # ours
        assert not written.get(name)


def test_the_series_of_a_zip_gets_an_object(tmp_path):
    ct = series(tmp_path / "ct")
    with zipfile.ZipFile(tmp_path / "ct.zip", "w") as archive:
        for path in (tmp_path / "ct").iterdir():
            archive.write(path, path.name)
    mask = np.ones(ct.shape, np.uint8)
    dicom_segmentation.write(tmp_path / "mask.dcm", mask, tmp_path / "ct.zip", model_name="m")
    assert pydicom.dcmread(tmp_path / "mask.dcm").NumberOfFrames == ct.shape[2]


def test_a_file_without_what_the_object_must_repeat_or_with_what_it_may_not_is_named(tmp_path):
    ct = series(tmp_path / "ct")
    mask = np.ones(ct.shape, np.uint8)
    path = sorted((tmp_path / "ct").iterdir())[2]
    whole = pydicom.dcmread(path)
    del whole.FrameOfReferenceUID
    whole.save_as(path)
    with pytest.raises(ValueError, match=rf"{path.name}: has no FrameOfReferenceUID.*D12"):
        dicom_segmentation.write(tmp_path / "mask.dcm", mask, tmp_path / "ct", model_name="m")
    series(tmp_path / "odd", PatientSex="unclear")
    with pytest.raises(
        ValueError, match=r"mask\.dcm: .*odd.*\.dcm holds a value that the object may not repeat"
    ):
        dicom_segmentation.write(tmp_path / "mask.dcm", mask, tmp_path / "odd", model_name="m")
    assert not list(tmp_path.glob("*mask*"))


def test_without_highdicom_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(dicom_segmentation, "highdicom", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[dicom_seg\]'"):
        dicom_segmentation.require_writer()

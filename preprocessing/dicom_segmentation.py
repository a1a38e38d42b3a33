"""Writes a mask as a DICOM segmentation object of the study of its CT series.

As DICOM requires, the object repeats the patient's name and number from the series. Attributes that
DICOM allows to be empty are left empty if the series lacks them. This is the only module that
imports highdicom, which the extra `dicom_seg` installs.
"""

from __future__ import annotations

import os
import pathlib

import numpy as np

from preprocessing import dicom, dicom_header, rules
from preprocessing.rules import broken
from runkit import atomic, release

try:
    import highdicom
    import pydicom
except ImportError:
    highdicom = None  # type: ignore[assignment]  # an extra, as DICOM itself

# value -> (label, property category, property type, anatomic region), SNOMED CT
_SEGMENTS = {
    1: ("Pancreas", ("123037004", "Anatomical Structure"), ("15776009", "Pancreas"), None),
    2: (
        "Pancreatic tumour",
        ("49755003", "Morphologically Altered Structure"),
        ("108369006", "Neoplasm"),
        ("15776009", "Pancreas"),
    ),
}
_MUST_REPEAT = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "SOPClassUID",
    "FrameOfReferenceUID",
)
_MAY_BE_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "ReferringPhysicianName", "PositionReferenceIndicator", "Manufacturer",
)  # fmt: skip
_SERIES_NUMBER = 300  # scanners number their series from 1


def require_writer() -> None:
    """Raises ValueError, with the remedy, if highdicom is not installed."""
    if highdicom is None:
        raise ValueError(
            "DICOM segmentation objects need highdicom, which is not installed: "
            "pip install -e '.[dicom_seg]'"
        )


def write(
    path: str | os.PathLike,
    mask: np.ndarray,
    folder: str | os.PathLike,
    *,
    model_name: str,
    series: str | None = None,
) -> None:
    """Writes a mask as a DICOM segmentation object with one binary segment per class that occurs.

    Args:
      path: the .dcm file to write, completely or not at all.
      mask: uint8 [x, y, z] in the axis order of `dicom.read_series`: 1 pancreas, 2 tumour.
      folder, series: folder and series of its CT, as for `dicom.read_series`.
      model_name: name of the model that made the mask.
    Raises:
      ValueError: if highdicom is not installed; if the mask is empty, which a segmentation object
        cannot be, or not on the grid of the series; or if the series is one multi-frame file or
        holds values that the object must not repeat.
      IntegrityError: as `dicom.read_series`; and rule D12, naming the file, if it lacks an
          attribute that the object must repeat.
    """
    require_writer()
    with dicom.slice_files(folder, series) as files:
        _write(path, mask, files, model_name)


def _write(
    path: str | os.PathLike, mask: np.ndarray, files: list[pathlib.Path], model_name: str
) -> None:
    present = [value for value in _SEGMENTS if np.any(mask == value)]
    if not present:
        raise ValueError(
            f"{path}: the mask is empty, and a DICOM segmentation object holds at least one "
            "segment; see the NIfTI mask"
        )
    if len(set(files)) != len(files):
        raise ValueError(
            f"{path}: the CT is one multi-frame file, for which no segmentation object is written; "
            "see the NIfTI mask"
        )
    sources = [_source(file) for file in files]
    frames = np.ascontiguousarray(mask.transpose(2, 1, 0))
    expected = (len(files), int(sources[0].Rows), int(sources[0].Columns))
    if frames.shape != expected:
        raise ValueError(
            f"{path}: mask has {frames.shape} slices, rows and columns, its series {expected}; "
            "pass the mask of this series"
        )
    try:
        segmentation = _segmentation(sources, frames, present, model_name)
    # highdicom checks what it copies, and raises any of these
    except (
        AttributeError,
        KeyError,
        ValueError,
        TypeError,
        IndexError,
        OverflowError,
    ) as error:
        raise ValueError(
            f"{path}: {files[0]} holds a value that the object may not repeat "
            f"({type(error).__name__}: {error}); correct it there, or use the NIfTI mask"
        ) from error
    with atomic.replacing(path) as temporary:
        segmentation.save_as(temporary)


def _source(file: pathlib.Path) -> pydicom.Dataset:
    """Returns the dataset of a slice without pixels; adds absent attributes that may be empty."""
    header = dicom_header.read(file)
    absent = [name for name in _MUST_REPEAT if not header.text(name)]
    if absent:
        problem = f"has no {', '.join(absent)}, which every object of its study must repeat"
        fix = "add it to this file (e.g. with dcmodify), or use the NIfTI mask"
        raise broken(rules.ATTRIBUTE, file, problem, fix)
    dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)
    for name in _MAY_BE_EMPTY:
        if name not in dataset:
            setattr(dataset, name, "")
    return dataset


def _segmentation(
    sources: list[pydicom.Dataset], frames: np.ndarray, present: list[int], model_name: str
) -> highdicom.seg.Segmentation:
    version = release.version()
    return highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=np.stack([frames == value for value in present], axis=-1),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(number, value, model_name, version)
            for number, value in enumerate(present, start=1)
        ],
        series_instance_uid=highdicom.UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=release.NAME,
        manufacturer_model_name=model_name[:64],
        software_versions=version,
        device_serial_number="0",
        series_description="Pancreas segmentation (research)",
    )


def _description(
    number: int, value: int, model_name: str, version: str
) -> highdicom.seg.SegmentDescription:
    label, category, kind, region = _SEGMENTS[value]
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=_concept(category),
        segmented_property_type=_concept(kind),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=model_name,
            version=version,
            family=highdicom.sr.CodedConcept("123110", "DCM", "Artificial Intelligence"),
        ),
        anatomic_regions=None if region is None else [_concept(region)],
    )


def _concept(code: tuple[str, str]) -> highdicom.sr.CodedConcept:
    return highdicom.sr.CodedConcept(code[0], "SCT", code[1])

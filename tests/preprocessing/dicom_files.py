"""DICOM series for tests, as a scanner would have written them for a volume."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT_STORAGE, ENHANCED_CT, SECONDARY_CAPTURE = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.7",
)


def slices(
    volume,
    *,
    series: str = "1.2.826.0.1.1",
    slope: float = 1.0,
    intercept: float = -1024.0,
    stored_as: str = "<u2",
) -> list[Dataset]:
    """Returns a dataset for each slice of a CT along its third axis.

    The affine may be any that is not sheared.
    """
    to_lps = np.diag([-1.0, -1.0, 1.0])
    columns = to_lps @ volume.affine[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    row, column = columns[:, 0] / spacing[0], columns[:, 1] / spacing[1]
    result = []
    for k in range(volume.shape[2]):
        position = to_lps @ (volume.affine @ [0, 0, k, 1])[:3]
        ds = blank(series, number=k + 1, rows=volume.shape[1], columns=volume.shape[0])
        ds.ImagePositionPatient = [f"{v:.6f}" for v in position]
        ds.ImageOrientationPatient = [f"{v:.8f}" for v in (*row, *column)]
        ds.PixelSpacing = [f"{spacing[1]:.6f}", f"{spacing[0]:.6f}"]
        ds.SliceThickness = f"{spacing[2]:.6f}"
        ds.RescaleSlope, ds.RescaleIntercept = slope, intercept
        ds.PixelRepresentation = int(stored_as == "<i2")
        ds.PixelData = stored(volume.array[:, :, k], slope, intercept, stored_as).tobytes()
        result.append(ds)
    return result


def stored(plane: np.ndarray, slope: float, intercept: float, stored_as: str = "<u2") -> np.ndarray:
    """Returns the pixels [rows, columns] that stand for HU [x, y]."""
    return np.rint((plane.T.astype(np.float64) - intercept) / slope).astype(stored_as)


def blank(series: str, *, number: int, rows: int, columns: int) -> Dataset:
    """Returns the dataset of a CT slice without position and pixels."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = CT_STORAGE, generate_uid()
    ds.SeriesInstanceUID, ds.InstanceNumber, ds.Modality = series, number, "CT"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.PatientID, ds.PatientName = "", ""
    ds.Rows, ds.Columns = rows, columns
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    return ds


def save(
    folder: pathlib.Path,
    datasets: Iterable[Dataset],
    *,
    syntax: str | None = None,
    name: Callable[[int], str] | None = None,
) -> None:
    """Writes datasets under names that do not show their order.

    Args:
      syntax: transfer syntax to compress them with, if any.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for i, ds in enumerate(datasets):
        if syntax is not None:
            ds.compress(syntax, generate_instance_uid=False)
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = (
            ds.SOPClassUID,
            ds.SOPInstanceUID,
        )
        pydicom.dcmwrite(
            folder / (name(i) if name else f"{(i * 7919 + 13) % 10007:05d}.dcm"),
            ds,
            enforce_file_format=True,
        )


def enhanced(volume, *, series: str = "1.2.826.0.1.2") -> Dataset:
    """Returns one multi-frame dataset of a CT, its frames in reverse order."""
    single = slices(volume, series=series)[::-1]
    ds = blank(series, number=1, rows=volume.shape[1], columns=volume.shape[0])
    ds.SOPClassUID, ds.NumberOfFrames = ENHANCED_CT, len(single)
    shared, frames = Dataset(), []
    (
        shared.PixelMeasuresSequence,
        shared.PlaneOrientationSequence,
        shared.PixelValueTransformationSequence,
    ) = [[Dataset()] for _ in range(3)]
    shared.PixelMeasuresSequence[0].PixelSpacing = single[0].PixelSpacing
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = single[0].ImageOrientationPatient
    shared.PixelValueTransformationSequence[0].RescaleSlope = single[0].RescaleSlope
    shared.PixelValueTransformationSequence[0].RescaleIntercept = single[0].RescaleIntercept
    for one in single:
        frame = Dataset()
        frame.PlanePositionSequence = [Dataset()]
        frame.PlanePositionSequence[0].ImagePositionPatient = one.ImagePositionPatient
        frames.append(frame)
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], frames
    ds.PixelData = b"".join(one.PixelData for one in single)
    return ds

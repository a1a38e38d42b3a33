"""The rules that a site's data must meet. The id of a rule never changes, so that it can be cited.

The first letter of an id is its group: F files, G geometry, L labels, C content, D DICOM series, M
manifests, X the cohort as a whole, N the layout of NIH Pancreas-CT. docs/data.md lists the rules
for users.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Literal

from absl import logging

from runkit import printable

SPACING_MM = (0.05, 20.0)
# In units of the shortest voxel edge: rounding in headers stays far below it; a shift by half a
# voxel exceeds it.
MISPLACED_VOXELS = 0.25

_EXCLUDE = "or list the case under `excluded` in the manifest"
_ACCEPT = "or, if it is right as it is, name the rule under `accept` of this case in the manifest"


@dataclasses.dataclass(frozen=True)
class Rule:
    """A requirement on a case, and the remedy for a case that breaks it.

    Attributes:
      severity: an "error" refuses the case, a "warning" is only reported.
      acceptable: whether a manifest may accept a case that breaks the rule. Only judgements about
          content can be accepted, never defects that make a case unusable.
    """

    id: str
    name: str
    demand: str
    fix: str
    severity: Literal["error", "warning"] = "error"
    acceptable: bool = False


MISSING = Rule(
    "F01", "missing", "the file is there and can be read", "correct the path or restore the file"
)
NOT_NIFTI = Rule("F02", "not-nifti", "the file is one NIfTI volume", "convert the scan to .nii.gz")
TRUNCATED = Rule(
    "F03", "truncated", "the file is complete", "the file was cut short: copy or export it again"
)
CORRUPT = Rule(
    "F04", "corrupt", "compressed data pass their own checksum", "copy or export it again"
)
DATA_TYPE = Rule(
    "F05", "data-type", "a voxel is one real number", "export it without colour or complex values"
)
DIMENSIONS = Rule(
    "F06",
    "dimensions",
    "the file holds one 3D volume",
    "export a single 3D series, or split the file into its volumes",
)
NOT_FINITE = Rule(
    "F07",
    "not-finite",
    "no voxel is NaN or infinite",
    "export it again; if such voxels only pad the scan, write air (-1024 HU) in their place",
)
SCALING = Rule(
    "F08", "scaling", "slope and intercept are numbers, the slope not 0", "export the volume again"
)
UNUSABLE = Rule(
    "F09",
    "unusable",
    "the case can be processed",
    "see the message; exclude the case if nothing helps",
)

NO_PLACE = Rule(
    "G01",
    "no-place",
    "the header places every voxel",
    "write a valid sform or qform into the header",
)
UNITS = Rule("G02", "units", "lengths are in mm", "write them in mm")
SPACING = Rule(
    "G03",
    "spacing",
    f"voxel spacing lies between {SPACING_MM[0]} and {SPACING_MM[1]} mm",
    "correct pixdim and affine in the header",
)
ONE_SLICE = Rule(
    "G04",
    "one-slice",
    "the volume has at least two voxels along each axis",
    "export the whole series as one volume",
)
OTHER_SHAPE = Rule(
    "G05",
    "grid-shape",
    "image and label have the same voxels",
    f"redraw the label on the scan's grid, {_EXCLUDE}",
)
MISPLACED = Rule(
    "G06",
    "grid-position",
    f"corners of label and image lie at most {MISPLACED_VOXELS} of the shortest voxel edge apart",
    f"export the label with the scan's own affine, {_EXCLUDE}",
)
TWO_PLACES = Rule(
    "G07",
    "two-places",
    "sform, qform and pixdim of one file agree",
    "find out which of them is right and write it into the others, "
    "or set the wrong form's code to 0",
)
SHEARED = Rule(
    "G08",
    "sheared",
    "the axes are at right angles",
    "resample the scan to an upright grid (tilted gantry: with the tool of the scanner's maker)",
)
SMALL_VIEW = Rule(
    "G09",
    "field-of-view",
    "the volume covers 100 mm to 1000 mm in its two widest axes",
    "check the unit of the spacing in the header",
    "warning",
)

FRACTIONAL = Rule(
    "L01",
    "fractional",
    "label values are whole numbers",
    "the map was interpolated or holds probabilities: "
    "export it with nearest-neighbour interpolation",
)
UNKNOWN_VALUES = Rule(
    "L02",
    "unknown-values",
    "label values are 0 background, 1 pancreas, 2 tumour, or mapped to them by the manifest",
    "correct the map, or say in the manifest which value is which class, "
    'e.g. "label_values": {"7": 1}',
)
EMPTY = Rule(
    "L03", "label-empty", "the label marks pancreas or tumour", f"add the label, {_EXCLUDE}"
)
TOO_LARGE = Rule(
    "L04",
    "label-too-large",
    "the label marks less than a third of the volume",
    f"check whether it is inverted, {_EXCLUDE}",
)
TUMOUR_ALONE = Rule(
    "L05",
    "tumour-alone",
    "tumour lies within 30 mm of pancreas",
    f"check that the label holds the pancreas and no stray voxels, {_ACCEPT}",
    acceptable=True,
)
UNUSUAL_VOLUME = Rule(
    "L06",
    "organ-volume",
    "pancreas and tumour together measure 10 to 600 ml",
    "look at the label; check the spacing",
    "warning",
)
DECLARED_MISSING = Rule(
    "L07",
    "label-undeclared",
    "no label shows a class that the manifest declares absent or unlabelled",
    "correct `declared_labels` in the manifest, or the label",
)

NOT_HU = Rule(
    "C01",
    "ct-range",
    "the CT is in Hounsfield units: air below 0, and soft tissue between -200 and 300",
    "apply the rescale slope and intercept, and check that image and label are not swapped",
)
HU_OFFSET = Rule(
    "C02", "hu-offset", "the CT is not off by 1024 HU", "apply the rescale intercept exactly once"
)
LABEL_IS_CT = Rule(
    "C03",
    "label-is-ct",
    "the label file holds labels",
    "check that image and label are not swapped, and that no file is listed as both",
)
LABEL_IN_AIR = Rule(
    "C04",
    "label-in-air",
    "at most a fifth of the label lies in air",
    f"check flips, shifts and crops of the label, {_ACCEPT}",
    acceptable=True,
)
LABEL_NOT_ORGAN = Rule(
    "C05",
    "label-not-organ",
    "the median inside the label lies between -60 and 250 HU, "
    "as in pancreas and tumour with or without contrast",
    f"check flips, shifts and crops of the label, {_ACCEPT}",
    acceptable=True,
)
LABEL_FLIPPED = Rule(
    "C06",
    "label-flipped",
    "no mirror image of the label fits the CT much better than the label itself",
    f"flip the label's voxels back (its header does not show it), {_ACCEPT}",
    acceptable=True,
)
LABEL_SHIFTED = Rule(
    "C07",
    "label-shifted",
    "the label does not fit the CT much better at another place",
    f"move the label's voxels back (its header does not show it), {_ACCEPT}",
    acceptable=True,
)
POOR_FIT = Rule(
    "C08", "label-fit", "HU change across the label's surface", "look at the label", "warning"
)

NO_SERIES = Rule(
    "D01",
    "no-series",
    "the folder holds a DICOM series of CT slices",
    "give the folder that holds the series' files",
)
SEVERAL_SERIES = Rule(
    "D02",
    "several-series",
    "the folder holds one CT series",
    "name the right one under `series` of this case in the manifest",
)
MIXED_SLICES = Rule(
    "D03",
    "mixed-slices",
    "all slices of a series have the same size, spacing and orientation",
    "export the reconstruction that was labelled on its own",
)
MISSING_SLICE = Rule(
    "D04",
    "missing-slice",
    "all slices of a series are the same distance apart",
    "fetch the missing slices again",
)
DUPLICATE_SLICE = Rule(
    "D05",
    "duplicate-slice",
    "no two slices lie at the same place",
    "remove the slice that does not belong to the series",
)
GANTRY_TILT = Rule(
    "D06",
    "gantry-tilt",
    "slices are stacked along their normal",
    "have the scanner's tool correct the tilt, or exclude the case",
)
NO_GEOMETRY = Rule(
    "D07",
    "no-geometry",
    "every slice says where it lies: position, orientation, pixel spacing",
    "export the original CT slices, not pictures of them",
)
NOT_GREY = Rule(
    "D08",
    "not-grey",
    "slices are single-channel CT pixels",
    "export the original CT slices, not pictures of them",
)
UNDECODABLE = Rule(
    "D09",
    "undecodable",
    "a file that may be a slice is complete and can be decoded",
    "fetch the file again, decompress it (gdcmconv --raw), "
    "or take it out of the folder if it is not a slice",
)
NOT_CT = Rule("D10", "not-ct", "the series is CT", "give the folder of the CT series")
NO_RESCALE = Rule(
    "D11",
    "no-rescale",
    "every slice says how its pixels become HU",
    "export the slices with RescaleSlope and RescaleIntercept",
)
ATTRIBUTE = Rule(
    "D12",
    "attribute",
    "an attribute that is read holds values of the expected type, number and range",
    "correct the attribute in this file (e.g. with dcmodify), or export the series again",
)
SEVERAL_ACQUISITIONS = Rule(
    "D13",
    "several-acquisitions",
    "a series holds one acquisition, or several that follow each other",
    "choose one under `series` of this case in the manifest: "
    'the series, then # and the acquisition, e.g. "series": "1.2.840...#2"',
)
INSTANCE_GAP = Rule(
    "D14",
    "instance-gap",
    "the instance numbers of a series have no gap",
    "compare the number of slices with the archive's, "
    "and fetch the series again if some are missing",
    "warning",
)
PADDING_IN_TISSUE = Rule(
    "D15",
    "padding-in-tissue",
    "PixelPaddingValue is not a value of tissue",
    "look at the scan: only padding that reaches the border of a slice was replaced by air",
    "warning",
)
ARCHIVE = Rule(
    "D16",
    "archive",
    "a zip is whole, needs no password, and holds files of a series with plain names "
    "and a plausible size",
    "unpack it with a tool that you trust and give the folder",
)

MANIFEST = Rule(
    "M01",
    "manifest-unreadable",
    "the manifest is a JSON object",
    "give the path of a manifest.json or dataset.json",
)
MANIFEST_KEYS = Rule(
    "M02",
    "manifest-keys",
    "the manifest has the keys and types of docs/data.md",
    "correct the entry",
)
CASE_TWICE = Rule(
    "M03", "case-twice", "no case id and no file is listed twice", "give each scan its own entry"
)
CASE_ID = Rule(
    "M04",
    "case-id",
    "case ids consist of letters, digits, '.', '_' and '-', beginning with a letter or digit",
    "rename the case",
)
MANIFEST_REFERENCE = Rule(
    "M05",
    "manifest-reference",
    "`excluded`, `label_values` and `accept` name cases, classes and rules that exist",
    "correct or remove it",
)

SAME_SCAN = Rule(
    "X01",
    "same-scan",
    "no scan has two entries",
    "keep one of the two and list the other under `excluded`",
)
SAME_LABEL = Rule(
    "X02", "same-label", "no two scans share a label", "correct the label's path in the manifest"
)

TURN_UNCLEAR = Rule(
    "N01",
    "turn-unclear",
    "one way of turning the NIH label onto its scan fits clearly best",
    "compare the case by eye and write the turn under `label_turn` in the manifest",
)

RULES: tuple[Rule, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Rule)
)
BY_ID = {rule.id: rule for rule in RULES}


class IntegrityError(ValueError):
    """Data that break a rule.

    Attributes:
      rule: id of the rule.
      file: the file or folder that breaks it.
      problem: what was found there.
      fix: the remedy.
    """

    def __init__(self, rule: str, file: str, problem: str, fix: str):
        problem = printable.text(problem, limit=1000)  # it may quote a header
        super().__init__(
            f"{printable.text(file, limit=1000)}: {problem} [{rule} {BY_ID[rule].name}]; {fix}"
        )
        self.rule, self.file, self.problem, self.fix = rule, str(file), problem, fix

    # for pickling on the way from worker processes
    def __reduce__(self) -> tuple[type[IntegrityError], tuple[str, str, str, str]]:
        return IntegrityError, (self.rule, self.file, self.problem, self.fix)


def refusal(error: Exception, file: str | os.PathLike) -> IntegrityError:
    """Returns the IntegrityError with which a case is refused after any error.

    An IntegrityError is returned as it is. A programming error also refuses only this case; its
    stack trace goes to the log.

    Args:
      file: the scan of the case.
    """
    if isinstance(error, IntegrityError):
        return error
    if isinstance(error, MemoryError):
        fix = "free memory, or use a machine with more of it"
        return broken(UNUSABLE, file, "does not fit into memory", fix)
    text = " ".join(str(error).split()).removeprefix(f"{file}: ")
    if isinstance(error, ValueError | OSError):
        return broken(UNUSABLE, file, text or type(error).__name__)
    logging.error("rule=%s: stack trace of an unforeseen error", UNUSABLE.id, exc_info=error)
    problem = f"an unforeseen {type(error).__name__}: {text}"
    return broken(UNUSABLE, file, problem, "see the stack trace in the log, and report it")


def contradicts_declaration(file: str | os.PathLike, classes: Sequence[str]) -> IntegrityError:
    """Returns the error for a label that shows classes which the manifest rules out."""
    problem = f"shows {' and '.join(classes)}, which the manifest declares to be in no label"
    return broken(DECLARED_MISSING, file, problem)


def broken(
    rule: Rule, file: str | os.PathLike, problem: str, fix: str | None = None
) -> IntegrityError:
    """Returns the error for a file that breaks a rule.

    Args:
      problem: what was found in the file.
      fix: the remedy, if it can be more precise than the rule's own.
    """
    return IntegrityError(rule.id, str(file), problem, fix or rule.fix)

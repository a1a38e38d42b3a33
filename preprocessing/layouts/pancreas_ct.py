"""Layout `pancreas_ct`: NIH Pancreas-CT (The Cancer Imaging Archive) as it is downloaded.

The download is a tree of DICOM series and a folder of NIfTI labels. It has two pitfalls. Cases 25
and 70 are case 2 again, cropped differently; version 2 of the collection removed them, but older
copies and lists still have them. And the headers of the labels do not say where the labels lie on
the scans: some axes are reversed relative to the DICOM geometry, and not the same ones in every
copy. A label's header is therefore ignored, and its turn is determined from the voxels.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence

from preprocessing import declared_labels, dicom, nifti, rules, sources
from preprocessing.case_list import Case
from preprocessing.checks import integrity, label_fit
from preprocessing.layouts import Layout
from preprocessing.rules import IntegrityError, broken
from preprocessing.volume import Volume
from runkit import progress
from runkit import workers as processes

REPEATED = {25: 2, 70: 2}  # case -> the case with the same scan
_IMAGE = re.compile(r"PANCREAS_(\d{4})\Z", re.IGNORECASE)
_LABEL = re.compile(r"label(\d{4})\.nii(\.gz)?\Z", re.IGNORECASE)
# The fit is 0.6 or more for the right turn, and at most 0.3 for a wrong one (see label_fit).
_LEAST_FIT, _LEAST_LEAD = 0.5, 0.25


@dataclasses.dataclass(frozen=True)
class Placed:
    """A case whose label was compared with its scan: how it is turned, or why that is unclear.

    Attributes:
      fit, runner_up: how well the label fits with the best turn and with the second best.
    """

    case: Case
    fit: float | None = None
    runner_up: float | None = None
    error: IntegrityError | None = None

    @property
    def remark(self) -> str:
        turn = self.case.label_turn
        return f"label turned {turn}, fit {self.fit:.2f}, the next {self.runner_up:.2f}"


def find_cases(images: pathlib.Path, labels: pathlib.Path) -> list[Case]:
    """Returns the cases with a folder PANCREAS_00NN, by number, without 25 and 70.

    A case without a label file has no label.

    Raises:
      ValueError: if there is no case, or two have the same number.
    """
    folders = _numbered(
        path for path in _below(images) if _IMAGE.match(path.name) and path.is_dir()
    )
    drawn = _numbered(path for path in _below(labels) if _LABEL.match(path.name))
    if not folders:
        raise ValueError(
            f"{images}: holds no folder PANCREAS_0001 or the like; "
            "give the folder of the downloaded DICOM tree"
        )
    return [
        Case(f"PANCREAS_{n:04d}", folders[n], drawn.get(n))
        for n in sorted(folders)
        if n not in REPEATED
    ]


def _below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the files and folders below a folder that are not hidden."""
    found = sorted(folder.rglob("*"))
    yield from (
        path
        for path in found
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _numbered(paths: Iterable[pathlib.Path]) -> dict[int, pathlib.Path]:
    found: dict[int, pathlib.Path] = {}
    for path in paths:
        number = int(re.findall(r"\d{4}", path.name)[0])
        if number in found:
            raise ValueError(
                f"{found[number]} and {path} are both number {number}; "
                "keep one of them in the folder"
            )
        found[number] = path
    return found


def place_labels(cases: Sequence[Case], workers: int = 1) -> list[Placed]:
    """Finds for each labelled case how its label is turned onto its scan, in the order given.

    A case that fails does not stop the others.
    """
    dicom.require_reader()
    labelled = [case for case in cases if case.label is not None]
    with progress.bar(
        _placed(labelled, workers), total=len(labelled), what="turn labels", unit="case"
    ) as bar:
        found = {placed.case.case_id: placed for placed in bar}
    return [found[case.case_id] for case in labelled]


def turn_of(image: Volume, label: Volume) -> tuple[str, float, float]:
    """Finds how a label's array must be turned to lie on its scan.

    All 16 turns that map slices to slices are tried: x and y exchanged or not, each axis reversed
    or not. See `sources.turned`.

    Returns:
      The best turn, its fit, and the fit of the second best.
    Raises:
      ValueError: if label and scan differ in shape, or too few voxels are labelled.
    """
    fits: dict[str, float] = {}
    for axes in ("xyz", "yxz"):
        upright = sources.turned(label.array, "".join(f"+{axis}" for axis in axes))
        if upright.shape != image.shape:
            continue
        where = label_fit.sample(upright, image.spacing_mm)
        if where is not None:
            for flips, fit in label_fit.fits(image.array, where).items():
                signs = ("-" if flip else "+" for flip in flips)
                fits["".join(sign + axis for sign, axis in zip(signs, axes, strict=True))] = fit
    if not fits:
        raise ValueError(
            f"label of {label.shape} voxels cannot be compared with a scan of {image.shape}"
        )
    best, second = sorted(fits, key=lambda turn: -fits[turn])[:2]
    return best, fits[best], fits[second]


def _placed(cases: Sequence[Case], workers: int) -> Iterator[Placed]:
    for number, placed in processes.results(_place, [(case,) for case in cases], workers):
        if placed is None:
            problem = (
                "the process that compared its label with it was killed, "
                "most likely for lack of memory"
            )
            fix = "free memory, or use fewer --workers"
            error = broken(rules.UNUSABLE, cases[number].image, problem, fix)
            placed = Placed(cases[number], error=error)
        yield placed


def _place(case: Case) -> Placed:
    try:
        image = sources.read_image(case)
        label = nifti.read_labels(case.required_label, ignore_place=True)
        # a turn may exchange x and y
        for plane in (label.shape[:2], label.shape[1::-1]):
            integrity.require_whole_scan(
                image.shape, (*plane, label.shape[2]), (str(case.image), str(case.label))
            )
        try:
            turn, fit, runner_up = turn_of(image, label)
        except ValueError as error:
            raise broken(rules.OTHER_SHAPE, case.required_label, str(error)) from error
        if fit < _LEAST_FIT or fit - runner_up < _LEAST_LEAD:
            problem = (
                f"turned {turn}, it fits its scan with {fit:.2f}; "
                f"the next best turn fits with {runner_up:.2f}"
            )
            unclear = broken(rules.TURN_UNCLEAR, case.required_label, problem)
            return Placed(case, fit, runner_up, unclear)
    except Exception as error:  # if one case fails, the others are still compared
        return Placed(case, error=rules.refusal(error, case.image))
    return Placed(dataclasses.replace(case, label_turn=turn), fit, runner_up)


def _find(images: pathlib.Path, labels: pathlib.Path) -> tuple[list[Case], list[str]]:
    return find_cases(images, labels), []


LAYOUT = Layout(
    _find,
    place_labels,
    {"pancreas": declared_labels.COMPLETE, "tumour": declared_labels.ABSENT},  # healthy patients
)

"""NIH Pancreas-CT (The Cancer Imaging Archive) as it is downloaded: a tree of DICOM series, and a
folder of NIfTI labels.

Two traps are in it. Cases 25 and 70 are case 2 again, cropped differently; version 2 of the
collection removed them, older copies and lists still have them. And the labels' headers do not say
where they lie on the scans: against the DICOM geometry their axes are reversed, and not in every
copy the same ones. So a label's header is not used; how it must be turned is found from the voxels.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence

from preprocessing import dicom, nifti, sources
from preprocessing.checks import integrity, label_fit, rules
from preprocessing.checks.rules import IntegrityError, broken
from preprocessing.manifest import Case
from preprocessing.volume import Volume
from runkit import progress
from runkit import workers as processes

REPEATED = {25: 2, 70: 2}  # the same scan as
_IMAGE, _LABEL = (
    re.compile(r"PANCREAS_(\d{4})\Z", re.IGNORECASE),
    re.compile(r"label(\d{4})\.nii(\.gz)?\Z", re.IGNORECASE),
)
# a label in its place fits with 0.6 and more, turned wrongly with up to 0.3 (see label_fit)
_LEAST_FIT, _LEAST_LEAD = 0.5, 0.25


@dataclasses.dataclass(frozen=True)
class Placed:
    """A case whose label was compared with its scan: how it was turned, or why it could not be
    told.

    Attributes:
      fit, runner_up: how well the label fits turned so, and turned the second best way.
    """

    case: Case
    fit: float | None = None
    runner_up: float | None = None
    error: IntegrityError | None = None


def find_cases(images: pathlib.Path, labels: pathlib.Path) -> list[Case]:
    """Returns the cases that have a folder PANCREAS_00NN, without 25 and 70, by number; a case
    without label file has none.

    Raises:
      ValueError: if there is none, or two of one number.
    """
    folders = _numbered(
        path for path in _below(images) if _IMAGE.match(path.name) and path.is_dir()
    )
    drawn = _numbered(path for path in _below(labels) if _LABEL.match(path.name))
    if not folders:
        raise ValueError(
            f"{images}: holds no folder PANCREAS_0001 or the like; give the folder of the downloaded DICOM tree"
        )
    return [
        Case(f"PANCREAS_{n:04d}", folders[n], drawn.get(n))
        for n in sorted(folders)
        if n not in REPEATED
    ]


def _below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields what lies below a folder, without what is hidden (.git with an annex, ._ files of
    macOS).
    """
    found = sorted(folder.rglob("*"))
    yield from (
        path
        for path in found
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _numbered(paths: Iterable[pathlib.Path]) -> dict[int, pathlib.Path]:
    found: dict[int, pathlib.Path] = {}
    for path in paths:
        number = int(re.search(r"\d{4}", path.name)[0])
        if number in found:
            raise ValueError(
                f"{found[number]} and {path} are both number {number}; keep one of them in the folder"
            )
        found[number] = path
    return found


def place_labels(cases: Sequence[Case], *, workers: int = 1) -> list[Placed]:
    """Finds for each case with a label how it is turned onto its scan, in the order given; a bad
    case stops no other.
    """
    dicom.require_reader()
    labelled = [case for case in cases if case.label is not None]
    with progress.bar(
        _placed(labelled, workers), total=len(labelled), what="turn labels", unit="case"
    ) as bar:
        found = {placed.case.case_id: placed for placed in bar}
    return [found[case.case_id] for case in labelled]


def turn_of(image: Volume, label: Volume) -> tuple[str, float, float]:
    """Returns how a label's array must be turned to lie on its scan, how well it fits then, and how
    well turned the second best way.

    All 16 ways are tried that keep slices slices: x and y exchanged or not, each axis reversed or
    not. See `sources.turned`.

    Raises:
      ValueError: if the label has other voxels than the scan, or too few labelled ones to tell.
    """
    fits: dict[str, float] = {}
    for axes in ("xyz", "yxz"):
        upright = sources.turned(label.array, "".join(f"+{axis}" for axis in axes))
        if upright.shape != image.shape:
            continue
        where = label_fit.sample(upright, image.spacing_mm)
        if where is not None:
            for flip, fit in label_fit.fits(image.array, where).items():
                fits[
                    "".join(
                        ("-" if reverse else "+") + axis
                        for axis, reverse in zip(axes, flip, strict=True)
                    )
                ] = fit
    if not fits:
        raise ValueError(
            f"label of {label.shape} voxels cannot be compared with a scan of {image.shape}"
        )
    best, second = sorted(fits, key=lambda turn: -fits[turn])[:2]
    return best, fits[best], fits[second]


def _placed(cases: Sequence[Case], workers: int) -> Iterator[Placed]:
    if workers <= 1 or len(cases) <= 1:
        yield from map(_place, cases)
        return
    for number, placed in processes.results(_place, [(case,) for case in cases], workers):
        if placed is None:
            problem = "the process that compared its label with it was killed, most likely for want of memory"
            placed = Placed(
                cases[number],
                error=broken(
                    rules.UNUSABLE,
                    cases[number].image,
                    problem,
                    "free memory, or use fewer --workers",
                ),
            )
        yield placed


def _place(case: Case) -> Placed:
    try:
        image, label = sources.read_image(case), nifti.read_labels(case.label, ignore_place=True)
        # a turn exchanges x and y and leaves slices slices
        for plane in (label.shape[:2], label.shape[1::-1]):
            integrity.require_whole_scan(
                image.shape, (*plane, label.shape[2]), (str(case.image), str(case.label))
            )
        try:
            turn, fit, runner_up = turn_of(image, label)
        except ValueError as error:
            raise broken(rules.OTHER_SHAPE, case.label, str(error)) from error
        if fit < _LEAST_FIT or fit - runner_up < _LEAST_LEAD:
            problem = f"turned {turn} it fits its scan with {fit:.2f}, turned another way with {runner_up:.2f}"
            return Placed(case, fit, runner_up, broken(rules.TURN_UNCLEAR, case.label, problem))
    except Exception as error:  # whatever one case does, the others are compared
        return Placed(case, error=rules.refusal(error, case.image))
    return Placed(dataclasses.replace(case, label_turn=turn), fit, runner_up)

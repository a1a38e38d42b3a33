"""Examines the cases of a cohort without preparing them.

For each case: the rules it breaks, its measurements, and a picture. The report of the check shows
them, and the cohort report (`cohort`) summarises them.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from preprocessing import declared_labels, geometry, rules, sources
from preprocessing.axes import three
from preprocessing.case_list import Case, CaseManifest
from preprocessing.checks import integrity, same_scan
from preprocessing.rules import IntegrityError, broken
from preprocessing.volume import Volume
from runkit import progress
from runkit import workers as processes
from runkit.classes import FOREGROUND

HU_EDGES = tuple(range(-200, 401, 10))  # edges of the histograms of HU inside a class
_EACH_SHARE = 20  # the pause between two intermediate reports is 20 times as long as writing one
_PICTURE_PIXELS = 144
_PICTURE_WINDOW = (-160.0, 240.0)
_COLOURS = {1: (64, 200, 255), 2: (255, 190, 40)}


@dataclasses.dataclass(frozen=True)
class Facts:
    """The measurements of a case.

    Attributes:
      shape, spacing_mm: along x, y, z in RAS+.
      axes: directions of the file's axes, e.g. "LPS".
      volume_ml: class -> volume, for classes that occur.
      hu: class -> counts of its voxels between `HU_EDGES`; voxels beyond them count in the first
          and last bin.
      median_hu: class -> median.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    axes: str
    volume_ml: Mapping[int, float]
    hu: Mapping[int, tuple[int, ...]]
    median_hu: Mapping[int, float]


@dataclasses.dataclass(frozen=True, eq=False)
class CheckFinding:
    """The findings on one case.

    Attributes:
      problems: the rules it breaks, errors first.
      facts: its measurements; None if its files cannot be used.
      picture: uint8 [rows, columns, 3].
      marks: marks of its slices, see `same_scan`.
      label_sha256: hash of its label file.
    """

    case: Case
    problems: tuple[IntegrityError, ...]
    facts: Facts | None = None
    picture: np.ndarray | None = None
    marks: tuple[str, ...] = ()
    label_sha256: str | None = None

    @property
    def errors(self) -> tuple[IntegrityError, ...]:
        return tuple(p for p in self.problems if rules.BY_ID[p.rule].severity == "error")

    @property
    def warnings(self) -> tuple[IntegrityError, ...]:
        return tuple(p for p in self.problems if rules.BY_ID[p.rule].severity == "warning")

    @property
    def usable(self) -> bool:
        """Whether it breaks no rule of severity "error"."""
        return not self.errors


def survey(
    manifest: CaseManifest,
    *,
    workers: int = 1,
    each: Callable[[list[CheckFinding]], None] = lambda found: None,
    clock: Callable[[], float] = time.monotonic,
) -> list[CheckFinding]:
    """Returns a finding for every included case, in the order of the manifest.

    A case that fails does not stop the others.

    Args:
      workers: number of cases at the same time, each in its own process.
      each: receives the findings so far, in the order of the manifest, so that it can write an
        intermediate report. It is called as cases finish, but only so often that it takes a
        twentieth of the time; for a cohort of thousands it would otherwise take most of it.
      clock: returns seconds, from any origin.
    Raises:
      ValueError: if a reader that a case needs is not installed.
    """
    sources.require_readers(manifest)
    found: dict[str, CheckFinding] = {}
    due = clock()
    with progress.bar(
        total=len(manifest.included), what=f"check {manifest.site}", unit="case"
    ) as bar:
        for finding in _findings(manifest, workers):
            found[finding.case.case_id] = finding
            if (began := clock()) >= due:
                each([found[case.case_id] for case in manifest.included if case.case_id in found])
                due = clock() + _EACH_SHARE * (clock() - began)
            bar.set_postfix_str(f"{sum(not f.usable for f in found.values())} refused")
            bar.update()
    return _across([_as_declared(found[case.case_id], manifest) for case in manifest.included])


def look_at(case: Case, label_values: Mapping[int, int] | None = None) -> CheckFinding:
    """Examines one case by itself. If it has no label, only its scan is examined."""
    image: Volume | None = None
    label: Volume | None = None
    problems: list[IntegrityError] = []
    try:
        if case.label is None:
            image = sources.read_image(case)
            problems += integrity.check_scan(image, str(case.image))
        else:
            image, label = sources.read_case(case, label_values)
            problems += integrity.check_case(
                image, label, (str(case.image), str(case.label)), accepted=case.accept
            )
    except Exception as error:  # if one case fails, the others are still examined
        problems.insert(0, rules.refusal(error, case.image))
    if image is None or any(p.rule == rules.NO_PLACE.id for p in problems):
        return CheckFinding(case, tuple(problems))
    try:
        return _measured(case, problems, image, label)
    except Exception as error:
        return CheckFinding(case, (rules.refusal(error, case.image), *problems))


def _measured(
    case: Case, problems: list[IntegrityError], image: Volume, label: Volume | None
) -> CheckFinding:
    upright = geometry.to_ras(image)
    labelled = None if label is None else geometry.to_ras(label)
    if labelled is not None and labelled.shape != upright.shape:
        labelled = None
    return CheckFinding(
        case,
        tuple(problems),
        _facts(image, upright, labelled),
        labelled_slice(upright, labelled),
        same_scan.slice_marks(upright),
        None if case.label is None else sources.file_sha256(case.label),
    )


def labelled_slice(image: Volume, label: Volume | None) -> np.ndarray:
    """Returns the axial slice with most of the label, or the middle one, as uint8 [y, x, 3].

    The patient is shown as usual: right on the left, front up.
    """
    areas = None if label is None else np.count_nonzero(label.array, axis=(0, 1))
    k = image.shape[2] // 2 if areas is None or not areas.any() else int(np.argmax(areas))
    extent = [n * s for n, s in zip(image.shape[:2], image.spacing_mm, strict=False)]
    scale = _PICTURE_PIXELS / max(extent)
    # nearest voxels, so that only one slice is read
    columns, rows = (
        ((np.arange(max(1, round(length * scale))) + 0.5) / scale / spacing)
        .astype(int)
        .clip(0, n - 1)
        for length, spacing, n in zip(extent, image.spacing_mm, image.shape, strict=False)
    )
    pick = np.ix_(columns[::-1], rows[::-1], np.array([k]))
    low, high = _PICTURE_WINDOW
    grey = np.clip(
        (image.array[pick][:, :, 0].astype(np.float32) - low) / (high - low) * 255, 0, 255
    ).astype(np.uint8)
    result = np.repeat(grey.T[:, :, None], 3, axis=2)
    if label is not None:
        classes = label.array[pick][:, :, 0].T
        for value, colour in _COLOURS.items():
            inside = np.pad(classes == value, 1)
            core = inside[2:, 1:-1] & inside[:-2, 1:-1] & inside[1:-1, 2:] & inside[1:-1, :-2]
            result[(classes == value) & ~core] = colour
    return result


def _findings(manifest: CaseManifest, workers: int) -> Iterator[CheckFinding]:
    jobs = [(case, manifest.label_values) for case in manifest.included]
    for number, finding in processes.results(look_at, jobs, workers):
        if finding is None:
            case = manifest.included[number]
            problem = "the process that examined it was killed, most likely for lack of memory"
            fix = "examine it with more free memory"
            finding = CheckFinding(case, (broken(rules.UNUSABLE, case.image, problem, fix),))
        yield finding


def _as_declared(finding: CheckFinding, manifest: CaseManifest) -> CheckFinding:
    shown = (
        []
        if finding.facts is None
        else declared_labels.contradicted(manifest.declared, finding.facts.volume_ml)
    )
    if not shown:
        return finding
    problem = rules.contradicts_declaration(finding.case.required_label, shown)
    return dataclasses.replace(finding, problems=(problem, *finding.problems))


def _across(findings: list[CheckFinding]) -> list[CheckFinding]:
    """Adds the errors that only show across the cohort: cases that repeat a usable case."""
    usable = {f.case.case_id: f for f in findings if f.usable}
    refused = same_scan.refusals(
        (f.case for f in usable.values()),
        {i: f.marks for i, f in usable.items()},
        {i: f.label_sha256 for i, f in usable.items()},
    )
    return [
        dataclasses.replace(f, problems=(refused[f.case.case_id], *f.problems))
        if f.case.case_id in refused
        else f
        for f in findings
    ]


def _facts(image: Volume, upright: Volume, label: Volume | None) -> Facts:
    turn = geometry.turn_to_ras(image.affine)
    axes = ["?"] * 3
    for patient_axis, (axis, flip) in enumerate(zip(turn.axes, turn.flips, strict=True)):
        axes[axis] = ("RAS", "LPI")[flip][patient_axis]
    volumes, counts, medians = {}, {}, {}
    if label is not None:
        voxel_ml = abs(float(np.linalg.det(upright.affine[:3, :3]))) / 1000
        for value in FOREGROUND:
            hu = upright.array[label.array == value]
            if len(hu):
                volumes[value] = len(hu) * voxel_ml
                medians[value] = float(np.median(hu))
                inside = np.clip(hu, HU_EDGES[0], HU_EDGES[-1] - 1)
                counts[value] = tuple(int(n) for n in np.histogram(inside, HU_EDGES)[0])
    return Facts(
        three(int(n) for n in upright.shape),
        upright.spacing_mm,
        "".join(axes),
        volumes,
        counts,
        medians,
    )

"""A cohort looked at, case by case, without preparing it: which rules each case breaks, what it
measures, and a picture of it.

The check writes what is found here into its report, and the cohort report sums it up.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from preprocessing import declared_labels, geometry, sources
from preprocessing.checks import integrity, rules, same_scan
from preprocessing.checks.rules import IntegrityError, broken
from preprocessing.manifest import Case, Manifest
from preprocessing.volume import Volume
from runkit import progress
from runkit import workers as processes
from runkit.classes import FOREGROUND

HU_EDGES = tuple(range(-200, 401, 10))  # of the histograms of HU inside a class
_EACH_SHARE = 20  # times as long as the last report of what was found, until the next one
_PICTURE_PIXELS = 144
_PICTURE_WINDOW = (-160.0, 240.0)
_COLOURS = {1: (64, 200, 255), 2: (255, 190, 40)}


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a case measures.

    Attributes:
      shape, spacing_mm: along x, y, z in RAS+.
      axes: directions of the file's axes, e.g. "LPS".
      volume_ml: class -> volume; of classes that occur.
      hu: class -> counts of its voxels between `HU_EDGES`; beyond them voxels count in the first
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
class Finding:
    """One case. `problems` are its broken rules, errors first; without an error it is `usable`. A
    picture is uint8 [rows, columns, 3].
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
        return not self.errors


def survey(
    manifest: Manifest,
    *,
    workers: int = 1,
    each: Callable[[list[Finding]], None] = lambda found: None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Finding]:
    """Returns a finding for every included case, in the order of the manifest; no case stops the
    others.

    Args:
      workers: cases at the same time, each in its own process.
      each: is given what was found so far, in the order of the manifest, as cases end: as often as
        takes a twentieth of the time, since who writes all of it each time would spend most of the
        time on a cohort of thousands so.
      clock: seconds, of any beginning.
    Raises:
      ValueError: if the reader that a case needs is not installed.
    """
    sources.require_readers(manifest)
    found: dict[str, Finding] = {}
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


def look_at(case: Case, label_values: Mapping[int, int] | None = None) -> Finding:
    """Returns what one case is by itself. A case without a label is judged by its scan alone."""
    image = label = None
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
    except Exception as error:  # whatever one case does, the others are looked at
        problems.insert(0, rules.refusal(error, case.image))
    if image is None or any(p.rule == rules.NO_PLACE.id for p in problems):
        return Finding(case, tuple(problems))
    try:
        return _measured(case, problems, image, label)
    except Exception as error:
        return Finding(case, (rules.refusal(error, case.image), *problems))


def _measured(
    case: Case, problems: list[IntegrityError], image: Volume, label: Volume | None
) -> Finding:
    upright = geometry.to_ras(image)
    labelled = None if label is None else geometry.to_ras(label)
    if labelled is not None and labelled.shape != upright.shape:
        labelled = None
    return Finding(
        case,
        tuple(problems),
        _facts(image, upright, labelled),
        picture(upright, labelled),
        same_scan.slice_marks(upright),
        None if case.label is None else sources.file_sha256(case.label),
    )


def picture(image: Volume, label: Volume | None) -> np.ndarray:
    """Returns the axial slice with most of the label, or the middle one, as the patient is usually
    shown: right on the left, front up.
    """
    areas = None if label is None else np.count_nonzero(label.array, axis=(0, 1))
    k = image.shape[2] // 2 if areas is None or not areas.any() else int(np.argmax(areas))
    extent = [n * s for n, s in zip(image.shape[:2], image.spacing_mm, strict=False)]
    scale = _PICTURE_PIXELS / max(extent)
    # nearest voxels, so that a picture costs a slice and no more
    columns, rows = (
        ((np.arange(max(1, round(length * scale))) + 0.5) / scale / spacing)
        .astype(int)
        .clip(0, n - 1)
        for length, spacing, n in zip(extent, image.spacing_mm, image.shape, strict=False)
    )
    pick = np.ix_(columns[::-1], rows[::-1], [k])
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


def _findings(manifest: Manifest, workers: int) -> Iterator[Finding]:
    cases = manifest.included
    if workers <= 1 or len(cases) <= 1:
        for case in cases:
            yield look_at(case, manifest.label_values)
        return
    for number, finding in processes.results(
        look_at, [(case, manifest.label_values) for case in cases], workers
    ):
        if finding is None:
            problem = "the process that looked at it was killed, most likely for want of memory"
            finding = Finding(
                cases[number],
                (
                    broken(
                        rules.UNUSABLE,
                        cases[number].image,
                        problem,
                        "look at it with more free memory",
                    ),
                ),
            )
        yield finding


def _as_declared(finding: Finding, manifest: Manifest) -> Finding:
    shown = (
        []
        if finding.facts is None
        else declared_labels.contradicted(manifest.declared, finding.facts.volume_ml)
    )
    if not shown:
        return finding
    problem = rules.contradicts_declaration(finding.case.label, shown)
    return dataclasses.replace(finding, problems=(problem, *finding.problems))


def _across(findings: list[Finding]) -> list[Finding]:
    """Adds what only the whole cohort shows. A refused case takes no other one's place."""
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
    turn = geometry.orientation(image.affine)
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
        tuple(int(n) for n in upright.shape),
        upright.spacing_mm,
        "".join(axes),
        volumes,
        counts,
        medians,
    )

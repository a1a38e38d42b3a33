"""Prepares one case: files -> checks -> RAS+ -> training grid -> HU window -> case store folder."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

from preprocessing import case_store, geometry, resampling, rules, sources
from preprocessing.case_list import Case
from preprocessing.case_store import StoreSettings
from preprocessing.checks import integrity, same_scan
from preprocessing.foreground import LabelBox
from preprocessing.rules import IntegrityError

# Called with the current stage: "checking files", "reading", "resampling and writing".
StageCallback = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A case that is in the store.

    Attributes:
      sources: digests of its inputs, see `sources.digests`.
      slices: marks of its slices, see `same_scan`.
    """

    sources: dict[str, str]
    slices: list[str]


def prepare_case(
    case: Case,
    root: pathlib.Path,
    settings: StoreSettings,
    *,
    threads: int = 1,
    report: StageCallback = lambda stage: None,
) -> Prepared | IntegrityError:
    """Prepares a case unless it is already prepared from the same files with the same settings.

    Args:
      root: folder of the store.
      threads: number of threads for resampling.
      report: called with each stage.
    Returns:
      The prepared case, or the error for which it is refused.
    Raises:
      CannotWrite: if the store cannot be written, which is not the fault of the case.
    """
    try:
        return _prepare(case, root, settings, threads, report)
    except case_store.CannotWrite:
        raise
    except Exception as error:  # if one case fails, the others are still prepared
        return rules.refusal(error, case.image)


def _prepare(
    case: Case, root: pathlib.Path, settings: StoreSettings, threads: int, report: StageCallback
) -> Prepared:
    done = case_store.read_case_record(case_store.case_folder(root, case.case_id))
    if done is not None:
        report("checking files")
        written = done.get("format", case_store.UNSTATED)
        if written != case_store.FORMAT:
            report(f"preparing again: format {written}, this release writes {case_store.FORMAT}")
        elif (done.get("sources"), done.get("settings")) == (sources.digests(case), dict(settings)):
            # An earlier release accepted headers without an orientation and guessed it.
            sources.require_headers(case)
            return Prepared(done["sources"], done.get("slices", []))
    report("reading")
    values = settings["label_values"]
    image, label, (box, made_of) = sources.read_case_and(
        case,
        None if values is None else {int(k): v for k, v in values.items()},
        lambda voxels: (LabelBox.of(voxels), sources.digests(case)),
    )
    integrity.check_case(image, label, (str(case.image), str(case.label)), accepted=case.accept)
    report("resampling and writing")
    target_mm, upright = settings["target_mm"], geometry.to_ras(image)
    box = box.to_ras(label.grid)
    slices = same_scan.slice_marks(upright)
    case_store.write_case(
        root,
        case.case_id,
        image=resampling.windowed_slabs(upright, target_mm, settings["window_hu"], threads=threads),
        label=resampling.resample_box(box, upright.spacing_mm, target_mm),
        # The label may have another axis order than the scan, whose order is the native one.
        native_label=box.from_ras(image.grid),
        native=image.grid,
        sources=made_of,
        settings=settings,
        slices=slices,
    )
    return Prepared(made_of, list(slices))

"""One case: files -> checked -> RAS+ -> isotropic -> HU window -> its folder in the case store."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from preprocessing import case_store, geometry, intensity, resampling, sources
from preprocessing.checks import integrity, rules, same_scan
from preprocessing.foreground import LabelBox
from preprocessing.manifest import Case

Report = Callable[
    [str], None
]  # told what is being done: "checking files", "reading", "resampling and writing"


def prepare_case(
    case: Case,
    root: pathlib.Path,
    settings: Mapping[str, Any],
    *,
    threads: int = 1,
    report: Report = lambda stage: None,
) -> dict[str, Any]:
    """Prepares one case unless it is done with the same files and settings.

    Args:
      root: folder of the store.
      settings: `target_mm`, `window_hu` and `label_values`.
      threads: for resampling.
    Returns:
      Its `sources` and the marks of its `slices` (see `same_scan`), or, where it is refused, why:
      `rule`, `file`, `problem`.
    Raises:
      CannotWrite: if the store cannot be written, which is not the case's fault.
    """
    try:
        made_of, slices = _prepare(case, root, settings, threads, report)
    except case_store.CannotWrite:
        raise
    except Exception as error:  # whatever one case does, the others are prepared
        refused = rules.refusal(error, case.image)
        return {"rule": refused.rule, "file": refused.file, "problem": str(refused)}
    return {"sources": made_of, "slices": slices}


def _prepare(
    case: Case, root: pathlib.Path, settings: Mapping[str, Any], threads: int, report: Report
) -> tuple[dict[str, str], list[str]]:
    done = case_store.read_case(case_store.case_folder(root, case.case_id))
    if done is not None:
        report("checking files")
        if (done.get("sources"), done.get("settings")) == (sources.digests(case), dict(settings)):
            sources.require_headers(
                case
            )  # an earlier release guessed what a header without an orientation means
            return done["sources"], done.get("slices", [])
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
        image=resampling.linear_slabs(
            upright.array,
            upright.spacing_mm,
            target_mm,
            finish=functools.partial(
                intensity.window_float16,
                low=settings["window_hu"][0],
                high=settings["window_hu"][1],
            ),
            threads=threads,
        ),
        label=resampling.resample_box(box, upright.spacing_mm, target_mm),
        # the label may be stored in another axis order than the scan; the scan's is the native one
        native_label=box.from_ras(image.grid),
        native=image.grid,
        sources=made_of,
        settings=settings,
        slices=slices,
    )
    return made_of, list(slices)

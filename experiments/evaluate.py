"""Scores masks against labels: one CSV row per case, and means with 95 % intervals.

    python -m experiments.evaluate --prediction=masks --truth=labels --output=scores

Masks and labels lie in two folders, under the same name for each case (or are two files), on one
grid. Writes cases.csv, a row as each case ends, and summary.csv, summary.md and summary.json. A
pair that cannot be compared is named and stops no other; the exit code is 1 then. A label without a
mask is an error, and no mean is given without it, unless --missing says how it counts.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any, NamedTuple

from absl import app, flags

from experiments import flags as experiment_flags
from runkit import printable

FLAGS = flags.FLAGS
experiment_flags.define_orientation()
flags.DEFINE_string("prediction", None, "Mask (.nii, .nii.gz) or folder of masks.")
flags.DEFINE_string("truth", None, "Label map or folder of label maps.")
flags.DEFINE_list(
    "label_values",
    [],
    "value:class pairs for label maps with other values, e.g. 7:1; every other value is background.",
)
flags.DEFINE_float(
    "tolerance_mm",
    2.0,
    "How far a surface may be off and still count as right in the surface Dice.",
)
flags.DEFINE_enum(
    "missing",
    "error",
    ["error", "score_zero", "skip"],
    "Labels without a mask. 'error' gives no mean and exit code 1; 'score_zero' scores them as a mask of nothing (0 in Dice and surface Dice, "
    "the diagonal of the volume in HD95); 'skip' leaves them out. The results say which, and how many.",
)
flags.DEFINE_string("output", None, "Folder of the results.")
_SUMMARIES = ("summary.csv", "summary.md", "summary.json")
_SHOWN = 10  # names in a message; summary.json has all


class _Pair(NamedTuple):
    name: str
    mask: pathlib.Path | None
    label: pathlib.Path | None


def main(argv: list[str]) -> int:
    del argv
    from experiments.results import case_rows, score_summary
    from runkit import atomic, overwriting, progress

    output = pathlib.Path(experiment_flags.required("output", "the folder of the results"))
    pairs, values, orientation = _pairs(), _label_values(), experiment_flags.orientation()
    inputs = {
        "--prediction": [p.mask for p in pairs if p.mask],
        "--truth": [p.label for p in pairs if p.label],
    }
    overwriting.require_apart(
        inputs, {"--output": [output / name for name in ("cases.csv", *_SUMMARIES)]}
    )
    for name in ("cases.csv", *_SUMMARIES):  # no table of an earlier run stays beside this one's
        (output / name).unlink(missing_ok=True)
    missing = [pair.name for pair in pairs if pair.mask is None]
    failed: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    for pair in progress.bar(pairs, what="cases", unit="case"):
        if pair.mask is None and FLAGS.missing != "score_zero":
            continue
        try:
            if pair.label is None:
                raise ValueError(
                    f"{pair.mask}: has no label of this name in {FLAGS.truth}; add it, or take the mask out"
                )
            columns = case_rows.of_files(
                pair.mask, pair.label, values, FLAGS.tolerance_mm, orientation=orientation
            )
            rows.append(
                {"case": pair.name, **columns, **({"mask": "missing"} if pair.mask is None else {})}
            )
        except Exception as error:  # whatever one pair does, the others are scored
            failed[pair.name] = str(error if type(error) is ValueError else _refusal(error, pair))
            print(f"error: {printable.block(failed[pair.name])}", file=sys.stderr)
            continue
        atomic.write_text(output / "cases.csv", score_summary.csv_text(rows))
    if missing and FLAGS.missing == "error":
        _tell(failed, len(pairs))
        raise ValueError(
            f"labels in {FLAGS.truth} without a mask in {FLAGS.prediction}: {len(missing)}: {_names(missing)}. Segment these scans, or say how they "
            f"count: --missing=score_zero or --missing=skip. {len(rows)} cases are scored in {output / 'cases.csv'}; no mean is given"
        )
    if not rows:
        raise ValueError(f"none of {len(pairs)} masks could be scored")
    summary = score_summary.of_rows(rows)
    lines = score_summary.lines(summary)
    counted = {"missing": FLAGS.missing, "missing_masks": len(missing)}
    atomic.write_text(
        output / "summary.csv", score_summary.csv_text([{**line, **counted} for line in lines])
    )
    text = "\n".join(
        [*_remarks(pairs, rows, missing, failed), "", score_summary.markdown(summary)]
    ).lstrip("\n")
    atomic.write_text(output / "summary.md", text)
    document = {
        **counted,
        "without_mask": missing,
        "scored": len(rows),
        "failed": failed,
        "scores": lines,
    }
    atomic.write_json(output / "summary.json", document)
    print(text)
    _tell(failed, len(pairs))
    return 1 if failed else 0


def _refusal(error: Exception, pair: _Pair) -> Exception:
    """Returns the rule that a pair breaks, with a remedy of this program where the rule's own
    speaks of a manifest.
    """
    from preprocessing.checks import rules

    found = rules.refusal(error, pair.mask or pair.label or pair.name)
    if found.rule != rules.UNKNOWN_VALUES.id:
        return found
    fix = "correct the map"
    if found.file == str(pair.label):
        fix += ", or say which value of the labels is which class, e.g. --label_values=7:1"
    return rules.IntegrityError(found.rule, found.file, found.problem, fix)


def _remarks(
    pairs: list[_Pair], rows: list[dict[str, Any]], missing: list[str], failed: dict[str, str]
) -> list[str]:
    """Returns what a reader of the means must know: which labels they are over."""
    lines = [f"{len(rows)} of {len(pairs)} cases are scored."]
    if missing:
        how = (
            "each counts as a mask of nothing"
            if FLAGS.missing == "score_zero"
            else "they are left out of the means"
        )
        lines.append(
            f"Labels without a mask: {len(missing)}; {how} (--missing={FLAGS.missing}): {_names(missing)}."
        )
    if failed:
        lines.append(
            f"Could not be scored and not in the means: {len(failed)}: {_names(list(failed))}."
        )
    return lines if missing or failed else []


def _tell(failed: dict[str, str], cases: int) -> None:
    if failed:
        print(f"{len(failed)} of {cases} cases could not be scored", file=sys.stderr)


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _pairs() -> list[_Pair]:
    """Returns masks and labels of one name, and those of either that stand alone, by name."""
    from preprocessing import names

    prediction = pathlib.Path(
        experiment_flags.required("prediction", "the mask or the folder of masks")
    )
    truth = pathlib.Path(experiment_flags.required("truth", "the label or the folder of labels"))
    if not prediction.is_dir():
        return [_Pair(names.stem(prediction), prediction, truth)]
    masks, labels = (
        names.by_stem(names.nifti_files(prediction)),
        names.by_stem(names.nifti_files(truth)),
    )
    if not masks:
        raise ValueError(f"{prediction}: holds no .nii or .nii.gz file")
    # <name>.pancreas.nii.gz and the like are probabilities that predict wrote beside the mask
    # <name>.nii.gz
    beside = {
        name
        for name in masks
        if name.endswith((".pancreas", ".tumour"))
        and name.rpartition(".")[0] in masks
        and name not in labels
    }
    return [
        _Pair(name, masks.get(name), labels.get(name))
        for name in sorted({*masks, *labels} - beside)
    ]


def _label_values() -> dict[int, int] | None:
    try:
        return {
            int(value): int(label)
            for value, label in (pair.split(":") for pair in FLAGS.label_values)
        } or None
    except ValueError as error:
        raise app.UsageError(
            f"--label_values is {','.join(FLAGS.label_values)!r}; expected value:class pairs, e.g. 7:1"
        ) from error


if __name__ == "__main__":
    experiment_flags.run(main, required=["prediction", "truth", "output"])

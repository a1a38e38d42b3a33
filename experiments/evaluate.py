"""Scores masks against labels: one CSV row per case, and means with 95 % intervals.

    python -m experiments.evaluate --prediction=masks --truth=labels --output=scores

Masks and labels are NIfTI files of the same name in two folders (or two single files), on the same
grid. Writes cases.csv, adding a row after each case, and summary.csv, summary.md and summary.json.
If a pair cannot be compared, the program names it, scores the others and exits with code 1. A label
without a mask is an error, and no means are computed, unless --missing says how to count it.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any, NamedTuple

from absl import flags

from experiments import flags as experiment_flags
from experiments import program
from runkit import printable, settings

FLAGS = flags.FLAGS
experiment_flags.define_orientation()
flags.DEFINE_string("prediction", None, "Mask (.nii or .nii.gz), or folder of masks.")
flags.DEFINE_string("truth", None, "Label map, or folder of label maps.")
flags.DEFINE_list(
    "label_values",
    [],
    "value:class pairs for label maps with other values, e.g. 7:1; all remaining values count as "
    "background.",
)
flags.DEFINE_float(
    "tolerance_mm",
    2.0,
    "Distance in mm by which a surface may be off and still count as correct in the surface Dice.",
)
flags.DEFINE_enum(
    "missing",
    "error",
    ["error", "score_zero", "skip"],
    "How to treat labels without a mask. 'error': no means, exit code 1. 'score_zero': score them "
    "as an empty mask (0 in Dice and surface Dice, the volume's diagonal in HD95). 'skip': leave "
    "them out. The results state the choice and the number.",
)
flags.DEFINE_string("output", None, "Folder to write the results to.")
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
    settings.require(settings.at_least(0), "--tolerance_mm", FLAGS.tolerance_mm)
    pairs, values, orientation = (
        _pairs(),
        experiment_flags.label_values(),
        experiment_flags.orientation(),
    )
    inputs = {
        "--prediction": [p.mask for p in pairs if p.mask],
        "--truth": [p.label for p in pairs if p.label],
    }
    overwriting.require_apart(
        inputs, {"--output": [output / name for name in ("cases.csv", *_SUMMARIES)]}
    )
    for name in ("cases.csv", *_SUMMARIES):  # of an earlier run
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
                    f"{pair.mask}: {FLAGS.truth} holds no label of this name; add it, or remove "
                    "the mask"
                )
            columns = case_rows.of_files(
                pair.mask, pair.label, values, FLAGS.tolerance_mm, orientation=orientation
            )
            rows.append(
                {"case": pair.name, **columns, **({"mask": "missing"} if pair.mask is None else {})}
            )
        except Exception as error:  # if one pair fails, the others are still scored
            failed[pair.name] = str(error if type(error) is ValueError else _refusal(error, pair))
            print(f"error: {printable.block(failed[pair.name])}", file=sys.stderr)
            continue
        atomic.write_text(output / "cases.csv", score_summary.csv_text(rows))
    if missing and FLAGS.missing == "error":
        _tell(failed, len(pairs))
        raise ValueError(
            f"labels in {FLAGS.truth} without a mask in {FLAGS.prediction}: {len(missing)}: "
            f"{printable.some(missing, _SHOWN)}. Segment these scans, or choose how they count: "
            "--missing=score_zero or --missing=skip. The scores of the other "
            f"{len(rows)} cases are in {output / 'cases.csv'}; no means were computed"
        )
    if not rows:
        raise ValueError(f"none of the {len(pairs)} masks could be scored")
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
    """Returns the rule that a pair breaks.

    A remedy that refers to a manifest is replaced by one for this program.
    """
    from preprocessing import rules

    found = rules.refusal(error, pair.mask or pair.label or pair.name)
    if found.rule != rules.UNKNOWN_VALUES.id:
        return found
    fix = "correct the map"
    if found.file == str(pair.label):
        fix += ", or give the class of each value of the labels, e.g. --label_values=7:1"
    return rules.IntegrityError(found.rule, found.file, found.problem, fix)


def _remarks(
    pairs: list[_Pair], rows: list[dict[str, Any]], missing: list[str], failed: dict[str, str]
) -> list[str]:
    """Returns sentences on cases that are not in the means or have no mask."""
    lines = [f"{len(rows)} of {len(pairs)} cases were scored."]
    if missing:
        how = (
            "each counts as an empty mask"
            if FLAGS.missing == "score_zero"
            else "they are left out of the means"
        )
        lines.append(
            f"Labels without a mask: {len(missing)}; {how} (--missing={FLAGS.missing}): "
            f"{printable.some(missing, _SHOWN)}."
        )
    if failed:
        lines.append(
            f"Cases that could not be scored and are not in the means: {len(failed)}: "
            f"{printable.some(list(failed), _SHOWN)}."
        )
    return lines if missing or failed else []


def _tell(failed: dict[str, str], cases: int) -> None:
    if failed:
        print(f"{len(failed)} of {cases} cases could not be scored", file=sys.stderr)


def _pairs() -> list[_Pair]:
    """Returns masks and labels paired by name; either may be missing from a pair."""
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
    # <name>.pancreas.nii.gz and <name>.tumour.nii.gz are probabilities that predict wrote.
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


if __name__ == "__main__":
    program.run(main, required=["prediction", "truth", "output"])

"""Scores masks against labels: a CSV of cases, and means with 95 % intervals and the number of cases behind each.

    python -m experiments.evaluate --prediction=masks --truth=labels --output=scores

Masks and labels lie in two folders under one name a case (or are two files), on one grid. Writes cases.csv, summary.csv and
summary.md. A pair that cannot be compared is named and stops no other; the exit code is 1 then.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

from absl import app, flags

from experiments import flags as experiment_flags
from runkit import printable

FLAGS = flags.FLAGS
flags.DEFINE_string("prediction", None, "Mask (.nii, .nii.gz) or folder of masks.")
flags.DEFINE_string("truth", None, "Label map or folder of label maps.")
flags.DEFINE_list("label_values", [], "value:class pairs for label maps with other values, e.g. 7:1; every other value is background.")
flags.DEFINE_float("tolerance_mm", 2.0, "How far a surface may be off and still count as right in the surface Dice.")
flags.DEFINE_string("output", None, "Folder of the results.")


def main(argv: list[str]) -> int:
    del argv
    from experiments import case_rows, score_summary
    from runkit import atomic, progress

    output = pathlib.Path(experiment_flags.required("output", "the folder of the results"))
    pairs, failed = _pairs(), []
    values = _label_values()
    rows: list[dict[str, Any]] = []
    for name, prediction, truth in progress.bar(pairs, what="cases", unit="case"):
        try:
            if truth is None:
                raise ValueError(f"{prediction}: has no label of this name in {FLAGS.truth}; add it, or take the mask out")
            rows.append({"case": name, **case_rows.of_files(prediction, truth, values, FLAGS.tolerance_mm)})
        except ValueError as error:
            failed.append(str(error))
            print(f"error: {printable.block(error)}", file=sys.stderr)
    if not rows:
        raise ValueError(f"none of {len(pairs)} masks could be scored")
    summary = score_summary.of_rows(rows)
    atomic.write_text(output / "cases.csv", score_summary.csv_text(rows))
    atomic.write_text(output / "summary.csv", score_summary.csv_text(score_summary.lines(summary)))
    text = score_summary.markdown(summary)
    atomic.write_text(output / "summary.md", text)
    print(text)
    return 1 if failed else 0


def _pairs() -> list[tuple[str, pathlib.Path, pathlib.Path | None]]:
    from experiments.scan_prediction import stem

    prediction = pathlib.Path(experiment_flags.required("prediction", "the mask or the folder of masks"))
    truth = pathlib.Path(experiment_flags.required("truth", "the label or the folder of labels"))
    if not prediction.is_dir():
        return [(stem(prediction), prediction, truth)]
    labels = {stem(path): path for path in _files(truth)}
    masks = _files(prediction)
    if not masks:
        raise ValueError(f"{prediction}: holds no .nii or .nii.gz file")
    # <name>.pancreas.nii.gz and the like are probabilities that predict wrote beside the mask
    return [(stem(mask), mask, labels.get(stem(mask))) for mask in masks if not stem(mask).endswith((".pancreas", ".tumour"))]


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    return sorted(path for path in folder.iterdir() if path.name.endswith((".nii", ".nii.gz")) and not path.name.startswith("."))


def _label_values() -> dict[int, int] | None:
    try:
        return {int(value): int(label) for value, label in (pair.split(":") for pair in FLAGS.label_values)} or None
    except ValueError as error:
        raise app.UsageError(f"--label_values is {','.join(FLAGS.label_values)!r}; expected value:class pairs, e.g. 7:1") from error


if __name__ == "__main__":
    experiment_flags.run(main)

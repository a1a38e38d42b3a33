"""Recomputes the tables of a run or study from its per-case rows, and checks all digests.

python -m experiments.verify --run=runs/demo
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from absl import flags

from experiments import flags as experiment_flags
from experiments import program

if TYPE_CHECKING:
    from experiments.reports import result_verification

FLAGS = flags.FLAGS
flags.DEFINE_string("run", None, "Folder of a run or of a study.")


def main(argv: list[str]) -> int:
    del argv
    from experiments.reports import result_verification

    folder = experiment_flags.required("run", "the folder of a run or of a study")
    failed = 0
    for run in result_verification.runs_in(folder):
        print(f"{run}:")
        for check in result_verification.verify(run):
            failed += _show(check)
    study = result_verification.study_check(folder)
    if study is not None:
        print(f"{folder}:")
        failed += _show(study)
    print("verified" if not failed else f"{failed} checks failed")
    return 1 if failed else 0


def _show(check: result_verification.Check) -> bool:
    word = {True: "ok", False: "WRONG", None: "-"}[check.holds]
    print(f"  {word:6s}{check.what}: {check.detail}")
    return check.holds is False


if __name__ == "__main__":
    program.run(main, required=["run"])

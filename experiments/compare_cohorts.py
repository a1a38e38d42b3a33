"""Compares the datasets of two sites, using only their reports.

    python -m experiments.compare_cohorts --reports=C1/cohort.json,C2/cohort.json \\
        --output=cohorts.html
"""

from __future__ import annotations

import pathlib
from typing import Any

from absl import app, flags

from experiments import flags as experiment_flags
from runkit import atomic, formats, overwriting, printable

FLAGS = flags.FLAGS
flags.DEFINE_list("reports", None, "The cohort.json files of two sites, separated by a comma.")
flags.DEFINE_string(
    "output", None, "HTML page to write. Without it the comparison is only printed."
)


def main(argv: list[str]) -> int:
    del argv
    from experiments.reports import cohort_page
    from preprocessing.checks import cohort

    experiment_flags.required("reports", "the cohort.json files of two sites")
    if len(FLAGS.reports) != 2:
        raise app.UsageError(
            f"--reports names {len(FLAGS.reports)} files; expected two, separated by a comma"
        )
    overwriting.require_apart(
        {"--reports": FLAGS.reports}, {"--output": [FLAGS.output] if FLAGS.output else []}
    )
    reports = [_read(path) for path in FLAGS.reports]
    print(cohort_page.text_table(reports))
    print(cohort_page.text_histograms(reports))
    print("\nDifferences:")
    print(
        "\n".join(f"  {printable.text(line)}" for line in cohort.differences(*reports))
        or "  none that stands out"
    )
    if FLAGS.output:
        atomic.write_text(FLAGS.output, cohort_page.page(reports))
        print(f"\npage: {pathlib.Path(FLAGS.output)}")
    return 0


def _read(path: str) -> dict[str, Any]:
    from preprocessing.checks import cohort

    report: dict[str, Any] = atomic.read_json(path)
    if isinstance(report, dict) and "format" in report:
        formats.refuse_newer(path, report["format"], cohort.FORMAT)
    try:
        if report["format"] == cohort.FORMAT and cohort.rows(report) is not None:
            return report
    except (AttributeError, KeyError, TypeError):
        pass  # the file came from another site: whatever it holds, the answer is one line
    raise ValueError(
        f"{path}: not a cohort report, or from another version; give the cohort.json that "
        "experiments.cohort_report wrote"
    )


if __name__ == "__main__":
    experiment_flags.run(main, required=["reports"])

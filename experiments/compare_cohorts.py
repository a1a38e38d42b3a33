"""Compares the datasets of several sites, and proposes one plan for all, from their reports alone.

    python -m experiments.compare_cohorts --reports=C1/cohort.json,C2/cohort.json \\
        --output=cohorts.html
    python -m experiments.compare_cohorts --flagfile=experiments/flagfiles/paper.flags \\
        --reports=C1/cohort.json,C2/cohort.json,C3/cohort.json --plan=study.flags

With --plan it writes a flag file for all other programs: the given settings, with spacing, HU
window, patch, batch and class prior replaced by what suits all sites' scans. The reports hold
counts of groups of three patients or more; a proposal that would need finer data states its bounds.
"""

from __future__ import annotations

import itertools
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import app, flags

from experiments import flag_files, program, program_help
from experiments import flags as experiment_flags
from runkit import atomic, formats, overwriting, printable

if TYPE_CHECKING:
    from preprocessing.checks.plan_proposal import Proposal

FLAGS = flags.FLAGS
experiment_flags.define_experiment()
flags.DEFINE_list(
    "reports", None, "The cohort.json files of the sites, at least two, separated by commas."
)
flags.DEFINE_string(
    "output", None, "HTML page to write. Without it the comparison is only printed."
)
with program_help.group("The proposed plan"):
    flags.DEFINE_string(
        "plan",
        None,
        "Flag file to write: the settings that this program is given, with the proposed spacing, "
        "HU window, patch, batch and class prior in place of theirs. Without it the proposals are "
        "only printed.",
    )


def main(argv: list[str]) -> int:
    del argv
    from experiments.reports import cohort_page
    from preprocessing.checks import cohort

    experiment_flags.required("reports", "the cohort.json files of the sites")
    if len(FLAGS.reports) < 2:
        raise app.UsageError(
            f"--reports names only {FLAGS.reports[0]}; expected two or more, separated by commas"
        )
    overwriting.require_apart(
        {
            "--reports": FLAGS.reports,
            "--flagfile": flag_files.files(sys.argv[1:]),
            **experiment_flags.genotype_file(),
        },
        {
            "--output": [FLAGS.output] if FLAGS.output else [],
            "--plan": [FLAGS.plan] if FLAGS.plan else [],
        },
    )
    reports = [_read(path) for path in FLAGS.reports]
    proposals, missing = _proposals(reports)
    if FLAGS.plan and missing:
        raise ValueError(f"--plan={FLAGS.plan}: {missing}")
    print(cohort_page.text_table(reports))
    print(cohort_page.text_histograms(reports))
    print("\nDifferences:")
    found = [
        line for pair in itertools.combinations(reports, 2) for line in cohort.differences(*pair)
    ]
    print("\n".join(f"  {printable.text(line)}" for line in found) or "  none that stands out")
    print("\nProposed for all sites:")
    lines = [f"--{one.setting}={one.text}: {one.reason}" for one in proposals]
    print("\n".join(f"  {printable.text(line, limit=2000)}" for line in lines or [missing]))
    if FLAGS.output:
        atomic.write_text(FLAGS.output, cohort_page.page(reports, proposals))
        print(f"\npage: {pathlib.Path(FLAGS.output)}")
    if FLAGS.plan:
        atomic.write_text(FLAGS.plan, _flag_file(reports, proposals))
        print(
            f"\nplan: {pathlib.Path(FLAGS.plan)}; give it to every program as "
            f"--flagfile={FLAGS.plan}"
        )
    return 0


def _proposals(reports: Sequence[dict[str, Any]]) -> tuple[list[Proposal], str]:
    """Returns the proposals; or an empty list, and the reason why there are none."""
    from c2fnas import genotype
    from preprocessing.checks import cohort_counts, older_reports, plan_proposal

    names = [str(report["site"]) for report in reports]
    if len(set(names)) < len(names):
        return [], (
            f"no plan can be proposed: the reports are of the sites {', '.join(names)}; give one "
            "report per site, because otherwise its cases count twice"
        )
    older = [report for report in reports if report["format"] in older_reports.FORMATS]
    if older:
        return [], (
            f"no plan can be proposed: the report of site {older[0]['site']} has format "
            f"{older[0]['format']}, which lacks the counts that a plan needs; write it again there "
            "with experiments.cohort_report of this release"
        )
    config = experiment_flags.experiment_config()
    base = plan_proposal.Base(
        patch_size=config.patch_size,
        batch_size=config.batch_size,
        size_multiple=genotype.load(config.genotype).size_multiple,
        foreground_fraction=config.foreground_fraction,
        class_prior=config.class_prior,
    )
    try:
        sites = [cohort_counts.of_report(report) for report in reports]
        return plan_proposal.propose(sites, base), ""
    except ValueError as error:
        return [], f"no plan can be proposed: {error}"


def _flag_file(reports: Sequence[dict[str, Any]], proposals: Sequence[Proposal]) -> str:
    """Returns the settings of the command line with the proposed ones, after checking them."""
    base, names = FLAGS.profile, [str(report["site"]) for report in reports]
    changed = [f"--{one.setting}={one.text}" for one in proposals]
    given = experiment_flags.experiment_flags_text().splitlines()
    _, text = experiment_flags.parse_experiment([*given, *changed, "--profile=planned"])
    lines = [
        f"Proposed by experiments.compare_cohorts from the reports of {', '.join(names)}.",
        f"Base: the settings of profile {base}; what is not listed here is unchanged.",
        *(f"- {one.setting} {one.text}: {one.reason}" for one in proposals),
    ]
    comment = "".join(f"# {printable.text(line, limit=2000)}\n" for line in lines)
    return comment + text


def _read(path: str) -> dict[str, Any]:
    from preprocessing.checks import cohort, report_check

    report: dict[str, Any] = atomic.read_json(path)
    if isinstance(report, dict) and "format" in report:
        formats.refuse_newer(path, report["format"], cohort.FORMAT)
    try:
        report_check.check(report)
    except ValueError as error:  # whatever another site's file holds, report one line
        raise ValueError(
            f"{path}: not a cohort report, or it was changed ({error}); give the cohort.json that "
            "experiments.cohort_report wrote"
        ) from error
    return report


if __name__ == "__main__":
    program.run(main, required=["reports"])

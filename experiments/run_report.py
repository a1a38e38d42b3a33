"""Writes the HTML pages of a finished run: a joint one, and one for each site.

    python -m experiments.run_report --run=runs/demo --pictures=synthetic

A site's page shows pictures of its scans and must stay at the site. The joint page shows pictures
only with --pictures=synthetic or public.
"""

from __future__ import annotations

import pathlib

from absl import flags

from experiments import flags as experiment_flags
from experiments import program
from experiments.studies.study_keys import SHOWN

FLAGS = flags.FLAGS
flags.DEFINE_string("run", None, "Folder of a finished run.")
flags.DEFINE_enum(
    "pictures",
    "private",
    ["private", *SHOWN],
    "Kind of cohort; the joint page has pictures unless it is private.",
)


def main(argv: list[str]) -> None:
    del argv
    from experiments.studies import html_report, study_results
    from runkit import atomic

    folder = pathlib.Path(experiment_flags.required("run", "the folder of a finished run"))
    content = study_results.of_one_run(folder, FLAGS.pictures)
    atomic.write_text(folder / "report.html", html_report.study_page(content, folder))
    print(folder / "report.html")
    for site in sorted(path.name for path in (folder / "sites").glob("*") if path.is_dir()):
        page = folder / "sites" / site / "report.html"
        atomic.write_text(page, html_report.site_page(folder, site, content["runs"][0]["rows"]))
        print(page)


if __name__ == "__main__":
    program.run(main, required=["run"])

"""Writes the HTML pages of a finished run or study: one joint page and one per site.

    python -m experiments.run_report --run=runs/demo --pictures=synthetic

A site's page holds its scans' pictures and stays at the site. The joint page has pictures only with
--pictures=synthetic or public.
"""

from __future__ import annotations

import pathlib

from absl import flags

from experiments import flags as experiment_flags

FLAGS = flags.FLAGS
flags.DEFINE_string("run", None, "Folder of a run.")
flags.DEFINE_enum(
    "pictures",
    "private",
    ["private", "synthetic", "public"],
    "What the cohort is; a private one keeps pictures at the sites.",
)


def main(argv: list[str]) -> None:
    del argv
    from experiments.studies import html_report, study_results

    folder = pathlib.Path(experiment_flags.required("run", "the folder of a run"))
    content = study_results.of_one_run(folder, FLAGS.pictures)
    html_report.write(folder / "report.html", html_report.study_page(content, folder))
    print(folder / "report.html")
    for site in sorted(path.name for path in (folder / "sites").glob("*") if path.is_dir()):
        page = folder / "sites" / site / "report.html"
        html_report.write(page, html_report.site_page(folder, site, content["runs"][0]["rows"]))
        print(page)


if __name__ == "__main__":
    experiment_flags.run(main, required=["run"])

"""The plan that compare_cohorts proposes from the sites' reports, and writes as a flag file."""

import functools
import json

import numpy as np
import pytest
from absl import flags as absl_flags

from experiments import flag_files, setting_flags
from experiments.configuration import ExperimentConfig
from preprocessing.checks import cohort
from runkit import atomic
from tests.experiments.programs import ROOT, run
from tests.preprocessing.checks import test_plan_proposal
from tests.preprocessing.checks.test_older_reports import report as older_report

DEMO = ROOT / "experiments" / "flagfiles" / "demo.flags"


start = functools.partial(run, "compare_cohorts")


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The reports of three sites, the second without tumours, and the pooled findings."""
    folder, rng = tmp_path_factory.mktemp("reports"), np.random.default_rng(11)
    sites = {
        name: test_plan_proposal.site(rng, 45, tumours=name != "C2") for name in ("C1", "C2", "C3")
    }
    for name, findings in sites.items():
        atomic.write_json(folder / f"{name}.json", cohort.summarise(name, findings))
    return folder, list(sites.values())


def settings_of(path):
    values = absl_flags.FlagValues()
    setting_flags.define(ExperimentConfig, into=values)
    flag_files.parse(values, ["program", f"--flagfile={path}"])
    return ExperimentConfig(**setting_flags.values(ExperimentConfig, values))


def test_the_plan_is_a_flag_file_that_changes_five_settings_of_the_given_ones(reports, tmp_path):
    folder, sites = reports
    # a name from another site, which cannot add a flag to the plan
    hostile = {**json.loads((folder / "C3.json").read_text()), "site": "C3\n--seed=666"}
    atomic.write_json(tmp_path / "hostile.json", hostile)
    files = f"{folder / 'C1.json'},{folder / 'C2.json'},{tmp_path / 'hostile.json'}"
    plan, page = tmp_path / "plan.flags", tmp_path / "three.html"
    done = start(
        f"--flagfile={DEMO}", "--seed=7", f"--reports={files}", f"--plan={plan}", f"--output={page}"
    )
    assert done.returncode == 0, done.stderr
    found, base = settings_of(plan), settings_of(DEMO)
    differing = {key for key, value in found.to_json().items() if value != base.to_json()[key]}
    assert differing - {"profile", "seed"} <= {
        "spacing_mm",
        "window_hu",
        "patch_size",
        "batch_size",
        "class_prior",
    }
    assert (found.profile, found.seed) == ("planned", 7)
    expected = test_plan_proposal.pooled(sites)
    np.testing.assert_allclose(found.spacing_mm, expected["spacing_mm"])
    np.testing.assert_allclose(found.window_hu, expected["window_hu"])
    lines = plan.read_text().splitlines()
    assert (
        r"# Proposed by experiments.compare_cohorts from the reports of C1, C2, C3\n--seed=666."
        in lines
    )
    (why,) = (line for line in lines if line.startswith("# - spacing_mm"))
    assert "median over 135 scans" in why and "nnU-Net, Isensee et al. 2021" in why
    assert "--spacing_mm=" in done.stdout.partition("Proposed for all sites:")[2]
    text = page.read_text()
    assert "Proposed for all sites" in text and "Cohorts of C1 and C2 and C3" in text
    assert 'polyline class="three"' in text and "tumour is labelled at C3" in text


@pytest.mark.parametrize("format_", [1, 2])
def test_a_report_of_an_earlier_release_is_compared_and_no_plan_is_made_of_it(
    reports, tmp_path, format_
):
    folder, _ = reports
    atomic.write_json(tmp_path / "older.json", older_report("C2", format_))
    both = f"--reports={folder / 'C1.json'},{tmp_path / 'older.json'}"
    compared = start(both)
    assert compared.returncode == 0 and "tumour is labelled at C1 only" in compared.stdout
    assert "0.7 (0.6 - 0.9)" in compared.stdout
    assert f"no plan can be proposed: the report of site C2 has format {format_}" in compared.stdout
    done = start(both, f"--plan={tmp_path / 'plan.flags'}")
    assert done.returncode == 1 and not (tmp_path / "plan.flags").exists()
    assert done.stderr.count("\n") == 1
    assert f"site C2 has format {format_}, which lacks the counts" in done.stderr


def test_a_report_that_contradicts_itself_makes_no_plan(reports, tmp_path):
    folder, _ = reports
    edited = json.loads((folder / "C2.json").read_text())
    edited["hu"]["pancreas"] = {"total": 10**12, "bins": {"7": 10**12}}
    atomic.write_json(tmp_path / "edited.json", edited)
    plan = tmp_path / "plan.flags"
    done = start(f"--reports={folder / 'C1.json'},{tmp_path / 'edited.json'}", f"--plan={plan}")
    assert done.returncode == 1 and not plan.exists() and done.stderr.count("\n") == 1
    assert "edited.json: not a cohort report, or it was changed (site C2: 1000000000000 " in (
        done.stderr
    )


def test_a_plan_does_not_replace_a_flag_file_that_it_is_made_from(reports, tmp_path):
    folder, _ = reports
    (tmp_path / "mine.flags").write_text("# by hand\n--seed=3\n")
    (tmp_path / "outer.flags").write_text(f"--flagfile={tmp_path / 'mine.flags'}\n")
    files = f"{folder / 'C1.json'},{folder / 'C2.json'}"
    for given in ("mine.flags", "outer.flags"):
        done = start(
            f"--flagfile={tmp_path / given}",
            f"--reports={files}",
            f"--plan={tmp_path / 'mine.flags'}",
        )
        assert done.returncode == 1 and "is the input" in done.stderr, done.stderr
    assert (tmp_path / "mine.flags").read_text() == "# by hand\n--seed=3\n"

"""The program that writes a run's pages."""

from tests import forked
from tests.experiments import run_folder
from tests.experiments.programs import refused


def test_the_pages_of_a_run_are_written_and_named(tmp_path):
    run_folder.leave_study(tmp_path)
    run = tmp_path / "table1" / "seed2"
    done = forked.run("experiments.run_report", f"--run={run}", "--pictures=synthetic")
    assert done.returncode == 0, done.stderr
    pages = [run / "report.html", *(run / "sites" / site / "report.html" for site in ("C1", "C2"))]
    assert done.stdout.splitlines() == [str(page) for page in pages]
    joint, one, _ = (page.read_text(encoding="utf-8") for page in pages)
    assert "FL_global" in joint and "C1" in one


def test_a_folder_without_a_table_is_named(tmp_path):
    assert str(tmp_path) in refused("run_report", f"--run={tmp_path}")

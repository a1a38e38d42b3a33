"""The program that runs a whole search."""

from tests import forked
from tests.experiments.programs import refused


def test_the_cost_comes_first_and_a_dry_run_makes_nothing(tmp_path):
    done = forked.run("experiments.search_all", "--dry_run", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    first, *stages = done.stdout.splitlines()
    assert first.startswith("Search, profile demo, seed 1, in runs/search_demo: about ")
    assert first.endswith("C2FNAS took 333 GPU-days:")
    assert [line.split()[0] for line in stages] == [
        "cohort",
        "preparation",
        "topology",
        "operations",
        "evidence",
        "federated",
        "page",
    ]
    assert not list(tmp_path.iterdir())


def test_an_unknown_profile_and_a_split_that_cannot_be_are_refused(tmp_path):
    error = refused("search_all", "--profile=huge", folder=tmp_path)
    assert error.startswith("--profile is 'huge'; ") or "'huge': " in error
    assert "give demo or paper" in error
    error = refused("search_all", "--cases=5", "--split=4,1,1", folder=tmp_path)
    assert error.startswith("split is 4,1,1 and cases 5")
    assert not list(tmp_path.iterdir())

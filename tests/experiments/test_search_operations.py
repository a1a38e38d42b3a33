"""The program that searches operations, on tiny scans.

`search/test_operation_search.py` tests how a stopped one ends.
"""

import json

import pytest

from c2fnas import genotype, named_weights, network
from experiments.search import search_state
from tests import forked
from tests.experiments import study
from tests.experiments.programs import refused

SMALL = {
    "supernet_steps": 2, "checkpoint_every": 1, "population": 1, "generations": 2, "parents": 1, "mutations": 1, "crossovers": 0,
    "vae": "none", "filters": 2, "threads": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    study.prepared_site(folder, folder / "cases")
    (folder / "genotype.json").write_text(json.dumps(study.SHALLOW))
    return folder


def flags(site, output, **changes):
    given = {
        **study.FLAGS,
        **SMALL,
        "genotype": site / "genotype.json",
        "site_folders": site,
        "output": output,
        **changes,
    }
    return [f"--{name}={value}" for name, value in given.items()]


@pytest.fixture(scope="module")
def whole(site, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "search"
    done = forked.run("experiments.search_operations", *flags(site, folder))
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return folder, done.stdout, done.stderr


def test_cost_first_then_what_is_scored_then_the_files(whole):
    folder, said, progress = whole
    assert said.startswith("supernet: 9 paths, ")
    assert "supernet, to step 1 of 2" in progress and "evolution 1/4, " in progress
    assert str(folder / "operations.json") in said
    state = search_state.read(folder)
    assert (state.stage, state.scored, set(state.arms)) == (
        "operations",
        4,
        {"evolution", "random"},
    )
    page = (folder / "search.html").read_text()
    assert "Search of operations" in page and "4 of 4" in page


def test_the_winner_is_a_genotype_with_its_weights_in_the_supernet(whole):
    folder, _, _ = whole
    winner = genotype.load(folder / "operations.json")
    assert [cell.level for cell in winner.cells] == [1, 1]
    weights, _ = named_weights.load(folder / "operations.safetensors")
    built = network.build(winner, patch_size=(16, 16, 8), vae=None)
    named_weights.assign(built, weights)
    assert genotype.load(folder / "operations_random.json").filters == 2
    assert len(json.loads((folder / "paths.json").read_text())["paths"]) == 2


def test_a_folder_with_files_of_the_user_is_left_alone(site, tmp_path):
    (tmp_path / "operations.json").write_text("mine")
    error = refused("search_operations", *flags(site, tmp_path))
    assert error.startswith(f"--output is {tmp_path}, where operations.json exists")
    assert (tmp_path / "operations.json").read_text() == "mine"
    assert not (tmp_path / "search.json").exists()


def test_other_settings_are_refused_before_anything_is_trained(site, whole):
    error = refused("search_operations", *flags(site, whole[0], supernet_steps=7))
    assert "other settings: supernet.supernet_steps 2, now 7" in error


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mutations": 9}, "--mutations is 9 and crossovers 0; expected at most 1"),
        ({"most_gmac": 1e-9}, "most_macs is 1; the cheapest path of 'tiny' needs"),
    ],
)
def test_a_wrong_setting_is_named(site, tmp_path, change, words):
    assert words in refused("search_operations", *flags(site, tmp_path / "new", **change))
    assert not (tmp_path / "new").exists()


def test_a_dry_run_tells_the_cost_and_writes_nothing(site, tmp_path):
    done = forked.run("experiments.search_operations", *flags(site, tmp_path / "new"), "--dry_run")
    assert done.returncode == 0 and done.stdout.count("\n") == 3, done.stderr
    assert not (tmp_path / "new").exists()

"""The program that searches topologies, on two prepared sites."""

import json

import pytest

from c2fnas import genotype
from experiments.search import search_state
from tests import forked
from tests.experiments.programs import refused
from tests.experiments.search import prepared_sites
from tests.experiments.study import SHALLOW, Study

SEARCH = {
    "vae": "none", "threads": 1, "cells_down": 1, "cells_up": 1, "deepest": 1, "proxy_steps": 2,
    "population": 1, "generations": 1, "mutations": 0, "crossovers": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    found = Study(tmp_path_factory.mktemp("topology"), genotype=SHALLOW)
    prepared_sites.make(found)
    return found


def flags(study, **changes):
    sites = ",".join(str(study.site_folder(site)) for site in ("C1", "C2"))
    about = {**SEARCH, "site_folders": sites, "output": study.folder / "search", **changes}
    return study.flags(**about)


def test_both_arms_end_with_a_genotype_that_programs_take(study):
    dry = forked.run("experiments.search_topology", *flags(study, dry_run="true"))
    assert dry.returncode == 0, dry.stderr
    assert dry.stdout.startswith("2 trainings of 2 steps in two arms, out of 1 topologies: about")
    assert not (study.folder / "search").exists()
    done = forked.run("experiments.search_topology", *flags(study))
    assert done.returncode == 0, done.stderr
    state = search_state.read(study.folder / "search")
    assert state.scored == state.budget == 2 and state.finished
    for arm, name in (("evolution", "topology"), ("random", "topology_random")):
        found = genotype.load(study.folder / "search" / f"{name}.json")
        assert found.name in done.stdout and len(found.cells) == 2
        (one,) = state.arms[arm].scored
        # the only validation case of each site, and no other
        assert one.score == pytest.approx((one.details["dice_C1"] + one.details["dice_C2"]) / 2)
        assert one.details["macs"] == found.macs((16, 16, 8))
    page = (study.folder / "search" / "search.html").read_text()
    assert page.count("data:image/png") == 4
    before = (study.folder / "search" / "search.json").read_bytes()
    again = forked.run("experiments.search_topology", *flags(study))
    assert "2 of 2 are scored already" in again.stdout
    assert (study.folder / "search" / "search.json").read_bytes() == before
    assert json.loads(before)["format"] == 1
    # what decides the numbers cannot change on the way
    error = refused("search_topology", *flags(study, proxy_steps=3))
    assert "proxy.proxy_steps 2, now 3" in error
    error = refused("search_topology", *flags(study, site_folders=study.site_folder("C2")))
    assert "cases.sites ['C1', 'C2'], now ['C2']" in error


def test_what_cannot_be_searched_is_refused_at_the_start(study, tmp_path):
    error = refused("search_topology", *flags(study, output=tmp_path / "s", deepest=5))
    assert error.startswith("--deepest is 5; the sizes of patch and window allow at most level 3")
    error = refused("search_topology", *flags(study, output=tmp_path / "s", population=9))
    assert "9 topologies; expected at most 1" in error
    error = refused("search_topology", *flags(study, output=study.site_folder("C1") / "cases"))
    assert "--output" in error and "--site_folders" in error
    assert not (tmp_path / "s").exists()
    (tmp_path / "topology.json").write_text("mine")
    error = refused("search_topology", *flags(study, output=tmp_path))
    assert error.startswith(f"--output is {tmp_path}, where topology.json exists")
    assert (tmp_path / "topology.json").read_text() == "mine"

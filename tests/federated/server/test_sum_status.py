import pytest

from tests.federated import masked_site
from tests.federated.masked_site import SETTINGS, MaskedSite, in_phase

NAMES = ["C1", "C2", "C3"]


@pytest.fixture
def run(opened, clock):
    clock.now = masked_site.now()
    return opened(**SETTINGS)


@pytest.fixture
def sites(run, tmp_path):
    return [MaskedSite(name, run.transport(name), tmp_path / "sites") for name in NAMES]


def found(run):
    return run.lead.orders.status()["sum"]


@pytest.mark.parametrize(
    ("kind", "phase", "needed"),
    [
        ("train", "keys", 3),
        ("share", "share", 2),
        ("mask", "mask", 2),
        ("consent", "consent", 2),
        ("reveal", "reveal", 2),
    ],
)
def test_each_phase_names_who_has_done_it_and_who_is_awaited(run, sites, kind, phase, needed):
    in_phase(run, sites, kind)
    about = {"exchange": 1, "phase": phase, "needed": needed}
    assert found(run) == {**about, "done": [], "awaited": NAMES}
    sites[1].do(only=kind)
    assert found(run) == {**about, "done": ["C2"], "awaited": ["C1", "C3"]}


def test_a_site_that_dropped_out_or_was_evicted_is_not_awaited(run, sites, clock):
    in_phase(run, sites, "mask")
    for site in sites[:2]:
        site.do(only="mask")
    clock.now += run.config.secure_aggregation_deadline_s
    run.lead.advance()
    assert found(run)["phase"] == "consent" and found(run)["awaited"] == ["C1", "C2"]
    run.lead.orders.evict("C3")
    assert found(run)["awaited"] == ["C1", "C2"]


def test_the_number_of_the_exchange_tells_that_a_sum_began_again(run, sites, clock):
    in_phase(run, sites, "consent")
    clock.now += run.config.secure_aggregation_deadline_s
    run.lead.advance()
    assert (found(run)["exchange"], found(run)["phase"]) == (2, "keys")


def test_without_secure_aggregation_there_is_no_sum(opened):
    assert found(opened()) is None

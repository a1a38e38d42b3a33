import pytest

from federated.rounds.rounds import Round, Update
from federated.rounds.sum_phases import Exchange, acted, advanced, restarted
from federated.storage.database import Records
from federated.storage.sum_records import SumRecords


@pytest.fixture
def records(tmp_path):
    opened = []

    def open_():
        while opened:
            opened.pop().close()
        opened.append(Records(tmp_path / "state.sqlite"))
        return SumRecords(opened[-1]._transaction), opened[-1]

    yield open_
    for each in opened:
        each.close()


def test_an_exchange_is_as_it_was_after_a_restart(records):
    sums, _ = records()
    state = sums.open(Round(1), now=5.0)
    assert state == Exchange(1, 5.0)
    for number, site in enumerate(("C1", "C2", "C3")):
        sums.keep_part(1, "keys", site, site.encode(), at=6.0 + number)
        state = acted(state, site, now=6.0 + number)
    sums, _ = records()
    assert sums.open(Round(1), now=50.0) == state
    assert sums.open(Round(1), now=7.0).done == {"C1": 6.0, "C2": 7.0, "C3": 7.0}
    state = advanced(state, now=9.0)
    sums.advance(1, state)
    sums, _ = records()
    assert sums.open(Round(1), now=50.0) == state
    assert sums.parts(1, "keys") == {"C1": b"C1", "C2": b"C2", "C3": b"C3"}


def test_received_updates_are_what_was_done_in_the_phase_of_the_masked_updates(records):
    sums, _ = records()
    sums.open(Round(1), now=0.0)
    members = frozenset({"C1", "C2", "C3"})
    sums.advance(1, Exchange(1, 3.0, "mask", {}, {"keys": members, "share": members}))
    received = {"C2": Update("C2", 1, 10, "d")}
    assert sums.open(Round(1, received), now=4.0).done.keys() == {"C2"}


def test_what_an_evicted_site_did_does_not_count(records):
    sums, store = records()
    sums.open(Round(1), now=0.0)
    for site in ("C1", "C2"):
        store.enrol(site, 1, {})
        sums.keep_part(1, "keys", site, b"", at=1.0)
    store.evict("C1", True)
    assert sums.open(Round(1), now=2.0).done.keys() == {"C2"}


def test_another_exchange_begins_without_updates_and_parts(records):
    sums, store = records()
    first = sums.open(Round(1), now=0.0)
    sums.keep_part(1, "keys", "C1", b"", at=1.0)
    with store._transaction() as database:
        database.execute("INSERT INTO updates VALUES (1, 'C1', 30, 'd', '{}', 0, 1, 0)")
    sums.restart(1, restarted(first, now=3.0))
    assert sums.open(Round(1), now=4.0) == Exchange(2, 3.0)
    assert sums.parts(1, "keys") == {} and store.counted_updates() == {}


def test_the_sites_whose_sum_may_be_open_are_kept_from_phase_to_phase(records):
    sums, _ = records()
    sums.open(Round(1), now=0.0)
    two = frozenset({"C1", "C2"})
    state = Exchange(3, 1.0, "share", {}, {"keys": two | {"C3"}}, two)
    for each in (Exchange(2, 1.0, again=two), state):
        sums.advance(1, each)
        sums, _ = records()
        assert sums.open(Round(1), now=2.0) == each


def test_only_the_open_round_has_any(records):
    sums, store = records()
    sums.open(Round(1), now=0.0)
    sums.keep_part(1, "keys", "C1", b"secret", at=1.0)
    sums.forget(closed=0)
    assert sums.parts(1, "keys")
    sums.forget(closed=1)
    assert not sums.parts(1, "keys")
    sums.open(Round(2), now=0.0)
    sums.keep_part(2, "keys", "C1", b"", at=1.0)
    with store._transaction() as database:
        sums.discard(database)
    assert not sums.parts(2, "keys")

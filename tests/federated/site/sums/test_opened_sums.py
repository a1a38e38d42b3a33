import errno
import os
import stat

import pytest

from federated import errors
from federated.site.sums import opened_sums
from federated.site.sums.opened_sums import OpenedSums
from federated.wire.messages import SumPlace

ALL, TWO = ("C1", "C2", "C3"), ("C1", "C2")


@pytest.fixture
def opened(tmp_path):
    return lambda **named: OpenedSums(tmp_path, "run", **named)


@pytest.mark.parametrize(
    ("place", "error"),
    [(SumPlace(0, 4, 2), errors.StaleUpdate), (SumPlace(1, 4, 1), errors.PolicyRefused)],
)
@pytest.mark.parametrize(("first", "second"), [(ALL, TWO), (TWO, ALL)])
def test_no_second_sum_of_a_round_whatever_the_exchange(opened, place, error, first, second):
    opened().note(SumPlace(0, 4, 1), first)
    sums = opened()  # a restart forgets nothing
    sums.note(place, first)
    sums.note(SumPlace(0, 5, 1), second)
    for call in (sums.check, sums.note):
        with pytest.raises(error, match=r"round 4, after .*--repeated_sums=1"):
            call(place, second)


def test_what_the_sites_operator_allows_is_counted_across_restarts(opened):
    opened().note(SumPlace(0, 1, 1), ALL)
    sums = opened(repeats=1)
    sums.note(SumPlace(1, 1, 1), TWO)
    for again in (sums, opened(repeats=1)):
        again.note(SumPlace(1, 1, 2), TWO)  # the same two again tell nothing more
        with pytest.raises(errors.StaleUpdate, match="--repeated_sums=2"):
            again.check(SumPlace(1, 1, 2), ("C1", "C3"))


def test_a_line_is_on_disk_once_and_for_this_account_only(opened, tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    monkeypatch.setattr(opened_sums.atomic, "sync_directory", synced.append)
    sums, path = opened(), tmp_path / "opened_sums.jsonl"
    for _ in range(2):
        sums.note(SumPlace(0, 1, 1), ALL)
    assert len(path.read_text().splitlines()) == 1
    assert len(synced) == 2 and synced.pop() == tmp_path
    again = opened()  # a kill may have come before the line and the name were synced
    assert len(synced) == 3 and synced.pop() == tmp_path
    again.note(SumPlace(0, 2, 1), ALL)
    assert len(synced) == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    OpenedSums(tmp_path, "another run").check(SumPlace(0, 1, 1), TWO)


def test_a_line_that_was_cut_is_removed_and_another_file_is_named(opened, tmp_path):
    path = tmp_path / "opened_sums.jsonl"
    opened().note(SumPlace(0, 1, 1), ALL)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    opened().note(SumPlace(0, 2, 1), ALL)
    assert [line.count(b"round") for line in path.read_bytes().splitlines()] == [1, 1]
    # After a power cut, the parts of a line that were not written yet are zeros.
    for unsynced in (b"\0" * len(whole), b"\0" * 40 + whole[40:], whole[:40] + b"\0" * 20 + b"\n"):
        path.write_bytes(whole + unsynced)
        opened().note(SumPlace(0, 2, 1), ALL)
        assert [line.count(b"round") for line in path.read_bytes().splitlines()] == [1, 1]
    path.write_bytes(whole[:40] + b"\0" * 20 + b"\n" + whole)
    with pytest.raises(ValueError, match="not what this program writes"):
        opened()
    for text in ("[]\n", "{}\n", "x\n", whole.decode().replace('"round": 1', '"round": "1"')):
        path.write_text(text)
        with pytest.raises(ValueError, match="not what this program writes"):
            opened()


def test_half_a_line_on_a_full_disk_is_replaced_by_the_next(opened, monkeypatch):
    sums = opened()
    sums.note(SumPlace(0, 1, 1), ALL)
    with monkeypatch.context() as disk:

        def full(descriptor):
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - 20)
            raise OSError(errno.ENOSPC, "No space left on device")

        disk.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"opened_sums\.jsonl"):
            sums.note(SumPlace(0, 2, 1), ALL)
    sums.note(SumPlace(0, 3, 1), ALL)
    opened().check(SumPlace(0, 2, 1), TWO)  # no share of that sum has left
    with pytest.raises(errors.StaleUpdate):
        opened().check(SumPlace(0, 3, 1), TWO)

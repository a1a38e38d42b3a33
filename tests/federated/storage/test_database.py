"""Threads that use the database at once, as the requests of sites do, and changes that fail."""

import os
import sqlite3
import subprocess
import sys
import threading

import pytest

from federated.storage.database import Records

THREADS, READS = 6, 200


def test_threads_that_read_at_once_get_their_own_rows(tmp_path):
    records = Records(tmp_path / "run.sqlite")
    records.pause(True)
    records.end_after(7, "plateau")
    wrong, together = [], threading.Barrier(THREADS + 1)

    def ask(which):
        together.wait()
        try:
            for _ in range(READS):
                # one statement with different values: the same cursor in the connection's cache
                found = records.last_round if which % 2 else records.paused
                if found != (7 if which % 2 else True):
                    wrong.append(found)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=ask, args=(which,)) for which in range(THREADS)]
    for thread in threads:
        thread.start()
    together.wait()
    for number in range(40):
        records.record_scores(number, "C1", {"dice": 0.5})
    for thread in threads:
        thread.join()
    assert wrong == [] and len(records.scores()) == 40
    records.close()


def test_a_change_that_fails_is_an_error_and_leaves_nothing(tmp_path):
    records = Records(tmp_path / "state.sqlite")
    records.keep_attempt(1, 2, 5.0)
    with pytest.raises(OverflowError):
        records.keep_attempt(1, 2**80, 6.0)  # more than SQLite holds
    assert records.attempt(1) == (2, 5.0)
    records.close()
    again = Records(tmp_path / "state.sqlite")
    assert again.attempt(1) == (2, 5.0) and again.attempt(2) is None
    again.close()


def test_what_was_read_before_a_change_is_read_again_after_it_and_within_it(tmp_path):
    records = Records(tmp_path / "state.sqlite")
    assert not records.paused and records.last_round is None
    before = records.changes
    records.pause(True)
    assert records.paused and records.changes > before
    with pytest.raises(RuntimeError), records._transaction() as database:
        assert records.paused
        database.execute("DELETE FROM run WHERE key = 'paused'")
        assert not records.paused
        raise RuntimeError("undo it")
    assert records.paused
    records.end_after(3, "plateau")
    assert records.last_round == 3
    counted = records.changes
    assert records.paused and records.sites() == {} and records.changes == counted
    records.close()


class Failing:
    """A connection on a disk that fails: some statements raise instead of being executed."""

    def __init__(self, real, *failing):
        self._real, self.failing = real, list(failing)

    def execute(self, statement, *values):
        if statement in self.failing:
            self.failing.remove(statement)
            raise sqlite3.OperationalError("disk I/O error")
        return self._real.execute(statement, *values)

    def __getattr__(self, name):
        return getattr(self._real, name)


@pytest.mark.parametrize("rollbacks", [0, 1, 3])
def test_what_could_be_neither_committed_nor_rolled_back_is_never_read(tmp_path, rollbacks):
    records = Records(tmp_path / "database")
    records.pause(False)
    real = records._database
    records._database = Failing(real, "COMMIT", *["ROLLBACK"] * rollbacks)
    with pytest.raises(sqlite3.OperationalError):
        records.pause(True)
    for _ in range(rollbacks - 1):
        with pytest.raises(sqlite3.OperationalError):
            records.paused  # noqa: B018 - it asks the database
    assert records.paused is False and not real.in_transaction
    records.pause(True)
    assert records.paused is True
    records.close()


_KILLED = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA synchronous=OFF")
database.execute("INSERT INTO run VALUES ('paused', 'true')")
os._exit(0)  # with its log written and not synced
"""


def test_what_a_killed_process_did_not_sync_is_synced_before_it_counts(tmp_path, monkeypatch):
    path = tmp_path / "state.sqlite"
    first = Records(path)
    subprocess.run([sys.executable, "-c", _KILLED, str(path)], check=True)
    synced, fsync = [], os.fsync

    def noted(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    again = Records(path)
    assert synced == [f"{path}-wal", str(tmp_path)] and again.paused
    for records in (again, first):
        records.close()
    Records(path).close()  # nothing was left
    assert len(synced) == 2

"""The records of secure aggregation in the store: exchanges, and what sites sent in them."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable

from federated.rounds.rounds import Round
from federated.rounds.sum_phases import Exchange, Phase

_SCHEMA = """
CREATE TABLE IF NOT EXISTS exchanges (
    round INTEGER PRIMARY KEY, number INTEGER NOT NULL, phase TEXT NOT NULL,
    opened_at REAL NOT NULL, closed TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sum_parts (
    round INTEGER NOT NULL, phase TEXT NOT NULL, site TEXT NOT NULL, data BLOB NOT NULL,
    at REAL NOT NULL, PRIMARY KEY (round, phase, site));
"""
_AGAIN = "again"  # a key in `closed` besides the phases
_Transaction = Callable[[], contextlib.AbstractContextManager[sqlite3.Connection]]


class SumRecords:
    """The records of the open round, as durable as the other facts; they are deleted with it.

    Args:
      transaction: begins a transaction of the store's database, as a context manager.
    """

    def __init__(self, transaction: _Transaction):
        self._transaction = transaction
        with transaction() as database:
            for statement in _SCHEMA.split(";"):
                database.execute(statement)

    def open(self, opened: Round, *, now: float) -> Exchange:
        """Returns the exchange of the open round, or a first one if there is none yet.

        Its times are not later than `now`. In the phase "mask", the sites whose updates were
        received have done their part. What evicted sites did in the phase does not count.
        """
        number = opened.number
        with self._transaction() as database:
            row = database.execute(
                "SELECT number, phase, opened_at, closed FROM exchanges WHERE round = ?", (number,)
            ).fetchone()
            if row is None:
                first = Exchange(1, now)
                _keep(database, number, first)
                return first
            done = dict(
                database.execute(
                    "SELECT site, at FROM sum_parts WHERE round = ? AND phase = ? AND site NOT IN "
                    "(SELECT name FROM sites WHERE evicted)",
                    (number, row[1]),
                ).fetchall()
            )
        if row[1] == "mask":
            done = dict.fromkeys(opened.received, now)
        closed = {phase: frozenset(sites) for phase, sites in json.loads(row[3]).items()}
        again = closed.pop(_AGAIN, frozenset())
        times = {site: min(at, now) for site, at in done.items()}
        return Exchange(row[0], min(row[2], now), row[1], times, closed, again)

    def keep_part(self, number: int, phase: Phase, site: str, data: bytes, *, at: float) -> None:
        """Records what a site sent in a phase of the open exchange of round `number`."""
        with self._transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO sum_parts VALUES (?, ?, ?, ?, ?)",
                (number, phase, site, data, at),
            )

    def parts(self, number: int, phase: Phase) -> dict[str, bytes]:
        """Returns {site: what it sent} for a phase of the open exchange of round `number`."""
        with self._transaction() as database:
            return dict(
                database.execute(
                    "SELECT site, data FROM sum_parts WHERE round = ? AND phase = ? ORDER BY site",
                    (number, phase),
                ).fetchall()
            )

    def advance(self, number: int, state: Exchange) -> None:
        """Records the next phase of an exchange."""
        with self._transaction() as database:
            _keep(database, number, state)

    def restart(self, number: int, state: Exchange) -> None:
        """Records the next exchange of a round, in place of an abandoned one.

        The masked updates of the abandoned exchange are deleted.
        """
        with self._transaction() as database:
            database.execute("DELETE FROM updates WHERE counts_in = ?", (number,))
            database.execute("DELETE FROM sum_parts WHERE round = ?", (number,))
            _keep(database, number, state)

    def forget(self, *, closed: int) -> None:
        """Deletes the exchanges of all rounds but the one after `closed`."""
        with self._transaction() as database:
            for table in ("exchanges", "sum_parts"):
                database.execute(f"DELETE FROM {table} WHERE round != ?", (closed + 1,))

    def discard(self, database: sqlite3.Connection) -> None:
        """Deletes all exchanges, within a transaction that discards rounds."""
        for table in ("exchanges", "sum_parts"):
            database.execute(f"DELETE FROM {table}")


def _keep(database: sqlite3.Connection, number: int, state: Exchange) -> None:
    sets: dict[str, frozenset[str]] = dict(state.closed.items())
    if state.again:
        sets[_AGAIN] = state.again
    closed = json.dumps({name: sorted(sites) for name, sites in sets.items()})
    database.execute(
        "INSERT OR REPLACE INTO exchanges VALUES (?, ?, ?, ?, ?)",
        (number, state.number, state.phase, state.opened_at, closed),
    )

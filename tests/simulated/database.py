"""SQLite in memory whose content outlives the program that opened it, as a file would.

Two things make it cheap and change no answer: a connection serves many stories, one after the other,
so that its statements are compiled once; and a question whose tables nobody has changed since it was
asked is not asked again.
"""

from __future__ import annotations

import functools
import re
import sqlite3
from collections.abc import Callable
from typing import Any

_idle: list[_Database] = []  # empty, with their tables and compiled statements


class Databases:
    """The databases of all machines, by path.

    Args:
      machine: whose databases they are.
      before: called with the machine and the kind of operation before a commit and a read; raises
        sqlite3.OperationalError for a full disk, or ends the program that asks.
    """

    def __init__(self, before: Callable[[str, str], object], machine: str = ""):
        self._machine = machine
        self._before = before
        self._held: dict[str, _Database] = {}

    def connect(self, path: Any, **named: Any) -> Connection:
        path = str(path)
        if path not in self._held:
            self._held[path] = _idle.pop() if _idle else _Database()
        held = self._held[path]
        if held.connection.in_transaction:  # whoever began it was killed
            held.connection.execute("ROLLBACK")
        return Connection(self._machine, held, self._before)

    def close(self) -> None:
        """Gives the databases up."""
        for database in self._held.values():
            if database.empties():
                _idle.append(database)
        self._held.clear()


class _Database:
    """The content of a database.

    Attributes:
      script: that made its tables, "" before.
      tables: their names.
    """

    def __init__(self) -> None:
        self.connection = sqlite3.connect(
            ":memory:", isolation_level=None, check_same_thread=False, cached_statements=1000
        )
        self.cursor = self.connection.cursor()  # one for all questions, whose answers are short
        self.script, self.tables = "", frozenset[str]()
        self._schema = 0  # SQLite's number of the tables that the script made
        self._reused = False  # whether its tables are those of an earlier story

    def run(self, script: str) -> None:
        """Runs the script that makes the tables unless they are there."""
        reused, self._reused = self._reused, False
        if script != self.script:
            if reused:  # with the tables of another script
                for table in self.tables:
                    self.connection.execute(f"DROP TABLE {table}")
            self.connection.executescript(script)
            self.script = script
            rows = self.connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            self.tables = frozenset(name for (name,) in rows)
            self._schema = self._schema_now()

    def empties(self) -> bool:
        """Empties all tables; returns False, and closes, if they may be others than at first."""
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")
        if not self.tables or self._schema_now() != self._schema:
            self.connection.close()
            return False
        for table in self.tables:
            self.cursor.execute(f"DELETE FROM {table}")
        self._reused = True
        return True

    def _schema_now(self) -> int:
        return self.connection.execute("PRAGMA schema_version").fetchone()[0]


class Connection:
    def __init__(self, machine: str, held: _Database, before: Callable[[str, str], object]):
        self._machine, self._held, self._before = machine, held, before
        self._connection = held.connection
        self._known: dict[tuple[str, tuple], _Rows] = {}
        self._about: dict[str, list[tuple[str, tuple]]] = {}  # table to questions about it

    def execute(self, statement: str, values: Any = ()) -> Any:
        key = statement, values if type(values) is tuple else tuple(values)
        found = self._known.get(key)
        if found is not None or statement.startswith("SELECT"):
            self._before(self._machine, "statement")
            return self._ask(key) if found is None else found
        if statement == "COMMIT":
            self._before(self._machine, "commit")
        elif statement.startswith("PRAGMA"):
            return self._connection.cursor()
        else:
            self._before(self._machine, "statement")
            self._forget(statement)
        return self._connection.execute(statement, values)

    def _ask(self, key: tuple[str, tuple]) -> _Rows:
        """The server asks the same questions again and again between two changes."""
        rows = self._known[key] = _Rows(self._held.cursor.execute(*key).fetchall())
        for table in _named_in(key[0], self._held.tables):
            self._about.setdefault(table, []).append(key)
        return rows

    def _forget(self, statement: str) -> None:
        """Forgets the answers about tables that a statement may change."""
        if statement == "ROLLBACK":
            self._known.clear()
            self._about.clear()
        for table in _named_in(statement, self._held.tables):
            for key in self._about.pop(table, ()):
                self._known.pop(key, None)

    def executescript(self, script: str) -> None:
        self._held.run(script)

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def close(self) -> None:
        pass


@functools.lru_cache(maxsize=1000)
def _named_in(statement: str, tables: frozenset[str]) -> frozenset[str]:
    """Returns the tables that a statement names."""
    return tables & frozenset(re.findall(r"\w+", statement))


class _Rows:
    """The answer to a question: like a cursor, but one can ask it again and again."""

    __slots__ = ("_rows",)

    def __init__(self, rows: list[tuple]):
        self._rows = rows

    def fetchall(self) -> list[tuple]:
        return self._rows.copy()

    def fetchone(self) -> tuple | None:
        return self._rows[0] if self._rows else None


class Module:
    """Takes the place of the module `sqlite3` in the product."""

    Connection, Error, DatabaseError = sqlite3.Connection, sqlite3.Error, sqlite3.DatabaseError
    OperationalError = sqlite3.OperationalError

    def __init__(self) -> None:
        self.databases = Databases(lambda machine, kind: None)

    def connect(self, path: Any, **named: Any) -> Connection:
        return self.databases.connect(path, **named)

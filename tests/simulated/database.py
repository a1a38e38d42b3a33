"""SQLite in memory whose content outlives the program that opened it, as a file would."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any


class Databases:
    """The databases of all machines, by path.

    Args:
      before: called with (path, kind of operation) before a commit and a read; raises
        sqlite3.OperationalError for a full disk, or ends the program that asks.
      content: of a new database, as `sqlite3.Connection.serialize` returns it; empty for none.
    """

    def __init__(self, before: Callable[[str, str], None], content: bytes = b""):
        self._before, self._content = before, content
        self.held: dict[str, sqlite3.Connection] = {}

    def connect(self, path: Any, **named: Any) -> Connection:
        path = str(path)
        if path not in self.held:
            connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            if self._content:
                connection.deserialize(self._content)
            self.held[path] = connection
        elif self.held[path].in_transaction:  # whoever began it was killed
            self.held[path].execute("ROLLBACK")
        return Connection(path, self.held[path], self._before, ready=bool(self._content))

    def close(self) -> None:
        for connection in self.held.values():
            connection.close()


class Connection:
    def __init__(
        self,
        path: str,
        connection: sqlite3.Connection,
        before: Callable[[str, str], None],
        *,
        ready: bool,
    ):
        self._path, self._connection, self._before, self._ready = path, connection, before, ready
        self._known: dict[tuple[str, tuple], list[tuple]] = {}

    def execute(self, statement: str, values: Any = ()) -> Any:
        if statement.startswith("SELECT"):
            # The server asks the same questions again and again between two changes.
            self._before(self._path, "statement")
            key = statement, tuple(values)
            if key not in self._known:
                self._known[key] = self._connection.execute(statement, values).fetchall()
            return _Rows(self._known[key])
        self._known.clear()
        if statement == "COMMIT":
            self._before(self._path, "commit")
        elif statement.startswith("PRAGMA"):
            return self._connection.cursor()
        else:
            self._before(self._path, "statement")
        return self._connection.execute(statement, values)

    def executescript(self, script: str) -> None:
        if not self._ready:
            self._connection.executescript(script)

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def close(self) -> None:
        pass


class _Rows:
    """The answer to a question, as a cursor gives it."""

    def __init__(self, rows: list[tuple]):
        self._rows = rows

    def fetchall(self) -> list[tuple]:
        return list(self._rows)

    def fetchone(self) -> tuple | None:
        return self._rows[0] if self._rows else None


class Module:
    """Takes the place of the module `sqlite3` in the product."""

    Connection, Error, DatabaseError = sqlite3.Connection, sqlite3.Error, sqlite3.DatabaseError
    OperationalError = sqlite3.OperationalError

    def __init__(self) -> None:
        self.databases = Databases(lambda path, kind: None)

    def connect(self, path: Any, **named: Any) -> Connection:
        return self.databases.connect(path, **named)

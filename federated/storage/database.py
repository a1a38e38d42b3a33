"""The facts of a run in SQLite: settings, sites, sessions, rounds, scores, models and rows."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import sqlite3
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from federated.rounds.rounds import Update
from federated.security.credentials import TokenRecord
from federated.tensors.weights import TensorManifest
from runkit import atomic, private

_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sites (
    name TEXT PRIMARY KEY, num_examples INTEGER NOT NULL,
    confirmed INTEGER NOT NULL DEFAULT 0, evicted INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS sessions (
    token_sha256 TEXT PRIMARY KEY, site TEXT NOT NULL, certificate TEXT NOT NULL,
    expires_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS globals (number INTEGER PRIMARY KEY, sha256 TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rule_states (number INTEGER PRIMARY KEY, sha256 TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS updates (
    round INTEGER NOT NULL, site TEXT NOT NULL, num_examples INTEGER NOT NULL, sha256 TEXT NOT NULL,
    metrics TEXT NOT NULL, received_at REAL NOT NULL, counts_in INTEGER NOT NULL,
    change REAL NOT NULL, PRIMARY KEY (counts_in, site));
CREATE INDEX IF NOT EXISTS updates_by_site ON updates (site);
CREATE TABLE IF NOT EXISTS attempts (
    round INTEGER PRIMARY KEY, attempt INTEGER NOT NULL, opened_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS addresses (sha256 TEXT PRIMARY KEY, chunks BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS scores (
    model INTEGER NOT NULL, site TEXT NOT NULL, scores TEXT NOT NULL, PRIMARY KEY (model, site));
CREATE TABLE IF NOT EXISTS models (
    name TEXT PRIMARY KEY, site TEXT NOT NULL, sha256 TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS declared (site TEXT PRIMARY KEY, names TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS labels (site TEXT PRIMARY KEY, words TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS reports (site TEXT PRIMARY KEY, rows TEXT NOT NULL);
"""


Scores = dict[int, dict[str, dict[str, float]]]  # global model -> site -> measure -> value
GIVEN = ""  # the site of a model that was not published by a site but given by the operator
FIRST_AGGREGATION = "fedavg"  # the rule of every run that began before there was a choice
_ANOTHER_NUMBER = "another_number"  # in `run`: sites that may log in with other numbers of cases
_SESSIONS = 8  # sessions that a site may have at a time; each login adds one


@dataclasses.dataclass(frozen=True)
class SiteRecord:
    num_examples: int  # at its last login
    confirmed: bool  # whether the site was told that it is finished
    evicted: bool = False
    # class -> whether the site's labels show it, see `rounds.declarations`
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    another_number: bool = False  # whether it may log in once with another `num_examples`


def insert_addresses(database: sqlite3.Connection, manifest: TensorManifest) -> None:
    database.execute(
        "INSERT OR REPLACE INTO addresses VALUES (?, ?)", (manifest.sha256, manifest.addresses)
    )


def _allow(database: sqlite3.Connection, sites: Iterable[str]) -> None:
    database.execute(
        "INSERT OR REPLACE INTO run VALUES (?, ?)", (_ANOTHER_NUMBER, json.dumps(sorted(sites)))
    )


def _sync_log(path: pathlib.Path) -> None:
    """Syncs SQLite's log, if a killed process left one.

    It may not have synced its last transaction, which is read from now on, and confirmed to sites.
    """
    if path.exists():
        with atomic.naming(path), open(path, "rb+") as stream:
            os.fsync(stream.fileno())
        atomic.sync_directory(path.parent)


@functools.lru_cache(maxsize=1000)
def _labels(words: str) -> Mapping[str, str]:
    """Sites declare the same few labels, and every login reads those of all."""
    return json.loads(words)


class Records:
    """Facts that survive a crash: a method that changes one returns when the change is on disk.

    Any thread may call any method. One statement runs at a time, and during a transaction no other.
    What must hold between two calls needs the caller's own lock.

    Attributes:
      changes: how often something may have changed. As long as it stays, so does every answer.
    """

    def __init__(self, path: str | os.PathLike):
        # Two threads that run the same statement share its cursor in the connection's cache, and
        # would take rows from each other.
        self._serial = threading.RLock()
        self.changes = 0
        self._values: dict[str, str | None] = {}  # of the table `run`, as they were last read
        self._abandoned = False  # whether a transaction failed and could not be rolled back either
        # SQLite gives its further files the permissions of this one.
        os.close(private.opener(path, os.O_RDWR | os.O_CREAT))
        _sync_log(pathlib.Path(f"{os.fspath(path)}-wal"))
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        if self._one("SELECT 1 FROM sqlite_master WHERE name = 'run'") is not None:
            try:
                self._before_any_change()
            except ValueError:
                self.close()
                raise
        self._database.execute("PRAGMA journal_mode=WAL")
        # By default WAL may lose the last commits in a power cut; a confirmed update must not be.
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.executescript(_SCHEMA)

    def _before_any_change(self) -> None:
        """Called with an existing run; raises ValueError to leave it as it is."""

    def close(self) -> None:
        with self._serial:
            self._database.close()

    def _all(self, statement: str, *values: Any) -> list[tuple]:
        with self._serial:
            if self._abandoned:
                self._roll_back()
            return self._database.execute(statement, values).fetchall()

    def _one(self, statement: str, *values: Any) -> tuple | None:
        with self._serial:
            if self._abandoned:
                self._roll_back()
            return self._database.execute(statement, values).fetchone()

    def _roll_back(self) -> None:
        """Ends an abandoned transaction; until this succeeds, every question fails.

        A connection reads its own changes, also those that were never committed, and what it reads
        is confirmed to sites.
        """
        if self._database.in_transaction:  # a full disk may have ended it
            self._database.execute("ROLLBACK")
        self._abandoned = False

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._serial:
            if self._abandoned:
                self._roll_back()
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                self._abandoned = True
                with contextlib.suppress(sqlite3.Error):  # then before the next statement
                    self._roll_back()
                raise
            finally:
                self.changes += 1
                self._values.clear()

    # The run.

    def _value(self, key: str) -> Any:
        with self._serial:
            if key not in self._values or self._database.in_transaction:
                row = self._one("SELECT value FROM run WHERE key = ?", key)
                self._values[key] = None if row is None else row[0]
            text = self._values[key]
        return None if text is None else json.loads(text)

    def _set_value(self, key: str, value: Any) -> None:
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO run VALUES (?, ?)", (key, json.dumps(value)))

    @property
    def run_id(self) -> str:
        return self._value("id")

    @property
    def plan(self) -> dict:
        return self._value("plan")

    @property
    def aggregation(self) -> str:
        """The run's aggregation rule and its parameters, in the form that --aggregation takes."""
        return self._value("settings").get("aggregation", FIRST_AGGREGATION)

    @property
    def only_evaluates(self) -> bool:
        """Whether the run has no rounds: sites evaluate the models that the operator gave."""
        return self._value("settings")["num_rounds"] == 0

    def finish(self) -> None:
        self._set_value("finished", True)

    @property
    def finished(self) -> bool:
        return bool(self._value("finished"))

    @property
    def paused(self) -> bool:
        return bool(self._value("paused"))

    def pause(self, paused: bool) -> None:
        self._set_value("paused", paused)

    @property
    def last_round(self) -> int | None:
        """The round after which the run was told to end early; None if it was not."""
        value = self._value("last_round")
        return None if value is None else value["round"]

    @property
    def discarded(self) -> int:
        """How often the operator has discarded rounds."""
        return self._value("discarded") or 0

    def end_after(self, number: int, reason: str) -> None:
        self._set_value("last_round", {"round": number, "reason": reason})

    # Sites and their sessions.

    def enrol(self, site: str, num_examples: int, labels: Mapping[str, str]) -> None:
        with self._transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO labels VALUES (?, ?)", (site, json.dumps(dict(labels)))
            )
            database.execute(
                "INSERT INTO sites (name, num_examples) VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET num_examples = excluded.num_examples",
                (site, num_examples),
            )
            if site in self._allowed():
                _allow(database, self._allowed() - {site})

    def sites(self) -> dict[str, SiteRecord]:
        rows = self._all(
            "SELECT name, num_examples, confirmed, evicted, words "
            "FROM sites LEFT JOIN labels ON sites.name = labels.site ORDER BY name"
        )
        allowed = self._allowed()
        return {
            name: SiteRecord(
                examples,
                bool(confirmed),
                bool(evicted),
                _labels(words or "{}"),
                # An earlier release forgot the number of a site that may have another.
                another_number=name in allowed or not examples,
            )
            for name, examples, confirmed, evicted, words in rows
        }

    def num_examples(self, site: str) -> int | None:
        """Returns the number of training cases at a site's login; None if it never logged in."""
        row = self._one("SELECT num_examples FROM sites WHERE name = ?", site)
        return None if row is None else row[0]

    def confirm(self, site: str) -> None:
        with self._transaction() as database:
            database.execute("UPDATE sites SET confirmed = 1 WHERE name = ?", (site,))

    def evict(self, site: str, evicted: bool, *, update_counts: bool = False) -> None:
        """Evicts a site, with its sessions and its update of the open round, or readmits it.

        Args:
          update_counts: the update is kept.
        """
        with self._transaction() as database:
            if evicted and not update_counts:
                database.execute(
                    "DELETE FROM updates WHERE site = ? "
                    "AND counts_in > (SELECT MAX(number) FROM globals)",
                    (site,),
                )
            database.execute("UPDATE sites SET evicted = ? WHERE name = ?", (int(evicted), site))
            database.execute("DELETE FROM sessions WHERE site = ?", (site,))

    def allow_another_number(self, site: str) -> None:
        """Lets a site log in once with another number of training cases.

        Until then its scores have the weight of the number that it had.
        """
        with self._transaction() as database:
            _allow(database, self._allowed() | {site})

    def _allowed(self) -> frozenset[str]:
        return frozenset(self._value(_ANOTHER_NUMBER) or ())

    def add_session(self, token_sha256: str, session: TokenRecord, *, now: float) -> None:
        """Adds a session; removes expired ones and all but the newest few of the site."""
        with self._transaction() as database:
            database.execute("DELETE FROM sessions WHERE expires_at <= ?", (now,))
            database.execute(
                "INSERT INTO sessions VALUES (?, ?, ?, ?)",
                (token_sha256, session.site, session.certificate, session.expires_at),
            )
            database.execute(
                "DELETE FROM sessions WHERE site = ?1 AND rowid NOT IN "
                "(SELECT rowid FROM sessions WHERE site = ?1 ORDER BY rowid DESC LIMIT ?2)",
                (session.site, _SESSIONS),
            )

    def session(self, token_sha256: str) -> TokenRecord | None:
        row = self._one(
            "SELECT site, certificate, expires_at FROM sessions WHERE token_sha256 = ?",
            token_sha256,
        )
        return None if row is None else TokenRecord(*row)

    # Rounds.

    def attempt(self, number: int) -> tuple[int, float] | None:
        """Returns (number of the attempt at a round, its beginning); None before the first."""
        return self._one("SELECT attempt, opened_at FROM attempts WHERE round = ?", number)

    def keep_attempt(self, number: int, attempt: int, opened_at: float) -> None:
        with self._transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO attempts VALUES (?, ?, ?)", (number, attempt, opened_at)
            )

    def globals(self) -> dict[int, str]:
        """Returns {number: digest} for every global model; 0 is the initial one."""
        return dict(self._all("SELECT number, sha256 FROM globals ORDER BY number"))

    def rule_states(self) -> dict[int, str]:
        """Returns {number of a global model: digest of the aggregation rule's state with it}."""
        return dict(self._all("SELECT number, sha256 FROM rule_states ORDER BY number"))

    def manifest_addresses(self, sha256: str) -> bytes | None:
        """Returns the SHA-256 of every chunk of a model; None if they are not known."""
        row = self._one("SELECT chunks FROM addresses WHERE sha256 = ?", sha256)
        return None if row is None else row[0]

    def keep_addresses(self, manifest: TensorManifest) -> None:
        with self._transaction() as database:
            insert_addresses(database, manifest)

    def update(self, site: str, number: int) -> Update | None:
        """Returns the update received from a site for a round, closed rounds included."""
        row = self._one(
            "SELECT site, round, num_examples, sha256 FROM updates "
            "WHERE round = ? AND site = ? ORDER BY counts_in DESC",
            number,
            site,
        )
        return None if row is None else Update(*row)

    def counted_updates(self) -> dict[int, list[Update]]:
        """Returns {round: updates that count in it, sorted by site}.

        Only the newest rounds still have the files.
        """
        result: dict[int, list[Update]] = {}
        for counts_in, *update in self._all(
            "SELECT counts_in, site, round, num_examples, sha256 FROM updates "
            "ORDER BY counts_in, site"
        ):
            result.setdefault(counts_in, []).append(Update(*update))
        return result

    def counted(self, number: int) -> frozenset[str]:
        """Returns the sites whose updates count in a round."""
        return frozenset(
            site for (site,) in self._all("SELECT site FROM updates WHERE counts_in = ?", number)
        )

    def changes_of_others(self, site: str, *, since: int) -> list[float]:
        """Returns the norms of the changes by other sites in round `since` or later.

        Evicted sites are left out.
        """
        found = self._all(
            "SELECT change FROM updates WHERE site != ? AND counts_in >= ? "
            "AND site NOT IN (SELECT name FROM sites WHERE evicted) ORDER BY counts_in, site",
            site,
            since,
        )
        return [change for (change,) in found]

    def participants(self) -> frozenset[str]:
        """Returns the sites with an update in any round; without rounds, all that logged in."""
        # One query per site, not one per update: every request of a site needs this.
        statement = "SELECT name FROM sites"
        if not self.only_evaluates:
            statement += " WHERE EXISTS (SELECT 1 FROM updates WHERE updates.site = sites.name)"
        return frozenset(site for (site,) in self._all(statement))

    def took_part(self) -> frozenset[str]:
        """Returns the sites with an update in any round; without rounds, those whose rows count."""
        if not self.only_evaluates:
            return self.participants()
        sites = self.sites()
        return frozenset(site for site in self.reported() if not sites[site].evicted)

    # Scores.

    def record_scores(self, model: int, site: str, scores: Mapping[str, float]) -> None:
        with self._transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO scores VALUES (?, ?, ?)",
                (model, site, json.dumps(dict(scores))),
            )

    def score(self, model: int, site: str) -> dict[str, float] | None:
        """Returns a site's scores of a global model; None if it did not score it."""
        row = self._one("SELECT scores FROM scores WHERE model = ? AND site = ?", model, site)
        return None if row is None else json.loads(row[0])

    def scores(self, *, since: int = 0) -> Scores:
        """Returns {model number: {site: scores}}, beginning with model `since`."""
        result: Scores = {}
        for model, site, scores in self._all(
            "SELECT model, site, scores FROM scores WHERE model >= ? ORDER BY model, site", since
        ):
            result.setdefault(model, {})[site] = json.loads(scores)
        return result

    def each_score(self, measure: str) -> list[tuple[int, str, float]]:
        """Returns (model number, site, score) for every score of a model by `measure`.

        For thousands of rounds this takes a small fraction of the memory that `scores` takes.
        """
        found = (
            (model, sys.intern(site), json.loads(scores).get(measure))
            for model, site, scores in self._all(
                "SELECT model, site, scores FROM scores ORDER BY model, site"
            )
        )
        return [each for each in found if each[2] is not None]

    def scored(self, model: int) -> frozenset[str]:
        """Returns the sites that scored a model."""
        return frozenset(
            site for (site,) in self._all("SELECT site FROM scores WHERE model = ?", model)
        )

    # Cross-site evaluation.

    def models(self) -> dict[str, tuple[str, str]]:
        """Returns {name: (site, digest)} for the published models.

        The site is `GIVEN` for models that the operator gave.
        """
        return {
            name: (site, sha256)
            for name, site, sha256 in self._all(
                "SELECT name, site, sha256 FROM models ORDER BY name"
            )
        }

    def declare(self, site: str, names: Sequence[str]) -> None:
        with self._transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO declared VALUES (?, ?)", (site, json.dumps(sorted(names)))
            )

    def declared(self) -> frozenset[str]:
        """Returns the sites that have published all their models."""
        return frozenset(site for (site,) in self._all("SELECT site FROM declared"))

    def fix_models(self, names: Sequence[str], best: int) -> None:
        """Fixes which models every site evaluates, and which global model is the best one."""
        self._set_value("evaluation", {"models": list(names), "best": best})

    def fixed_models(self) -> tuple[str, ...]:
        value = self._value("evaluation")
        return () if value is None else tuple(value["models"])

    def withdrawn_models(self) -> tuple[str, ...]:
        """Returns the models that were to be evaluated until their site was evicted."""
        value = self._value("evaluation")
        return () if value is None else tuple(value.get("withdrawn", ()))

    def fixed_best(self) -> int:
        return self._value("evaluation")["best"]

    def rows(self, site: str | None = None) -> dict[str, list[dict[str, Any]]]:
        """Returns {site: its rows}, for one site or for all."""
        found = self._all(
            "SELECT site, rows FROM reports WHERE ?1 IS NULL OR site = ?1 ORDER BY site", site
        )
        return {site: json.loads(rows) for site, rows in found}

    def reported(self) -> frozenset[str]:
        """Returns the sites whose rows were received."""
        return frozenset(site for (site,) in self._all("SELECT site FROM reports"))

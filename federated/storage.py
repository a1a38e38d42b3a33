"""What the server remembers: SQLite (write-ahead log) for facts, safetensors files for weights. What it confirms survives a crash.

    <store>/state.sqlite              run, sessions, rounds, updates, scores, models, rows
            global/round_000.safetensors   every global model; round_000 is the initial one
            best.safetensors selection.json   the best global model so far and the scores behind it
            models/<name>.safetensors  models that sites published for cross-site evaluation
            rows.jsonl                per-case rows of every site
            events.jsonl address.json
            spool/                    updates of the open round
            incoming/                 transfers under way

A file gets its final name only when it is whole and synced, and counts only when the database says so; what a kill leaves
in between is removed at the next start.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import itertools
import json
import os
import pathlib
import secrets
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from federated import agenda
from federated import plan as plans
from federated.credentials import Session
from federated.errors import DifferentRun, StoreInUse
from federated.rounds import Policy, Round, Update, accept
from federated.tensor_files import TensorFile, file_digest
from runkit import atomic

FORMAT = "1"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sites (name TEXT PRIMARY KEY, num_examples INTEGER NOT NULL, confirmed INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS sessions (token_sha256 TEXT PRIMARY KEY, site TEXT NOT NULL, certificate TEXT NOT NULL, expires_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS globals (number INTEGER PRIMARY KEY, sha256 TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS updates (
    round INTEGER NOT NULL, site TEXT NOT NULL, num_examples INTEGER NOT NULL, sha256 TEXT NOT NULL, metrics TEXT NOT NULL,
    received_at REAL NOT NULL, PRIMARY KEY (round, site));
CREATE TABLE IF NOT EXISTS scores (model INTEGER NOT NULL, site TEXT NOT NULL, scores TEXT NOT NULL, PRIMARY KEY (model, site));
CREATE TABLE IF NOT EXISTS models (name TEXT PRIMARY KEY, site TEXT NOT NULL, sha256 TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS declared (site TEXT PRIMARY KEY, names TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS reports (site TEXT PRIMARY KEY, rows TEXT NOT NULL);
"""


@dataclasses.dataclass(frozen=True)
class SiteRecord:
    num_examples: int
    confirmed: bool  # the site was told that it is finished


class Store:
    """The durable state of one run. Every method that changes it returns after the change is on disk.

    Not thread-safe: the coordinator's lock protects it.

    Raises:
      StoreInUse: while another process has the folder open.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = pathlib.Path(folder)
        for name in ("global", "models", "spool", "incoming"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._lock = open(self.folder / "lock", "w")  # noqa: SIM115 - held until close()
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise StoreInUse(f"{self.folder}: another server works on this store; stop it or give this one a folder of its own") from None
        self._database = sqlite3.connect(self.folder / "state.sqlite", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")  # WAL's default may lose the last commits in a power cut: receipts may not
        self._database.executescript(_SCHEMA)
        self._remove_leftovers()

    def close(self) -> None:
        self._database.close()
        self._lock.close()

    def _all(self, statement: str, *values: Any) -> list[tuple]:
        return self._database.execute(statement, values).fetchall()

    def _one(self, statement: str, *values: Any) -> tuple | None:
        return self._database.execute(statement, values).fetchone()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def _remove_leftovers(self) -> None:
        shutil.rmtree(self.folder / "incoming")
        (self.folder / "incoming").mkdir()
        known = {self.update_path(update).name for update in self._updates()} | {f"{name}.safetensors" for name in self.models()}
        spooled = itertools.chain((self.folder / "spool").iterdir(), (self.folder / "models").iterdir())
        partial = (path for folder in (self.folder, self.folder / "global") for path in folder.glob(".partial-*"))
        for path in [*(path for path in spooled if path.name not in known), *partial]:
            path.unlink()

    # The run.

    def open_run(self, initial: str | os.PathLike, *, policy: Policy, local_epochs: int) -> None:
        """Starts a run from the initial model, or checks that the run in the store is the one asked for.

        Args:
          initial: safetensors file; its metadata key "plan" holds the plan as JSON.
        Raises:
          ValueError: for a file that is no model or has no plan.
          DifferentRun: listing what differs from the run in the store.
        """
        with TensorFile(initial) as file:
            sha256, metadata = file_digest(file), file.metadata
        try:
            plan = plans.normal(json.loads(metadata["plan"]))
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"{initial}: its metadata has no plan in JSON ({error!r}); make the initial model with the plan of this run"
            ) from error
        wanted = {"format": FORMAT, "initial model": sha256, "num_rounds": policy.num_rounds, "local_epochs": local_epochs}
        if self._one("SELECT value FROM run WHERE key = 'id'") is None:
            with atomic.replacing(self.global_path(0)) as temporary:
                shutil.copyfile(initial, temporary)
            with self._transaction() as database:
                database.execute("INSERT INTO globals VALUES (0, ?)", (sha256,))
                for key, value in (("id", secrets.token_hex(8)), ("plan", plan), ("settings", wanted)):
                    database.execute("INSERT INTO run VALUES (?, ?)", (key, json.dumps(value)))
            return
        stored = self._value("settings")
        lines = [
            f"{key}: the store has {stored.get(key)}, asked for is {value}" for key, value in wanted.items() if stored.get(key) != value
        ]
        lines += [
            line.replace(": server ", ": the store has ").replace(", site ", ", asked for is ")
            for line in plans.differences(self.plan, plan)
        ]
        if lines:
            raise DifferentRun(f"{self.folder} holds another run: {'; '.join(lines)}; start with the same settings, or give a new folder")

    def _value(self, key: str) -> Any:
        row = self._one("SELECT value FROM run WHERE key = ?", key)
        return None if row is None else json.loads(row[0])

    def _set_value(self, key: str, value: Any) -> None:
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO run VALUES (?, ?)", (key, json.dumps(value)))

    @property
    def run_id(self) -> str:
        return self._value("id")

    @property
    def plan(self) -> dict:
        return self._value("plan")

    # Sites and their sessions.

    def enrol(self, site: str, num_examples: int) -> None:
        with self._transaction() as database:
            database.execute(
                "INSERT INTO sites (name, num_examples) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET num_examples = excluded.num_examples",
                (site, num_examples),
            )

    def sites(self) -> dict[str, SiteRecord]:
        return {name: SiteRecord(n, bool(c)) for name, n, c in self._all("SELECT name, num_examples, confirmed FROM sites ORDER BY name")}

    def confirm(self, site: str) -> None:
        with self._transaction() as database:
            database.execute("UPDATE sites SET confirmed = 1 WHERE name = ?", (site,))

    def add_session(self, token_sha256: str, session: Session, *, now: float) -> None:
        """Adds a session and drops those that have expired."""
        with self._transaction() as database:
            database.execute("DELETE FROM sessions WHERE expires_at <= ?", (now,))
            database.execute(
                "INSERT INTO sessions VALUES (?, ?, ?, ?)", (token_sha256, session.site, session.certificate, session.expires_at)
            )

    def session(self, token_sha256: str) -> Session | None:
        row = self._one("SELECT site, certificate, expires_at FROM sessions WHERE token_sha256 = ?", token_sha256)
        return None if row is None else Session(*row)

    # Rounds.

    def incoming_path(self) -> pathlib.Path:
        """Returns a fresh name for a transfer under way."""
        return self.folder / "incoming" / f"{secrets.token_hex(8)}.safetensors"

    def update_path(self, update: Update) -> pathlib.Path:
        # The digest is part of the name: an update that replaces another never overwrites the one the database still counts.
        return self.folder / "spool" / f"round_{update.round:03d}.{update.site}.{update.sha256[:16]}.safetensors"

    def keep_update(self, received: pathlib.Path, update: Update, metrics: Mapping[str, float], *, now: float) -> None:
        """Moves a whole and synced file into the spool and records it; replaces an earlier update of the same site and round."""
        replaced = self.update(update.site, update.round)
        path = self.update_path(update)
        os.replace(received, path)
        atomic.sync_directory(path.parent)
        with self._transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO updates VALUES (?, ?, ?, ?, ?, ?)",
                (update.round, update.site, update.num_examples, update.sha256, json.dumps(dict(metrics)), now),
            )
        if replaced is not None and self.update_path(replaced) != path:
            self.update_path(replaced).unlink(missing_ok=True)

    def forget_update(self, update: Update) -> None:
        """Drops an update of the open round, as if it had never come."""
        with self._transaction() as database:
            database.execute("DELETE FROM updates WHERE round = ? AND site = ?", (update.round, update.site))
        self.update_path(update).unlink(missing_ok=True)

    def update(self, site: str, number: int) -> Update | None:
        """Returns what was received from a site in a round, closed rounds included."""
        row = self._one("SELECT site, round, num_examples, sha256 FROM updates WHERE round = ? AND site = ?", number, site)
        return None if row is None else Update(*row)

    def _updates(self) -> list[Update]:
        return [
            Update(*row) for row in self._all("SELECT site, round, num_examples, sha256 FROM updates ORDER BY round, received_at, site")
        ]

    def participants(self) -> frozenset[str]:
        return frozenset(site for (site,) in self._all("SELECT DISTINCT site FROM updates"))

    def open_round(self, policy: Policy) -> Round | None:
        """Returns the open round as it was before a restart, or None after the last one."""
        (closed,) = self._one("SELECT MAX(number) FROM globals")
        if closed >= policy.num_rounds:
            return None
        state = Round(closed + 1)
        for site, number, examples, sha256, received_at in self._all(
            "SELECT site, round, num_examples, sha256, received_at FROM updates WHERE round = ? ORDER BY received_at, site", closed + 1
        ):
            state = accept(state, Update(site, number, examples, sha256), policy=policy, now=received_at)
        return state

    def close_round(self, closed: Round, sha256: str) -> None:
        """Records the aggregate of `closed`, whose file is in place, and clears the round's spool."""
        with self._transaction() as database:
            database.execute("INSERT INTO globals VALUES (?, ?)", (closed.number, sha256))
        for update in closed.received.values():
            self.update_path(update).unlink(missing_ok=True)

    def global_path(self, number: int) -> pathlib.Path:
        return self.folder / "global" / f"{agenda.global_name(number)}.safetensors"

    def globals(self) -> dict[int, str]:
        """Returns number to digest of every global model, 0 being the initial one."""
        return dict(self._all("SELECT number, sha256 FROM globals ORDER BY number"))

    # Scores and selection.

    def record_scores(self, model: int, site: str, scores: Mapping[str, float]) -> None:
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", (model, site, json.dumps(dict(scores))))

    def scores(self) -> dict[int, dict[str, dict[str, float]]]:
        """Returns model number to site to scores."""
        result: dict[int, dict[str, dict[str, float]]] = {}
        for model, site, scores in self._all("SELECT model, site, scores FROM scores ORDER BY model, site"):
            result.setdefault(model, {})[site] = json.loads(scores)
        return result

    def scored(self, model: int) -> frozenset[str]:
        """Returns the sites that scored a model."""
        return frozenset(site for (site,) in self._all("SELECT site FROM scores WHERE model = ?", model))

    def keep_selection(self, best: int, table: Mapping[str, Any]) -> None:
        """Makes global model `best` the best one: `best.safetensors` first, then `selection.json`, each whole or as before."""
        record = self.folder / "selection.json"
        if not record.exists() or atomic.read_json(record)["best_round"] != best:
            with atomic.replacing(self.folder / "best.safetensors") as temporary:
                shutil.copyfile(self.global_path(best), temporary)
        atomic.write_json(record, {"best_round": best, **table})

    # Cross-site evaluation.

    def model_path(self, name: str) -> pathlib.Path:
        return self.folder / "models" / f"{name}.safetensors"

    def keep_model(self, received: pathlib.Path, name: str, site: str, sha256: str) -> None:
        """Moves a whole and synced file to the published models."""
        os.replace(received, self.model_path(name))
        atomic.sync_directory(self.model_path(name).parent)
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO models VALUES (?, ?, ?)", (name, site, sha256))

    def models(self) -> dict[str, tuple[str, str]]:
        """Returns name to (site, digest) of the published models."""
        return {name: (site, sha256) for name, site, sha256 in self._all("SELECT name, site, sha256 FROM models ORDER BY name")}

    def declare(self, site: str, names: Sequence[str]) -> None:
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO declared VALUES (?, ?)", (site, json.dumps(sorted(names))))

    def declared(self) -> frozenset[str]:
        """Returns the sites that published all they will."""
        return frozenset(site for (site,) in self._all("SELECT site FROM declared"))

    def fix_models(self, names: Sequence[str], best: int) -> None:
        """Fixes which models every site evaluates, and which global model is the best one from now on."""
        self._set_value("evaluation", {"models": list(names), "best": best})

    def fixed_models(self) -> tuple[str, ...]:
        value = self._value("evaluation")
        return () if value is None else tuple(value["models"])

    def fixed_best(self) -> int:
        return self._value("evaluation")["best"]

    def keep_rows(self, site: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Records the rows of a site, in place of those it sent before, and writes `rows.jsonl` anew."""
        with self._transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO reports VALUES (?, ?)", (site, json.dumps([dict(row) for row in rows], allow_nan=False))
            )
        self.write_rows()

    def write_rows(self) -> None:
        lines = [json.dumps(row, allow_nan=False) + "\n" for rows in self.rows().values() for row in rows]
        atomic.write_text(self.folder / "rows.jsonl", "".join(lines))

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        return {site: json.loads(rows) for site, rows in self._all("SELECT site, rows FROM reports ORDER BY site")}

    def reported(self) -> frozenset[str]:
        """Returns the sites whose rows are in."""
        return frozenset(site for (site,) in self._all("SELECT site FROM reports"))

    def finish(self) -> None:
        self._set_value("finished", True)

    @property
    def finished(self) -> bool:
        return bool(self._value("finished"))

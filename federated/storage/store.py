"""The server's store: facts in SQLite, weights in safetensors files. Both survive a crash.

A file gets its final name only when it is complete and synced, and counts only once the database
names it. What a kill leaves in between is removed at the next start.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from absl import logging

from federated.errors import DifferentRun
from federated.rounds import plan as plans
from federated.rounds import sharing, tasks
from federated.rounds.rounds import Policy, Round, Update, recorded
from federated.rounds.sum_phases import Exchange
from federated.security import certificates
from federated.storage import given_models, store_folder
from federated.storage.best_models import BestModels
from federated.storage.database import FIRST_AGGREGATION, GIVEN, Records, insert_addresses
from federated.storage.store_folder import StoreFolder
from federated.storage.sum_records import SumRecords
from federated.tensors.tensor_files import TensorFile, file_manifest
from federated.tensors.weights import MASKED, TensorManifest, TensorSpec
from runkit import atomic, formats, private

FORMAT = "2"
_SUMS = "secure_aggregation"  # in the settings of a run
# With another aggregation rule, or with rules of sharing, which earlier releases would ignore; or
# with a log in several segments, the newest of which release 0.1.0 would take for the whole log.
_FORMAT_WITH_RULE = "3"
# With secure aggregation, without which earlier releases would continue the run.
_FORMAT_WITH_SUMS = "4"


class Store(StoreFolder, Records):
    """The durable state of one run: a method that changes it returns when the change is on disk.

    It has the files of `StoreFolder`, the facts of `Records`, and the changes that concern both.
    Not thread-safe: the coordinator's lock protects it.

    Raises:
      StoreInUse: if another process has the folder open.
      ValueError: if there is a link in the folder, or if a newer release wrote it.
    """

    def __init__(self, folder: str | os.PathLike):
        StoreFolder.__init__(self, folder)
        self._lock = store_folder.lock(self.folder)  # until close()
        self._best = BestModels(self.folder)
        self.sums: SumRecords | None = None  # records of a run with secure aggregation
        with contextlib.ExitStack() as opened:
            opened.callback(self._lock.close)
            Records.__init__(self, self.folder / "state.sqlite")
            opened.callback(Records.close, self)
            self.make_folders()
            self._open_sums()
            self._remove_leftovers()
            opened.pop_all()  # nothing failed, so they stay open

    def close(self) -> None:
        super().close()
        self._lock.close()

    def _before_any_change(self) -> None:
        settings = self._value("settings") or {}
        formats.refuse_newer(
            self.folder / "state.sqlite",
            settings.get("format"),
            int(_FORMAT_WITH_SUMS),
            unstated=int(FORMAT),
        )

    def _open_sums(self) -> None:
        if self.secure_aggregation:
            self.sums = SumRecords(self._transaction)

    def _remove_leftovers(self) -> None:
        known = {self.update_path(update).name for update in self._spooled()} | {
            f"{name}.safetensors" for name in self.models()
        }
        spooled = itertools.chain(
            (self.folder / "spool").iterdir(), (self.folder / "models").iterdir()
        )
        partial = (
            path
            for name in (".", "global", "rule_state", "incoming")
            for path in atomic.leftovers(self.folder / name)
        )
        numbers = self.globals()
        beyond = (
            path
            for folder in ("global", "rule_state")
            for path in (self.folder / folder).glob("round_*")
            if tasks.global_number(path.stem) not in numbers
        )
        for path in [
            *(path for path in spooled if path.name not in known),
            *partial,
            *(beyond if numbers else ()),
        ]:
            path.unlink()
        if numbers:
            self._forget_discarded(max(numbers) + 1)
        self.empty_discarded()

    # The run.

    def open_run(
        self,
        initial: str | os.PathLike,
        *,
        policy: Policy,
        local_epochs: int,
        authority: str = "",
        aggregation: str = FIRST_AGGREGATION,
        models: Mapping[str, str | os.PathLike] | None = None,
        sums: Mapping[str, Any] | None = None,
        check: Callable[[Mapping[str, Any], Sequence[TensorSpec]], None] = lambda plan, specs: None,
    ) -> None:
        """Starts a run from the initial model, or checks that the store holds this very run.

        Args:
          initial: safetensors file; its metadata key "plan" holds the plan as JSON.
          authority: fingerprint of the federation's authority; "" for none. A store belongs to one
            authority; a store of an earlier release, which has none, takes this one.
          aggregation: the aggregation rule with all its parameters.
          models: in a run without rounds, the models that every site evaluates: name -> safetensors
            file.
          sums: the fixed settings of a run with secure aggregation, as JSON values.
          check: called with the plan and the tensors of the model before anything is written;
            raises ValueError for a run that no site could accept.
        Raises:
          ValueError: if the file is not a model or has no plan, if the sharing rules do not fit its
            arrays or the run has no rounds, or as in `given_models.read`.
          DifferentRun: listing the differences from the run in the store.
        """
        with TensorFile(initial) as file:
            manifest, metadata = file_manifest(file), file.metadata
            sha256 = manifest.sha256
        if any(spec.dtype == MASKED for spec in manifest.specs):
            raise ValueError(f"{initial}: holds integers of dtype {MASKED}, which no model has")
        try:
            plan = plans.normal(json.loads(metadata["plan"]))
        except (KeyError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{initial}: its metadata has no plan in JSON ({error!r}); "
                "make the initial model with the plan of this run"
            ) from error
        check(plan, manifest.specs)
        rules = sharing.of_plan(plan)
        rules.of(spec.name for spec in manifest.specs)
        if rules and not policy.num_rounds:
            raise ValueError(
                f"{initial}: its plan has rules of sharing, {plan[sharing.PLAN_KEY]}, and "
                "num_rounds is 0: the models of an evaluation travel whole, and no site has arrays "
                "of its own; make the initial model, and start the sites, without these rules"
            )
        first = aggregation == FIRST_AGGREGATION and not rules
        wanted = {
            "format": _FORMAT_WITH_SUMS if sums else FORMAT if first else _FORMAT_WITH_RULE,
            "initial model": sha256,
            "num_rounds": policy.num_rounds,
            "local_epochs": local_epochs,
            "aggregation": aggregation,
        }
        given = given_models.read(models or {}, manifest.specs, num_rounds=policy.num_rounds)
        digests = {name: each.sha256 for name, each in given.items()}
        if digests:
            wanted["models"] = digests
        if sums:
            wanted[_SUMS] = dict(sums)
        if self._one("SELECT value FROM run WHERE key = 'id'") is None:
            with atomic.replacing(self.global_path(0)) as temporary:
                shutil.copyfile(initial, temporary)
            for name, path in (models or {}).items():
                with atomic.replacing(self.model_path(name)) as temporary:
                    shutil.copyfile(path, temporary)
            with self._transaction() as database:
                database.execute("INSERT INTO globals VALUES (0, ?)", (sha256,))
                insert_addresses(database, manifest)
                for name, each in given.items():
                    database.execute(
                        "INSERT INTO models VALUES (?, ?, ?)", (name, GIVEN, each.sha256)
                    )
                    insert_addresses(database, each)
                for key, value in (
                    ("id", secrets.token_hex(8)),
                    ("plan", plan),
                    ("settings", wanted),
                    ("authority", authority),
                    *([("evaluation", {"models": list(given), "best": 0})] if given else []),
                ):
                    database.execute("INSERT INTO run VALUES (?, ?)", (key, json.dumps(value)))
            self._open_sums()
            return
        known = self._value("authority")
        if known and authority and known != authority:
            raise DifferentRun(
                f"{self.folder} belongs to the federation whose authority is "
                f"{certificates.spoken(known)}; the authority of this kit is "
                f"{certificates.spoken(authority)}. "
                "Start with the kit of that federation, or give a new folder"
            )
        stored = {"aggregation": FIRST_AGGREGATION, **self._value("settings")}
        if stored["format"] in (FORMAT, _FORMAT_WITH_RULE, _FORMAT_WITH_SUMS):
            del wanted["format"]  # it follows from rule and plan, which are themselves compared
        # Given models are compared by name. The initial model is merely the one of them that holds
        # the plan, and is another one if the list has another order.
        by_name = ("models", "initial model") if digests and "models" in stored else ("models",)
        lines = [
            f"{key}: the store has {stored.get(key)}, asked for is {value}"
            for key, value in wanted.items()
            if stored.get(key) != value and key not in by_name
        ]
        if stored.get(_SUMS) and not sums:
            lines.append(f"{_SUMS}: the store has {stored[_SUMS]}, asked for is none")
        lines += given_models.differences(stored.get("models", {}), digests)
        lines += plans.differences(self.plan, plan, words=("the store has", "asked for is"))
        if lines:
            raise DifferentRun(
                f"{self.folder} holds another run: {'; '.join(lines)}; "
                "start with the same settings, or give a new folder"
            )
        if authority and not known:
            self._set_value("authority", authority)

    def outgrow_first_format(self) -> None:
        """Makes release 0.1.0 refuse this store, because its log has more than one segment."""
        settings = self._value("settings")
        if settings["format"] == FORMAT:
            self._set_value("settings", {**settings, "format": _FORMAT_WITH_RULE})

    @property
    def secure_aggregation(self) -> Mapping[str, Any] | None:
        """The fixed settings of a run with secure aggregation; None without it."""
        return (self._value("settings") or {}).get(_SUMS)

    # Rounds.

    def keep_update(
        self,
        received: pathlib.Path,
        update: Update,
        metrics: Mapping[str, float],
        *,
        now: float,
        counts_in: int | None = None,
        change: float = 0.0,
    ) -> pathlib.Path:
        """Moves a complete and synced file into the spool and records it. Returns its new path.

        It replaces the update that the site sent before for that round.

        Args:
          counts_in: the round in which it counts; by default the one for which it was trained.
          change: norm of its change of the global model.
        """
        counts_in = update.round if counts_in is None else counts_in
        path = self.update_path(update)
        os.replace(received, path)
        atomic.sync_directory(path.parent)
        with self._transaction() as database:
            replaced = database.execute(
                "SELECT site, round, num_examples, sha256 FROM updates "
                "WHERE counts_in = ? AND site = ?",
                (counts_in, update.site),
            ).fetchone()
            database.execute(
                "INSERT OR REPLACE INTO updates VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    update.round,
                    update.site,
                    update.num_examples,
                    update.sha256,
                    json.dumps(dict(metrics)),
                    now,
                    counts_in,
                    change,
                ),
            )
        if replaced is not None and (before := self.update_path(Update(*replaced))) != path:
            before.unlink(missing_ok=True)
        return path

    def forget_update(self, update: Update) -> None:
        """Removes an update of the open round, as if it had never arrived."""
        with self._transaction() as database:
            database.execute(
                "DELETE FROM updates WHERE site = ? AND sha256 = ? "
                "AND counts_in > (SELECT MAX(number) FROM globals)",
                (update.site, update.sha256),
            )
        self.update_path(update).unlink(missing_ok=True)

    def _spooled(self) -> list[Update]:
        rows = self._all(
            "SELECT site, round, num_examples, sha256 FROM updates "
            "WHERE counts_in > (SELECT COALESCE(MAX(number), 0) FROM globals)"
        )
        return [Update(*row) for row in rows]

    def restart_exchange(self, opened: Round, state: Exchange) -> None:
        """Begins the next exchange of the open round, without the updates of the previous one."""
        if self.sums is None:
            raise ValueError("the run has no secure aggregation; begin another run with it")
        self.sums.restart(opened.number, state)
        for path in map(self.update_path, opened.received.values()):
            path.unlink(missing_ok=True)

    def num_rounds(self, policy: Policy) -> int:
        """Returns the number of rounds: the policy's, unless the run was told to end early."""
        return (
            policy.num_rounds
            if self.last_round is None
            else min(policy.num_rounds, self.last_round)
        )

    def open_round(self, policy: Policy, *, now: float) -> Round | None:
        """Returns the open round as it was before a restart, or None after the last one.

        No time in it is later than `now`: the machine's clock may have been set back since.
        """
        closed = max(self.globals())
        if closed >= self.num_rounds(policy):
            return None
        attempt = self.attempt(closed + 1)
        if attempt is None:
            attempt = (1, now)
            if policy.round_deadline_s is not None:  # otherwise the opening has no effect
                self.keep_attempt(closed + 1, *attempt)
        state = Round(
            closed + 1,
            attempt=attempt[0],
            opened_at=min(attempt[1], now),
            counted_before=self.counted(closed),
        )
        for site, number, examples, sha256, received_at in self._all(
            "SELECT site, round, num_examples, sha256, received_at FROM updates "
            "WHERE counts_in = ? ORDER BY received_at, site",
            closed + 1,
        ):
            state = recorded(
                state,
                Update(site, number, examples, sha256),
                policy=policy,
                now=min(received_at, now),
            )
        return state

    def close_round(
        self,
        closed: Round,
        manifest: TensorManifest,
        *,
        rule_state: TensorManifest | None = None,
        keep_updates: int = 0,
        keep_globals: int = 0,
    ) -> None:
        """Records the global model that a round made, and removes what is no longer needed.

        Args:
          closed: the round.
          manifest: manifest of the global model, whose file is in place.
          rule_state: manifest of the aggregation rule's state, whose file is in place too.
          keep_updates: number of newest rounds whose updates are kept, in `kept`.
          keep_globals: number of newest global models that are kept; 0 for all. The initial and the
            best ones are always kept.
        """
        with self._transaction() as database:
            database.execute("INSERT INTO globals VALUES (?, ?)", (closed.number, manifest.sha256))
            insert_addresses(database, manifest)
            if rule_state is not None:
                database.execute(
                    "INSERT INTO rule_states VALUES (?, ?)", (closed.number, rule_state.sha256)
                )
        for path in map(self.update_path, closed.received.values()):
            if keep_updates:
                kept = self.kept_folder(closed.number) / path.name
                private.make(kept.parent)
                os.replace(path, kept)
            else:
                self._discard(path)
        if self.sums is not None:
            self.sums.forget(closed=closed.number)
        self._prune(closed.number, keep_updates, keep_globals)

    def _prune(self, last: int, keep_updates: int, keep_globals: int) -> None:
        for folder in (self.folder / "kept").glob("round_*"):
            if (tasks.global_number(folder.name) or 0) <= last - keep_updates:
                self._discard(folder)
        if keep_globals:
            needed = {0, *self._best.rounds(), *range(last - keep_globals + 1, last + 1)}
            for number in self.held_globals() - needed:
                self._discard(self.rule_state_path(number))
                self._discard(self.global_path(number))

    def prune(self, *, keep_updates: int = 0, keep_globals: int = 0) -> None:
        """Removes what `close_round` would have removed if a kill or error had not prevented it."""
        # A run that was ended without its open round leaves updates that will never count.
        spooled = [] if self.finished else self._spooled()
        known = {self.update_path(update).name for update in spooled}
        for path in (self.folder / "spool").iterdir():
            if path.name not in known:
                self._discard(path)
        if self.sums is not None:
            self.sums.forget(closed=max(self.globals()))
        self._prune(max(self.globals()), keep_updates, keep_globals)

    # Selection and cross-site evaluation.

    def keep_selection(self, best: int, worst_site: int, table: Mapping[str, Any]) -> None:
        """Stores the best global models; see `BestModels.keep`. Called again at every start."""
        self._best.keep(best, worst_site, table, path_of=self.global_path)

    def best_round(self) -> int | None:
        return self._best.best_round()

    def keep_model(
        self, received: pathlib.Path, name: str, site: str, manifest: TensorManifest
    ) -> None:
        """Moves a complete and synced file to the published models."""
        os.replace(received, self.model_path(name))
        atomic.sync_directory(self.model_path(name).parent)
        with self._transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO models VALUES (?, ?, ?)", (name, site, manifest.sha256)
            )
            insert_addresses(database, manifest)

    def drop_models(self, site: str) -> list[str]:
        """Removes a site's published models, from the evaluation too; returns their names."""
        names = [name for name, (owner, _) in self.models().items() if owner == site]
        fixed = self._value("evaluation")
        # One transaction for all: a model that is evaluated must exist.
        with self._transaction() as database:
            database.execute("DELETE FROM models WHERE site = ?", (site,))
            database.execute("DELETE FROM declared WHERE site = ?", (site,))
            if fixed is not None:
                left = {
                    **fixed,
                    "models": [name for name in fixed["models"] if name not in names],
                    "withdrawn": sorted({*fixed.get("withdrawn", ()), *names}),
                }
                database.execute(
                    "INSERT OR REPLACE INTO run VALUES ('evaluation', ?)", (json.dumps(left),)
                )
        for name in names:
            self._discard(self.model_path(name))
        return names

    def keep_rows(self, site: str, lines: Sequence[str]) -> None:
        """Records the rows of a site, replacing earlier ones, and rewrites `rows.jsonl`.

        Args:
          lines: the rows, each in JSON.
        """
        with self._transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO reports VALUES (?, ?)", (site, f"[{', '.join(lines)}]")
            )
        self.write_rows()

    def row_lines(self, site: str) -> list[str]:
        """Returns a site's lines of `rows.jsonl`: its rows for the models of the evaluation."""
        models = frozenset(self.fixed_models())
        return [
            json.dumps(row, allow_nan=False)
            for row in self.rows(site).get(site, [])
            if row["model"] in models
        ]

    def row_digests(self) -> dict[str, tuple[int, str]]:
        """Returns {site: (number of its rows, SHA-256 of its lines of `rows.jsonl`)}.

        Evicted sites are left out.
        """
        found = {
            site: self.row_lines(site)
            for site in sorted(self.reported())
            if not self.sites()[site].evicted
        }
        return {site: (len(lines), rows_digest(lines)) for site, lines in found.items()}

    def write_rows(self) -> None:
        """Writes `rows.jsonl`: the rows of every site that is not evicted."""
        sites = [site for site in sorted(self.reported()) if not self.sites()[site].evicted]
        with (
            atomic.replacing(self.folder / "rows.jsonl") as temporary,
            open(temporary, "w", encoding="utf-8") as stream,
        ):
            for site in sites:  # one by one, to keep memory low
                stream.writelines(line + "\n" for line in self.row_lines(site))

    # Discarding rounds.

    def discard_rounds(self, first: int) -> None:
        """Returns the run to global model `first - 1`, and removes everything after it."""
        times = self.discarded + 1
        paths = [self.update_path(update) for update in self._spooled()]
        paths += [self.global_path(number) for number in self.globals() if number >= first]
        paths += [self.rule_state_path(number) for number in self.rule_states() if number >= first]
        with self._transaction() as database:
            database.execute("DELETE FROM globals WHERE number >= ?", (first,))
            database.execute("DELETE FROM rule_states WHERE number >= ?", (first,))
            database.execute("DELETE FROM updates WHERE counts_in >= ?", (first,))
            database.execute("DELETE FROM attempts WHERE round >= ?", (first,))
            if self.sums is not None:
                self.sums.discard(database)
            database.execute("DELETE FROM scores WHERE model >= ?", (first,))
            database.execute("DELETE FROM declared")
            # Only evicted sites can have rows: those of others would have prevented the order.
            database.execute("DELETE FROM reports")
            database.execute("UPDATE sites SET confirmed = 0")
            database.execute("DELETE FROM run WHERE key = 'evaluation'")
            database.execute(
                "INSERT OR REPLACE INTO run VALUES ('discarded', ?)", (json.dumps(times),)
            )
        try:
            self._forget_discarded(first)
            for path in paths:
                self._discard(path)
        except OSError as error:
            # The database decides what counts; the next start removes the remaining files.
            logging.warning("event=discarded_files_left reason=%s", error.strerror)

    def _forget_discarded(self, first: int) -> None:
        """Removes a selection of round `first` or later, and the kept updates of such rounds."""
        self._best.forget(first)
        for folder in (self.folder / "kept").glob("round_*"):
            if (tasks.global_number(folder.name) or 0) >= first:
                self._discard(folder)


def rows_digest(lines: Iterable[str]) -> str:
    """Returns the SHA-256 of rows as lines of `rows.jsonl`."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8") + b"\n")
    return digest.hexdigest()

"""Known classes of faults, planted into the product one at a time to see that stories find each.

Each is a patch that this harness applies while it plays; the product has no switch for any of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from federated import errors
from federated.aggregation import fedavg, fedavgm, spooled_updates
from federated.audit import backfill
from federated.audit.log import AuditLog
from federated.rounds import rounds, tasks
from federated.server.coordinator import Coordinator
from federated.server.orders import Orders
from federated.server.run_state import RunState
from federated.server.uploads import Uploads
from federated.site.journal import Journal
from federated.site.retries import Persistent
from federated.storage import best_models
from federated.storage.database import Records
from federated.storage.store import Store
from federated.tensors.partial_file import PartialModel
from federated.wire.messages import Receipt
from runkit.events import EventLog

Patch = tuple[Any, str, Callable[[Any], Any]]


def _lost_receipt(original: Any) -> Any:
    """The receipt goes out, and the row is never written."""

    def keep_update(self: Store, received: pathlib.Path, update: rounds.Update, *_: Any, **__: Any):
        os.replace(received, self.update_path(update))
        return self.update_path(update)

    return keep_update


def _early_receipt(original: Any) -> Any:
    """An update whose storing failed is confirmed all the same."""

    def send(self: Uploads, site: str, offer: Any, chunks: Any, verify: Any = lambda: None) -> Any:
        try:
            return original(self, site, offer, chunks, verify)
        except errors.StorageTrouble:
            return Receipt(site, f"round_{offer.round:03d}", offer.sha256)

    return send


def _double_count(original: Any) -> Any:
    """A late update counts in the next round even if it was counted."""

    def check(state: rounds.Round, update: rounds.Update, *, policy: rounds.Policy) -> None:
        original(dataclasses.replace(state, counted_before=frozenset()), update, policy=policy)

    return check


def _there_is_nothing(original: Any) -> Any:
    """A retry is taken for something new."""
    return lambda self, checked: False


def _wrong_round(original: Any) -> Any:
    """Updates of any round count in the open one."""
    return lambda state, update, *, policy: None


def _token_for_ever(original: Any) -> Any:
    """An evicted site's token still works."""

    def evict(self: Records, site: str, evicted: bool, *, update_counts: bool = False) -> None:
        with self._transaction() as held:
            held.execute("UPDATE sites SET evicted = ? WHERE name = ?", (int(evicted), site))

    return evict


def _never_logs_in_again(original: Any) -> Any:
    """A site with an expired token asks on with it."""

    def trying(self: Persistent, name: str, call: Any, *, may_log_in: bool = True) -> Any:
        return original(self, name, call, may_log_in=False)

    return trying


def _equal_weights(original: Any) -> Any:
    """Every site counts the same."""

    def weighted_mean(arrays: Any, num_examples: Any) -> Any:
        return original(arrays, [1] * len(num_examples))

    return weighted_mean


def _forgets_state(original: Any) -> Any:
    """The aggregation rule begins anew in each round."""

    def aggregate_spooled(*given: Any, **named: Any) -> Any:
        return original(*given, **{**named, "state": None})

    return aggregate_spooled


def _leaves_partial_files(original: Any) -> Any:
    return lambda self: None


def _keeps_all_updates(original: Any) -> Any:
    """The updates of closed rounds stay on the server's disk."""

    def prune(self: Store, last: int, keep_updates: int, keep_globals: int) -> None:
        original(self, last, 1_000, keep_globals)

    return prune


def _leaks_descriptors(original: Any) -> Any:
    """A model that was described stays open."""

    def open_model(self: Coordinator, name: str, sha256: str | None = None) -> Any:
        path, _ = self._locate(name)
        os.open(path, os.O_RDONLY)
        return original(self, name, sha256)

    return open_model


def _holds_transfers(original: Any) -> Any:
    """A transfer that was cut is never given back."""

    def begin(self: Uploads, checked: Any) -> Any:
        transfer = original(self, checked)
        transfer.holders += 1
        return transfer

    return begin


def _half_an_update(original: Any) -> Any:
    """An upload that was cut counts as whole."""

    def finish(self: PartialModel) -> None:
        os.ftruncate(self._file, self._start + self.manifest.nbytes)

    return finish


def _trusts_the_disk(original: Any) -> Any:
    """Nobody looks whether a spooled update is still what was received."""
    return lambda self: None


def _no_backfill(original: Any) -> Any:
    return lambda log, store: None


def _never_notices_silence(original: Any) -> Any:
    """The server says that all is well."""
    return lambda self: ""


def _stays_closed(original: Any) -> Any:
    """After trouble while a round is closed, it is never opened again."""

    def advance(self: Coordinator) -> float | None:
        if self._run.stale:
            return 60.0
        return original(self)

    return advance


def _loses_rows(original: Any) -> Any:
    def keep_rows(self: Store, site: str, lines: Any) -> None:
        self._rows_kept = getattr(self, "_rows_kept", set()) | {site}
        self.write_rows()

    return keep_rows


def _forgets_scores(original: Any) -> Any:
    """Another site's scores of a model take the place of the first one's."""

    def record_scores(self: Records, model: int, site: str, scores: Any) -> None:
        with self._transaction() as held:
            held.execute("DELETE FROM scores WHERE model = ?", (model,))
        original(self, model, site, scores)

    return record_scores


def _asks_again(original: Any) -> Any:
    """A site whose update has arrived is asked to train the round again."""

    def next_task(progress: tasks.Progress, site: str) -> tasks.Task:
        if progress.open_round is not None:
            opened = dataclasses.replace(progress.open_round, received={})
            progress = dataclasses.replace(progress, open_round=opened)
        return original(progress, site)

    return next_task


def _counts_evicted(original: Any) -> Any:
    """An evicted site's update of the open round stays in memory, and so in the average."""

    def reopen(self: RunState) -> None:
        before = getattr(self, "round", None)
        original(self)
        now = self.round
        if before is not None and now is not None and before.number == now.number:
            received = {**before.received, **now.received}
            self.round = dataclasses.replace(now, received=received)

    return reopen


def _believes_the_record(original: Any) -> Any:
    """The best model is what `selection.json` says, whatever the file holds."""
    return lambda path, number: True


def _stops_at_the_first_error(original: Any) -> Any:
    """A line of the log counts as soon as its bytes are in the file, synced or not."""
    return EventLog.read


FAULTS: dict[str, tuple[Patch, ...]] = {
    "lost_receipt": ((Store, "keep_update", _lost_receipt),),
    "early_receipt": ((Uploads, "send", _early_receipt),),
    "double_count": ((rounds, "check", _double_count), (Uploads, "_is_there", _there_is_nothing)),
    "wrong_round": ((rounds, "check", _wrong_round),),
    "stale_token": ((Records, "evict", _token_for_ever),),
    "never_logs_in_again": ((Persistent, "_trying", _never_logs_in_again),),
    "equal_weights": (
        (fedavg, "weighted_mean", _equal_weights),
        (fedavgm, "weighted_mean", _equal_weights),
    ),
    "forgets_state": ((spooled_updates, "aggregate_spooled", _forgets_state),),
    "leaked_partial_files": ((Journal, "remove_leftovers", _leaves_partial_files),),
    "leaked_updates": ((Store, "_prune", _keeps_all_updates),),
    "leaked_descriptors": ((Coordinator, "open_model", _leaks_descriptors),),
    "leaked_transfers": ((Uploads, "_begin", _holds_transfers),),
    "half_an_update": ((PartialModel, "finish", _half_an_update),),
    "trusts_the_disk": ((spooled_updates._SpooledUpdate, "check", _trusts_the_disk),),
    "no_backfill": ((backfill, "complete", _no_backfill),),
    "silent_hindrance": ((Orders, "hindrance", _never_notices_silence),),
    "stays_closed": ((Coordinator, "advance", _stays_closed),),
    "lost_rows": ((Store, "keep_rows", _loses_rows),),
    "lost_scores": ((Records, "record_scores", _forgets_scores),),
    "asks_again": ((tasks, "next_task", _asks_again),),
    "counts_evicted": ((RunState, "reopen", _counts_evicted),),
    "believes_the_record": ((best_models, "_is_of_round", _believes_the_record),),
    "unsynced_line": ((AuditLog, "read", _stops_at_the_first_error),),
}


@contextlib.contextmanager
def planted(name: str) -> Iterator[None]:
    """Plants a fault for the time of the block."""
    with contextlib.ExitStack() as stack:
        for place, attribute, make in FAULTS[name]:
            original = getattr(place, attribute)
            setattr(place, attribute, make(original))
            stack.callback(setattr, place, attribute, original)
        yield

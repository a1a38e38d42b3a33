"""A site's tasks in a run with secure aggregation: from a trained update to its place in a sum."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from absl import logging

from federated import errors
from federated.rounds.tasks import Task, global_name
from federated.site.evaluation import SiteReports
from federated.site.journal import Journal, PendingUpdate
from federated.site.retries import Persistent
from federated.site.sums import masking, opened_sums
from federated.site.sums.masking import Masking, Plain
from federated.site.sums.sum_terms import SumTerms
from federated.site.transport import Transport
from federated.tensors.weights import TensorSpec
from federated.wire.messages import Session, SumPlace
from runkit import atomic, printable, release


class _Note(Protocol):
    def __call__(self, event: str, **fields: object) -> None: ...


def masking_of(
    session: Session, transport: Transport, journal: Journal, terms: SumTerms
) -> Masking | None:
    """Returns what masks this site's updates; None in a run without secure aggregation.

    Raises:
      PrivacyRefused: if the terms require it.
      PolicyRefused: as `Masking`.
      ServerMisbehaves: if the run had it before, or has it with settings that are not safe.
    """
    if session.sums is not None:
        if session.sums.threshold < terms.min_sum_sites:
            logging.warning(
                "event=sums_may_wait: the server opens sums of %d sites, this site takes part in "
                "sums of %d or more, so a round in which fewer are left waits for the others. "
                "--secure_aggregation_threshold=%d at the server makes this the rule for all",
                session.sums.threshold,
                terms.min_sum_sites,
                terms.min_sum_sites,
            )
        found = Masking(journal.folder, session.run, session.sums, transport.signer, terms=terms)
        if not (journal.folder / opened_sums.NAME).exists():
            atomic.write_bytes(journal.folder / opened_sums.NAME, b"")
        journal.keep_record(masking.NAME)
        journal.keep_record(opened_sums.NAME)
        return found
    if terms.require_secure_aggregation:
        raise errors.PrivacyRefused(
            "this site sends masked updates only (--require_secure_aggregation), and the server "
            "runs without secure aggregation, or is of a release before it (release "
            f"{release.version()} is installed here); ask its operator to start it with "
            "--secure_aggregation, or omit the flag here"
        )
    if Masking.began(journal.folder, session.run):
        raise errors.ServerMisbehaves.because(
            "runs without secure aggregation, with which this run began"
        )
    return None


class SumPart:
    """The steps that the loop takes instead of sending its update.

    Args:
      masking: the site's masks.
      server: the calls, which are retried.
      journal: contains the update.
      specs: tensors of the global model; shared: names of the tensors in updates.
      reports: checks and rounds what is sent beside an update.
      note: writes an event.
    """

    def __init__(
        self,
        masking: Masking,
        server: Persistent,
        journal: Journal,
        specs: Sequence[TensorSpec],
        shared: Collection[str],
        reports: SiteReports,
        note: _Note,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._masking, self._server, self._journal = masking, server, journal
        self._specs, self._shared, self._reports = specs, shared, reports
        self._note, self._clock = note, clock

    def note_model(self, task: Task, sha256: str) -> None:
        """Records the model from which a round is about to be trained; raises as `Masking` does."""
        self._masking.note_model(task, sha256)

    def knows_model(self, task: Task) -> bool:
        """Returns whether it is recorded from which model a round was trained."""
        return self._masking.model_of(task) != ""

    def send_keys(self, task: Task, pending: PendingUpdate) -> None:
        """Enters an exchange with a trained update. Raises as `Masking.keys` does."""
        self._server.post_sum(self._masking.keys(task, self._plain(task, pending)))
        self._note("sum", phase="keys", round=task.round, exchange=task.exchange)

    def take_part(self, task: Task) -> bool:
        """Does this site's part in a later phase; returns whether its masked update was sent.

        Raises:
          StaleUpdate: if the site sits this exchange out.
          ServerMisbehaves, PolicyRefused: as `Masking.part` and `Masking.mask`.
        """
        try:
            return self._take_part(task)
        except errors.StaleUpdate as error:
            logging.warning(
                "event=sum_sat_out round=%d exchange=%d phase=%s reason=%s",
                task.round,
                task.exchange,
                task.kind,
                printable.text(error, limit=1000),
            )
            self._journal.check_update()  # one that the disk corrupted is trained again
            raise

    def _take_part(self, task: Task) -> bool:
        place = SumPlace(task.discarded, task.round, task.exchange)
        pending = self._journal.update
        if pending is None or pending.round != task.round:
            raise errors.StaleUpdate(
                f"this site has no update of round {task.round}; waiting for the next exchange"
            )
        state = self._server.ask_sum(task.kind, place)
        if task.kind == "mask":
            sha256 = self._masking.mask(task, state, self._plain(task, pending))
            self._push(pending, sha256)
        else:
            self._server.post_sum(self._masking.part(task, state))
        about = {"survivors": state.survivors} if state.survivors else {}
        if task.kind == "mask" and self._masking.unreadable:
            about["unreadable"] = self._masking.unreadable
        self._note("sum", phase=task.kind, round=task.round, exchange=task.exchange, **about)
        return task.kind == "mask"

    def finish(self) -> None:
        """Deletes the secrets of the last exchange."""
        self._masking.finish()

    def _plain(self, task: Task, pending: PendingUpdate) -> Plain:
        """Returns the update of a round with the model from which it was trained.

        Raises:
          StaleUpdate: if that model is not recorded.
          ServerMisbehaves: if the server now has another one.
        """
        trained_from = self._masking.model_of(task)
        if not trained_from:
            raise errors.StaleUpdate(
                f"this site has trained no update of round {task.round} since the run was taken "
                "back; waiting for the next exchange"
            )
        path = self._journal.incoming_path  # still the model, unless a kill or a discard intervened
        manifest = self._server.pull(global_name(task.round - 1), path, specs=self._specs)
        if manifest.sha256 != trained_from:
            # If this site signed the digest of the new one, the other sites would not notice that
            # it trained from another model than they did.
            raise errors.ServerMisbehaves.because(
                f"has another global model {task.round - 1} now than the one that this site "
                "trained from"
            )
        return Plain(
            self._journal.update_path,
            pending.sha256,
            path,
            manifest.sha256,
            pending.num_examples,
            self._shared,
        )

    def _push(self, pending: PendingUpdate, sha256: str) -> None:
        began, path = self._clock(), self._masking.masked_path
        self._server.push(
            path,
            sha256,
            round_number=pending.round,
            num_examples=pending.num_examples,
            metrics=self._reports.metrics(pending.metrics, pending.round),
            discarded=self._journal.discarded,
        )
        self._note(
            "pushed",
            round=pending.round,
            masked=True,
            bytes=path.stat().st_size,
            seconds=round(self._clock() - began, 3),
        )

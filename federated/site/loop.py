"""A site's part in a run: one task after the other, each as the server says.

What the tasks do is in `local_training` (rounds), `evaluation` (scores, lent models, rows) and
`received_models` (downloads). The loop works over any transport, and may be killed and restarted at
any moment. The server decides what comes next (`rounds.tasks`), so the loop has no schedule. It
keeps a journal and the update that has not been sent yet; optimiser, scans and pictures belong to
the trainer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from absl import logging

from federated import errors
from federated.privacy.policy import PrivacyPolicy
from federated.rounds import sharing
from federated.rounds.tasks import SUM_KINDS, Task, check_task
from federated.site.answers import AnswerLimits
from federated.site.evaluation import SiteEvaluation, SiteReports
from federated.site.journal import Journal
from federated.site.local_training import LocalTraining
from federated.site.private_arrays import PrivateArrays
from federated.site.received_models import ReceivedModels
from federated.site.retries import Persistent
from federated.site.sums.masking import Masking
from federated.site.sums.sum_part import SumPart, masking_of
from federated.site.sums.sum_terms import SumTerms
from federated.site.trainer import SiteTrainer, check_trainer, lent
from federated.site.transport import Transport
from federated.tensors.weights import NamedArrays, canonical
from federated.wire.messages import Session
from runkit import backoff, folder_lock, periodic, printable, private
from runkit.events import EventLog

# A server holds the call while there is nothing to do. If "wait" comes back sooner than this, the
# site waits for the rest itself, or it would ask without a pause.
_SHORTEST_WAIT_S = 1.0


@dataclasses.dataclass(frozen=True)
class SiteSummary:
    """How the loop ended."""

    site: str
    finished: bool  # False if it was stopped first; the same command resumes
    rounds: int  # updates confirmed by this process
    models_evaluated: int
    remark: str = ""  # what people should know, e.g. that the run ended without this site
    privacy: str = ""  # what the updates of the run spent, where the site has a policy
    answers: str = ""  # for how many models this site has answered, and its bounds


class SiteTerminated(BaseException):
    """SIGTERM, raised in the main thread. Not an Exception, so nothing takes it for a failure."""


def run(
    trainer: SiteTrainer,
    transport: Transport,
    journal_folder: str | os.PathLike,
    *,
    authority: str = "",
    privacy: PrivacyPolicy | None = None,
    terms: SumTerms = SumTerms(),  # noqa: B008 - a frozen value
    limits: AnswerLimits = AnswerLimits(),  # noqa: B008 - a frozen value
    events: EventLog | None = None,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], object] = time.sleep,
    pauses: Callable[[], Iterator[float]] = backoff.pauses,
) -> SiteSummary:
    """Takes part in a run until it is finished, or until SIGTERM or SIGINT.

    Started again with the same journal folder, it resumes: nothing is scored, trained, published or
    evaluated twice, and an update that was not confirmed is sent again. While the server is down,
    it waits, for hours if necessary.

    Args:
      trainer: the site's training and evaluation.
      transport: the connection to the server; closed at the end.
      journal_folder: where this site keeps its journal of this run.
      authority: fingerprint of the authority that the site trusts, "" for none. A journal belongs
        to one authority.
      privacy: what happens to updates before they leave. Its ledger is in the journal's
        folder `privacy`. With a policy the site lends no models, which would leave unfiltered.
      terms: what the site demands of secure aggregation.
      limits: how many models the site scores and trains from in this run, and with how many digits.
      events: by default `<journal_folder>/events.jsonl`.
      clock: seconds, for durations.
      pause, pauses: how, and for how long, to wait before a call is tried again.
    Raises:
      WrongCredential, CertificateRefused, PlanDiffers, FederationFull, VersionDiffers,
      DifferentRun: the site cannot take part.
      PrivacyRefused: where the terms require masks, from a server without secure aggregation, or
        for models that would be lent as they are.
      AnswersUsedUp: the server asks for more updates or scores than `limits` allows.
      UpdateRefused, IncompatibleWeights, ModelRefused, PrivacyRefused: what the trainer made may
        not leave the site, or cannot be used.
      ValueError: for a number of training cases that is not an int, a plan that JSON cannot hold, a
        method of the trainer that returns something else than `SiteTrainer` says, rules of sharing
        in the plan that do not fit the trainer's arrays, or private arrays that are no longer in
        the journal folder.
      PolicyRefused: the privacy policy cannot hold or is weaker than before in this run, or its
        budget is spent; or a file that counts what this site has answered or helped to open is
        missing; or the run cannot keep the terms for sums, they are weaker than before in
        this run, or the server asks for more sums of one round than they allow.
      FolderInUse: another process is using the journal.
      ServerMisbehaves: the server sent something that no server of this product sends. An update
        that was not confirmed is kept.
    """
    check_trainer(trainer)
    held = folder_lock.hold(private.folder(journal_folder))
    try:
        journal = Journal(journal_folder)
        journal.remove_leftovers()
    except BaseException:
        held.close()
        raise
    log = events or EventLog(pathlib.Path(journal_folder) / "events.jsonl")
    loop = _Loop(
        trainer,
        transport,
        journal,
        log,
        clock,
        pause,
        pauses,
        authority,
        terms,
        limits,
    )
    try:
        journal.check_authority(authority)
        journal.check_records()
        loop.training.prepare_privacy(privacy)
        with _terminating():
            loop.run()
    except (KeyboardInterrupt, SiteTerminated) as reason:
        loop.note("stopped", reason=type(reason).__name__)
        return loop.summary(finished=False)
    except Exception as error:
        loop.note("failed", error=type(error).__name__)
        raise
    finally:
        transport.close()
        journal.wait_until_durable()
        held.close()
    return loop.summary(finished=True)


class _Loop:
    def __init__(
        self,
        trainer: SiteTrainer,
        transport: Transport,
        journal: Journal,
        events: EventLog,
        clock: Callable[[], float],
        pause: Callable[[float], object],
        pauses: Callable[[], Iterator[float]],
        authority: str,
        terms: SumTerms = SumTerms(),  # noqa: B008 - a frozen value
        limits: AnswerLimits = AnswerLimits(),  # noqa: B008 - a frozen value
    ):
        self._authority, self.remark = authority, ""
        self._terms = terms
        self._trainer, self._transport = trainer, transport
        self._journal, self._events = journal, events
        self._clock, self._pause, self._pauses = clock, pause, pauses
        self._specs = canonical(trainer.specs)
        rules = sharing.of_plan(trainer.plan)
        names = [spec.name for spec in self._specs]
        self._private = PrivateArrays(journal, rules.of(names), self._specs)
        self._server = server = Persistent(
            transport,
            trainer.plan,
            trainer.num_examples,
            labels=getattr(trainer, "labels", None),
            pauses=pauses,
            pause=pause,
            on_retry=lambda error: self.note("retry", error=type(error).__name__),
            # The server may be leading another run by now, for which this journal is not.
            on_login=lambda session: journal.enter(session.run, authority),
        )
        kept, note = self._private, self.note
        self._models = models = ReceivedModels(server, journal, kept, self._specs, note, clock)
        self._reports = reports = SiteReports(transport.site, trainer, limits.report_digits)
        self.evaluation = SiteEvaluation(
            trainer, server, journal, models, kept, reports, limits, note, clock
        )
        self.training = LocalTraining(
            trainer, server, journal, models, kept, self.evaluation, reports, note, clock
        )
        self._ends_with_scores = False
        self._num_rounds, self._poll_s = 0, _SHORTEST_WAIT_S
        # kind, round and exchange of this process's tasks
        self._done: set[tuple[str, int, int]] = set()
        self._again = pauses()

    def summary(self, *, finished: bool) -> SiteSummary:
        return SiteSummary(
            self._transport.site,
            finished,
            self.training.count,
            self.evaluation.count,
            self.remark if finished else "",
            self.training.privacy,
            self.evaluation.answered,
        )

    def note(self, event: str, **fields: Any) -> None:
        self._events.append(event, site=self._transport.site, **fields)
        logging.info("event=%s site=%s %s", event, self._transport.site, printable.Fields(fields))

    def run(self) -> None:
        journal = self._journal
        session = self._login()
        if session is None:
            self.remark = (
                f"this site has done its part in run {journal.run}; the server does not answer"
            )
            journal.finish()
            Masking.forget(journal.folder)
            self.note("finished", without="server")
            return
        journal.enter(session.run, self._authority)
        self.training.transport = session.transport
        self._ends_with_scores = session.ends_with_scores
        self._num_rounds, self._poll_s = session.num_rounds, session.poll_s
        self._enter_sums(session)
        self.training.enter_privacy(session, self._transport.site)
        self.note(
            "login",
            run=session.run,
            num_rounds=session.num_rounds,
            local_epochs=session.local_epochs,
            **({} if session.sums is None else {"secure_aggregation": vars(session.sums)}),
        )
        self.evaluation.open(session.num_rounds)
        with _beating(self._transport, session.heart_beat_s):
            while (task := self._next_task()).kind != "finished":
                self._do(task)
        if not journal.reported:
            missed = (
                "scores of the last global model"
                if self._ends_with_scores
                else "evaluation, so its test cases are in no table"
            )
            self.remark = (
                f"run {journal.run} needs nothing more from this site, "
                f"and ends without its {missed}"
            )
        journal.finish()
        if self.training.sums is not None:
            self.training.sums.finish()
        self.note("finished", **({} if journal.reported else {"without": "evaluation"}))

    def _enter_sums(self, session: Session) -> None:
        masking = masking_of(session, self._transport, self._journal, self._terms)
        if masking is not None:
            self.note("sum_terms", **vars(self._terms))
            self.training.sums = SumPart(
                masking,
                self._server,
                self._journal,
                self._specs,
                self._private.sharing.shared,
                self._reports,
                self.note,
                self._clock,
            )

    def _login(self) -> Session | None:
        """Logs in; returns None if this site has done its part and the server does not answer.

        The run may have ended while the site was away. It tries to log in all the same, because the
        server may be leading another run, or may have discarded rounds.
        """
        if self._journal.finished or self._journal.reported:
            try:
                return self._transport.login(
                    self._trainer.plan,
                    self._trainer.num_examples,
                    getattr(self._trainer, "labels", None),
                )
            except errors.ServerUnreachable:
                return None
            except errors.RETRYABLE:
                pass  # the server is there
        return self._server.login()

    def _next_task(self) -> Task:
        began, waited = self._clock(), False
        while True:
            asked = self._clock()
            task = self._server.next_task()
            if task.kind != "wait":
                break
            waited = True
            early_s = min(self._poll_s, _SHORTEST_WAIT_S) - (self._clock() - asked)
            if early_s > 0:
                self._pause(early_s)
        if waited:
            self.note("waited", seconds=self._since(began))
        return task

    def _do(self, task: Task) -> None:
        """Carries out a task.

        If a task comes again, as after the loss of an update, the loop waits longer each time.
        """
        journal = self._journal
        check_task(
            task,
            trained=journal.trained,
            num_rounds=self._num_rounds,
            discarded=journal.discarded,
            evaluated=journal.evaluated,
        )
        if task.kind == "train" and task.discarded > journal.discarded:
            self.note(
                "went_back", to_round=task.round, from_round=journal.trained, times=task.discarded
            )
            journal.go_back(task.round, task.discarded)
            self._private.remove_unnoted()
            self._models.forget()
            self._done.clear()
        done = (task.kind, task.round, task.exchange)
        if done in self._done:
            self._pause(next(self._again))
        elif task.kind in ("train", "score", "publish", "evaluate", *SUM_KINDS):
            self._done.add(done)
            self._again = self._pauses()
        try:
            self._carry_out(task)
        except (errors.StaleUpdate, errors.UnknownModel) as error:
            # The run has changed meanwhile: the operator discarded rounds, or evicted the site
            # whose model was to be evaluated.
            self._models.forget()
            self.note("dropped", task=task.kind, round=task.round, error=type(error).__name__)

    def _carry_out(self, task: Task) -> None:
        if task.kind == "train":
            self.training.take_part(task)
        elif task.kind in SUM_KINDS and self.training.sums is not None:
            self.training.take_part_in_sum(task)
        elif task.kind == "score":  # the last global model
            self.evaluation.score(task.round, self._models.pull(task.model, task.round))
            if self._ends_with_scores:
                self._journal.keep_reported()
        elif task.kind == "publish":
            self.evaluation.publish(self._lent)
        elif task.kind == "evaluate":
            self.evaluation.evaluate(task.models)
        else:
            raise errors.VersionDiffers(
                f"the server asks for {printable.text(task.kind, limit=40)!r}, which this release "
                "does not know; install the server's release"
            )

    def _lent(self) -> Mapping[str, NamedArrays]:
        """Returns the models that this site lends, by name."""
        # With a policy none is lent: its weights would bypass the filter.
        models = {} if self.training.is_filtered else lent(self._trainer)
        if models and self._terms.require_secure_aggregation:
            raise errors.PrivacyRefused(
                f"this site sends masked updates only, and would lend {', '.join(models)} to "
                "the evaluation as they are; give --nolend_local, and no --lend"
            )
        return models

    def _since(self, began: float) -> float:
        return round(self._clock() - began, 3)


def _beating(transport: Transport, every_s: float) -> contextlib.AbstractContextManager[None]:
    """Tells the server regularly that the site is alive, while the block trains or evaluates."""

    def beat() -> None:
        try:
            transport.heart_beat()
        # gRPC raises ValueError for a channel that was closed.
        except (errors.FederationError, ValueError) as error:
            # Whatever is wrong, the loop meets it at its next call, and handles it there.
            logging.debug("event=heart_beat_failed reason=%s", error)

    # A beat that is being sent ends with the transport, if not before.
    return periodic.calls(beat, every_s, name="heart-beat", join_s=5.0)


@contextlib.contextmanager
def _terminating() -> Iterator[None]:
    """SIGTERM raises SiteTerminated inside the block.

    Only the main thread can have signal handlers; in any other, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: object) -> None:
        raise SiteTerminated

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

"""A site's part in a run: download, score, train, upload, and at the end evaluate.

It works over any transport, and may be killed and restarted at any moment. The server decides what
comes next (`rounds.tasks`), so the loop has no schedule. It keeps a journal and the update that has
not been sent yet; optimiser, scans and pictures belong to the trainer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from absl import logging

from federated import errors
from federated.privacy.policy import EPSILON, PrivacyPolicy
from federated.rounds import sharing
from federated.rounds.tasks import (
    LAST_GLOBAL,
    MODEL_NAME,
    SUM_KINDS,
    Task,
    check_task,
    global_name,
    is_global,
)
from federated.security import report_filter
from federated.security.vocabulary import Vocabulary
from federated.site import answers
from federated.site.answers import AnswerLimits, Answers
from federated.site.journal import Journal, PendingUpdate
from federated.site.masking import Masking
from federated.site.private_arrays import PrivateArrays
from federated.site.retries import Persistent
from federated.site.sum_part import SumPart, masking_of
from federated.site.sum_terms import SumTerms
from federated.site.transport import Transport
from federated.site.update_filter import UpdateFilter, begun, prepared
from federated.tensors import codec, tensor_files
from federated.tensors.weights import NamedArrays, TensorSpec, canonical
from federated.wire.messages import Session
from runkit import backoff, folder_lock, periodic, printable, private
from runkit.events import EventLog

# A server holds the call while there is nothing to do. If "wait" comes back sooner than this, the
# site waits for the rest itself, or it would ask without a pause.
_SHORTEST_WAIT_S = 1.0


class SiteTrainer(Protocol):
    """What the loop calls to train and evaluate.

    Optional attributes:
      labels: class -> what the site's labels show of it, a word of `declarations.WORDS`. Without
        it, or with None, the site declares nothing.
      score_every: a global model is scored if its number is a multiple of this; the last one always
        is. 1 by default.
      steps_per_round: training steps of a round, by which privacy filters divide a change that they
        bound per step. 1 by default.
    """

    @property
    def plan(self) -> dict[str, Any]:
        """Everything that must be the same at every site, as a nested dict that JSON can hold.

        The server compares it entry by entry.
        """

    @property
    def num_examples(self) -> int:
        """The number of training cases, which is the weight of the site's updates."""

    @property
    def specs(self) -> Sequence[TensorSpec]:
        """Names, shapes and dtypes of the model's tensors, as `weights.specs_of` returns them.

        A model that the server describes must have them before anything is written to disk.
        """

    @property
    def vocabulary(self) -> Vocabulary:
        """What the rows and scores may hold; anything else stays at the site."""

    def score(self, weights: NamedArrays) -> Mapping[str, float]:
        """Scores a received global model on the site's own validation cases.

        The score under `model_selection.SCORE` is the one by which global models are compared.
        """

    def train(
        self, weights: NamedArrays, round_number: int
    ) -> tuple[NamedArrays, Mapping[str, float]]:
        """Trains the local epochs of a round from `weights`; returns (weights, metrics).

        After a kill it is called again with the same arguments, even if it had returned. It then
        resumes, or trains the round again.
        """

    def local_models(self) -> Mapping[str, NamedArrays]:
        """Returns the models that this site lends to the evaluation at all sites, by name.

        For example {"C1_baseline": ..., "C1_FL_local": ...}.
        """

    def evaluate(self, model_name: str, weights: NamedArrays) -> list[dict[str, Any]]:
        """Returns one row per test case of this site; see `report_filter.checked_rows`."""


@dataclasses.dataclass(frozen=True)
class SiteSummary:
    """How the loop ended."""

    site: str
    finished: bool  # False if it was stopped first; the same command resumes
    rounds: int  # updates confirmed by this process
    models_evaluated: int
    remark: str = ""  # what people should know, e.g. that the run ended without this site
    privacy: str = ""  # what the updates of the run spent, where the site has a policy
    answers: str = ""  # how many models this site has scored in the run, and its bounds


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
      limits: how many models the site scores in this run, and with how many digits.
      events: by default `<journal_folder>/events.jsonl`.
      clock: seconds, for durations.
      pause, pauses: how, and for how long, to wait before a call is tried again.
    Raises:
      WrongCredential, CertificateRefused, PlanDiffers, FederationFull, VersionDiffers,
      DifferentRun: the site cannot take part.
      PrivacyRefused: where the terms require masks, from a server without secure aggregation, or
        for models that would be lent as they are.
      AnswersUsedUp: the server asks for the scores of more models than `limits` allows.
      UpdateRefused, IncompatibleWeights, ModelRefused, PrivacyRefused: what the trainer made may
        not leave the site, or cannot be used.
      ValueError: for rules of sharing in the plan that do not fit the trainer's arrays, or private
        arrays that are no longer in the journal folder.
      PolicyRefused: the privacy policy cannot hold or is weaker than before in this run, or its
        budget is spent; or the run cannot keep the terms for sums, they are weaker than before in
        this run, or the server asks for more sums of one round than they allow.
      FolderInUse: another process is using the journal.
      ServerMisbehaves: the server sent something that no server of this product sends. An update
        that was not confirmed is kept.
    """
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
        loop.prepare_privacy(privacy)
        with _terminating():
            loop.run()
    except (KeyboardInterrupt, SiteTerminated) as reason:
        loop.note("stopped", reason=type(reason).__name__)
        return SiteSummary(
            transport.site,
            False,
            loop.rounds,
            loop.models_evaluated,
            privacy=loop.privacy,
            answers=loop.answered,
        )
    except Exception as error:
        loop.note("failed", error=type(error).__name__)
        raise
    finally:
        transport.close()
        journal.wait_until_durable()
        held.close()
    return SiteSummary(
        transport.site,
        True,
        loop.rounds,
        loop.models_evaluated,
        loop.remark,
        loop.privacy,
        loop.answered,
    )


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
        self._sums: SumPart | None = None  # in a run with secure aggregation
        self._limits = limits
        self._answers: Answers | None = None  # from the first login on
        self._trainer, self._transport = trainer, transport
        self._journal, self._events = journal, events
        self._clock, self._pause, self._pauses = clock, pause, pauses
        self._specs, self._vocabulary = canonical(trainer.specs), trainer.vocabulary
        rules = sharing.of_plan(trainer.plan)
        names = [spec.name for spec in self._specs]
        self._private = PrivateArrays(journal, rules.of(names), self._specs)
        self._received: NamedArrays | None = None  # arrays that sites only receive
        self._filter: UpdateFilter | None = None
        self._server = Persistent(
            transport,
            trainer.plan,
            trainer.num_examples,
            labels=getattr(trainer, "labels", None),
            pauses=pauses,
            pause=pause,
            on_retry=lambda error: self.note("retry", error=type(error).__name__),
        )
        self._transport_form, self._ends_with_scores = "raw", False
        self._num_rounds, self._poll_s = 0, _SHORTEST_WAIT_S
        # kind, round and exchange of this process's tasks
        self._done: set[tuple[str, int, int]] = set()
        self._again = pauses()
        self._pulled: tuple[str, NamedArrays] | None = None
        self._pulled_sha256 = ""
        self.rounds = self.models_evaluated = 0

    def prepare_privacy(self, policy: PrivacyPolicy | None) -> None:
        """Raises PolicyRefused, before the server hears of the site, if the policy cannot hold."""
        self._filter = prepared(
            policy,
            self._journal,
            self._private.shared_specs,
            num_examples=self._trainer.num_examples,
            steps=getattr(self._trainer, "steps_per_round", 1),
        )

    @property
    def privacy(self) -> str:
        """What the updates of the run spent, "" without a policy."""
        return "" if self._filter is None else str(self._filter.spent)

    @property
    def _is_sparse(self) -> bool:
        return self._filter is not None and self._filter.policy.sparse

    def note(self, event: str, **fields: Any) -> None:
        self._events.append(event, site=self._transport.site, **fields)
        told = " ".join(f"{key}={printable.text(value)}" for key, value in fields.items())
        logging.info("event=%s site=%s %s", event, self._transport.site, told)

    @property
    def answered(self) -> str:
        return "" if self._answers is None else str(self._answers)

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
        self._transport_form, self._ends_with_scores = session.transport, session.ends_with_scores
        self._num_rounds, self._poll_s = session.num_rounds, session.poll_s
        self._enter_sums(session)
        if self._filter is not None:
            if session.sums is not None:
                self._filter.check_range(session.sums.value_range)
            about = begun(
                self._filter, journal, session.run, self._transport.site, self._num_rounds
            )
            self.note("privacy_policy", **about)
        self.note(
            "login",
            run=session.run,
            num_rounds=session.num_rounds,
            local_epochs=session.local_epochs,
            **({} if session.sums is None else {"secure_aggregation": vars(session.sums)}),
        )
        self._open_answers(session.num_rounds)
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
        if self._sums is not None:
            self._sums.finish()
        self.note("finished", **({} if journal.reported else {"without": "evaluation"}))

    def _enter_sums(self, session: Session) -> None:
        masking = masking_of(session, self._transport, self._journal, self._terms)
        if masking is not None:
            self.note("sum_terms", **vars(self._terms))
            shared = self._private.sharing.shared
            self._sums = SumPart(
                masking, self._server, self._journal, self._specs, shared, self.note, self._clock
            )

    def _open_answers(self, num_rounds: int) -> None:
        """Reads the count of answers; refuses a run that would need more of them than allowed."""
        every = getattr(self._trainer, "score_every", 1)
        limits = self._limits.for_rounds(num_rounds, every)
        journal = self._journal
        self._answers = Answers(journal.folder, limits, earlier=journal.evaluated)
        if num_rounds:
            self._answers.require_rounds(answers.usual_scores(num_rounds, every))
        if self._answers.count("scores") or self._answers.count("rows"):
            self.note("answered", so_far=str(self._answers))

    def _ask(self, kind: answers.Kind, model: str) -> None:
        """Counts the model that was downloaded last as one that this site scores."""
        assert self._answers is not None  # opened after the login
        # A site's private arrays change from round to round, and the answer with them.
        own = f"{self._journal.trained}." if self._private.sharing.kept else ""
        count = self._answers.note(kind, model, own + self._pulled_sha256)
        self.note("asked", kind=kind, model=model, count=count, limit=self._answers.bound(kind))

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
            self._pulled = None
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
            self._pulled = None
            self.note("dropped", task=task.kind, round=task.round, error=type(error).__name__)

    def _carry_out(self, task: Task) -> None:
        if task.kind == "train":
            self._train(task)
        elif task.kind in SUM_KINDS and self._sums is not None:
            self.rounds += self._sums.take_part(task)
        elif task.kind == "score":
            self._score(task.round, self._pull(task.model, task.round))  # the last global model
            if self._ends_with_scores:
                self._journal.keep_reported()
        elif task.kind == "publish":
            self._publish()
        elif task.kind == "evaluate":
            self._evaluate(task.models)
        else:
            raise errors.VersionDiffers(
                f"the server asks for {printable.text(task.kind, limit=40)!r}, which this release "
                "does not know; install the server's release"
            )

    def _train(self, task: Task) -> None:
        pending = self._journal.update
        due = (task.round, self._trainer.num_examples)
        known = self._sums is None or self._sums.knows_model(task)
        if pending is None or (pending.round, pending.num_examples) != due or not known:
            pending = self._trained(task)
        if self._sums is None:
            self._push(pending)
        else:
            self._sums.send_keys(task, pending)

    def _trained(self, task: Task) -> PendingUpdate:
        if self._filter is not None:
            self._filter.check_budget(task.round)
        pulled = self._pull(task.model, task.round - 1)
        if self._sums is not None:
            self._sums.note_model(task, self._pulled_sha256)
        if (task.round - 1) % getattr(self._trainer, "score_every", 1) == 0:
            self._score(task.round - 1, pulled)
        began = self._clock()
        self._pulled = None  # the trainer may work in place
        received = {}
        if self._filter is not None:
            received = {s.name: pulled[s.name].copy() for s in self._private.shared_specs}
        arrays, metrics = self._trainer.train(pulled, task.round)
        checked = self._checked_metrics(metrics, task.round)
        self.note(
            "trained",
            round=task.round,
            num_examples=self._trainer.num_examples,
            seconds=self._since(began),
            metrics=checked,
        )
        self._private.keep(global_name(task.round), arrays)
        arrays = self._private.shared(arrays, what=f"update of round {task.round}")
        if self._filter is not None:
            arrays = self._filter.filtered(received, arrays, task.round)
            checked = report_filter.check_metrics(
                self._filter.metrics(checked), what=f"metrics of round {task.round}"
            )
            self._note_spent(task.round)
        if self._transport_form == "half":
            arrays, error = codec.rounded(arrays, keep=received if self._is_sparse else {})
            self.note(
                "rounded",
                round=task.round,
                rounding_error=error.relative,
                rounding_largest=error.largest,
            )
        return self._journal.keep_update(task.round, arrays, self._trainer.num_examples, checked)

    def _note_spent(self, round_number: int) -> None:
        assert self._filter is not None
        self.note(
            "privacy",
            round=round_number,
            of_round=str(self._filter.of_a_round),
            of_run=self.privacy,
        )

    def _push(self, pending: PendingUpdate) -> None:
        began = self._clock()
        try:
            self._server.push(
                self._journal.update_path,
                pending.sha256,
                round_number=pending.round,
                num_examples=pending.num_examples,
                metrics=self._checked_metrics(pending.metrics, pending.round),
                discarded=self._journal.discarded,
                manifest=self._journal.manifest,
                **({"trained_from": self._journal.incoming_path} if self._is_sparse else {}),
            )
        except errors.StaleUpdate as error:
            self.note("dropped", round=pending.round, error=type(error).__name__)
        except errors.ServerMisbehaves:
            raise  # nothing is wrong with the update, so it is kept for an honest server
        except errors.FederationError:
            # Sent again, the update would be refused again; trained again, it may not be.
            self._journal.drop_update()
            raise
        else:
            self.rounds += 1
            self.note(
                "pushed",
                round=pending.round,
                bytes=self._journal.update_path.stat().st_size,
                seconds=self._since(began),
            )
        self._journal.release_update()

    def _pull(self, model: str, number: int | None = None) -> NamedArrays:
        """Returns a model with this site's private arrays, if the plan keeps any.

        Args:
          number: of the global model, where the task says it.
        """
        if self._pulled is not None and self._pulled[0] == model:
            return self._pulled[1]
        self._pulled = None  # one model at a time in memory
        lent, sharing_ = not is_global(model), self._private.sharing
        if lent and sharing_.received and self._received is None:
            last = self._download(LAST_GLOBAL, self._specs)
            self._received = {name: last[name].copy() for name in sharing_.received}
        arrays = self._download(model, self._private.shared_specs if lent else self._specs)
        if lent:
            arrays = {**arrays, **(self._received or {})}
        elif sharing_.kept and number is not None:
            self._journal.note_global(self._pulled_sha256, number)
        elif sharing_.kept:
            number = self._journal.number_of(self._pulled_sha256)
        arrays, of = self._private.completed(model, arrays, number=number)
        if of:
            self.note("private_arrays", model=model, of=of)
        elif sharing_.kept and number != 0:  # a late site, or one that lost its journal
            self.note("private_arrays", model=model, of="the initial model")
        self._pulled = model, arrays
        return arrays

    def _download(self, model: str, specs: Sequence[TensorSpec]) -> NamedArrays:
        began = self._clock()
        manifest = self._server.pull(model, self._journal.incoming_path, specs=specs)
        arrays, _ = tensor_files.load(self._journal.incoming_path)
        self._pulled_sha256 = manifest.sha256
        self.note("pulled", model=model, bytes=manifest.nbytes, seconds=self._since(began))
        return arrays

    def _score(self, number: int, pulled: NamedArrays) -> None:
        scores, what = self._journal.scores(number), f"scores of global model {number}"
        if scores is None:
            self._ask("scores", global_name(number))
            began = self._clock()
            scores = self._checked_scores(self._trainer.score(pulled), what)
            self._journal.keep_scores(number, scores)
            self.note("scored", model=number, scores=scores, seconds=self._since(began))
        checked = self._checked_scores(scores, what)  # again: they may be from a file
        self._server.report_scores(number, checked, sha256=self._pulled_sha256)

    def _publish(self) -> None:
        if not self._journal.declared:
            path = self._journal.lent_path
            # With a policy none is lent: its weights would bypass the filter.
            lent = {} if self._filter is not None else self._trainer.local_models()
            if lent and self._terms.require_secure_aggregation:
                raise errors.PrivacyRefused(
                    f"this site sends masked updates only, and would lend {', '.join(lent)} to "
                    "the evaluation as they are; give --nolend_local, and no --lend"
                )
            for name, arrays in lent.items():
                _check_own_name(name)
                if name not in self._journal.published:
                    began = self._clock()
                    self._private.keep(name, arrays)
                    sent = self._private.shared(arrays, what=f"model {name}")
                    sha256 = tensor_files.save(path, sent, {"model": name})
                    self._server.publish(path, sha256, model=name)
                    self._journal.keep_published(name, sha256)
                    self.note(
                        "published",
                        model=name,
                        bytes=path.stat().st_size,
                        seconds=self._since(began),
                    )
            path.unlink(missing_ok=True)
            self._journal.keep_declared()
        for name in self._journal.published:
            _check_own_name(name)
        try:
            self._server.declare_models(sorted(self._journal.published))
        except errors.UnknownModel:
            # The site was evicted and admitted again. Its models are gone, and are uploaded again.
            self._journal.forget_published()
            raise

    def _evaluate(self, models: tuple[str, ...]) -> None:
        self.note("to_evaluate", count=len(models), models=list(models))
        assert self._answers is not None  # opened after the login
        self._answers.require("rows", [m for m in models if self._journal.rows(m) is None])
        collected: list[dict[str, Any]] = []
        for name in models:
            rows = self._journal.rows(name)
            if rows is None:
                pulled = self._pull(name)
                self._ask("rows", name)
                began = self._clock()
                rows = self._checked_rows(self._trainer.evaluate(name, pulled), name)
                self._journal.keep_rows(name, rows)
                self.models_evaluated += 1
                self.note("evaluated", model=name, rows=len(rows), seconds=self._since(began))
            collected.extend(self._checked_rows(rows, name))  # again: they may be from a file
        self._pulled = None
        self._server.submit_rows(collected)
        self._journal.keep_reported()
        self.note("rows_submitted", rows=len(collected))

    def _checked_rows(self, rows: Iterable[Mapping[str, Any]], model: str) -> list[dict[str, Any]]:
        checked = report_filter.checked_rows(
            rows, vocabulary=self._vocabulary, site=self._transport.site, models=[model]
        )
        return [answers.rounded(row, self._limits.report_digits) for row in checked]

    def _checked_scores(self, scores: Mapping[str, Any], what: str) -> dict[str, float]:
        checked = report_filter.check_scores(scores, vocabulary=self._vocabulary, what=what)
        return answers.rounded(checked, self._limits.report_digits)

    def _checked_metrics(self, metrics: Mapping[str, Any], number: int) -> dict[str, float]:
        checked = report_filter.check_metrics(metrics, what=f"metrics of round {number}")
        # An epsilon is never stated too small.
        exact = {name: value for name, value in checked.items() if name == EPSILON}
        return answers.rounded(checked, self._limits.report_digits) | exact

    def _since(self, began: float) -> float:
        return round(self._clock() - began, 3)


def _check_own_name(name: str) -> None:
    if not MODEL_NAME.fullmatch(name):
        raise errors.ModelRefused(
            f"this site's model is named {printable.text(repr(name), limit=80)}; "
            "use letters, digits, '_' and '-', at most 64, in --lend"
        )


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

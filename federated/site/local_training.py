"""A site's part in a round: from the model that it receives to the update that counts."""

from __future__ import annotations

import time
from collections.abc import Callable

from federated import errors
from federated.privacy.policy import PrivacyPolicy
from federated.rounds.tasks import Task, global_name
from federated.security import report_filter
from federated.site import trainer as site_trainer
from federated.site.evaluation import SiteEvaluation, SiteReports
from federated.site.journal import Journal, PendingUpdate
from federated.site.private_arrays import PrivateArrays
from federated.site.received_models import ReceivedModels
from federated.site.retries import Persistent
from federated.site.sums.sum_part import SumPart
from federated.site.update_filter import UpdateFilter, begun, prepared
from federated.tensors import codec
from federated.wire.messages import Session


class LocalTraining:
    """Trains rounds and sends their updates, each until it counts.

    Args:
      trainer: trains.
      server: the calls, which are tried again.
      models: downloads them.
      private_arrays: what the plan keeps at the site.
      evaluation: scores the model from which a round is trained.
      reports: checks what is sent.
      note: writes an event.
    Attributes:
      sums: the site's part in secure sums, in a run that has them.
      transport: how values are rounded, as the server said at the login.
      count: updates of this process that were confirmed.
    """

    def __init__(
        self,
        trainer: site_trainer.SiteTrainer,
        server: Persistent,
        journal: Journal,
        models: ReceivedModels,
        private_arrays: PrivateArrays,
        evaluation: SiteEvaluation,
        reports: SiteReports,
        note: Callable[..., None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._trainer, self._server, self._journal = trainer, server, journal
        self._models, self._private, self._evaluation = models, private_arrays, evaluation
        self._reports, self._note, self._clock = reports, note, clock
        self._filter: UpdateFilter | None = None
        self.sums: SumPart | None = None
        self.transport, self.count = "raw", 0

    def prepare_privacy(self, policy: PrivacyPolicy | None) -> None:
        """Raises PolicyRefused, before the server hears of the site, if the policy cannot hold."""
        self._filter = prepared(
            policy,
            self._journal,
            self._private.shared_specs,
            num_examples=self._trainer.num_examples,
            steps=getattr(self._trainer, "steps_per_round", 1),
        )

    def enter_privacy(self, session: Session, site: str) -> None:
        """Begins or continues the policy's ledger of a run. Raises PolicyRefused."""
        if self._filter is None:
            return
        if session.sums is not None:
            self._filter.check_range(session.sums.value_range)
        about = begun(self._filter, self._journal, session.run, site, session.num_rounds)
        self._note("privacy_policy", **about)

    @property
    def is_filtered(self) -> bool:
        """Whether updates pass a privacy policy."""
        return self._filter is not None

    @property
    def privacy(self) -> str:
        """What the updates of the run spent, "" without a policy."""
        return "" if self._filter is None else str(self._filter.spent)

    @property
    def _is_sparse(self) -> bool:
        return self._filter is not None and self._filter.policy.sparse

    def take_part(self, task: Task) -> None:
        """Sends the update of a round, or in a run with secure sums the keys for it, after training
        if that has not been done.
        """
        pending = self._journal.update
        due = (task.round, self._trainer.num_examples)
        known = self.sums is None or self.sums.knows_model(task)
        if pending is None or (pending.round, pending.num_examples) != due or not known:
            pending = self._trained(task)
        if self.sums is None:
            self._push(pending)
        else:
            self.sums.send_keys(task, pending)

    def take_part_in_sum(self, task: Task) -> None:
        """Does this site's part in a later phase of a secure sum."""
        assert self.sums is not None  # or the task would be unknown
        self.count += self.sums.take_part(task)

    def _trained(self, task: Task) -> PendingUpdate:
        if self._filter is not None:
            self._filter.check_budget(task.round)
        pulled = self._models.pull(task.model, task.round - 1)
        self._evaluation.ask("updates", task.model)
        if self.sums is not None:
            self.sums.note_model(task, self._models.sha256)
        if (task.round - 1) % getattr(self._trainer, "score_every", 1) == 0:
            self._evaluation.score(task.round - 1, pulled)
        began = self._clock()
        self._models.forget()  # the trainer may work in place
        received = {}
        if self._filter is not None:
            received = {s.name: pulled[s.name].copy() for s in self._private.shared_specs}
        arrays, metrics = site_trainer.trained(self._trainer, pulled, task.round)
        checked = self._reports.metrics(metrics, task.round)
        self._note(
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
        if self.transport == "half":
            arrays, error = codec.rounded(arrays, keep=received if self._is_sparse else {})
            self._note(
                "rounded",
                round=task.round,
                rounding_error=error.relative,
                rounding_largest=error.largest,
            )
        return self._journal.keep_update(task.round, arrays, self._trainer.num_examples, checked)

    def _note_spent(self, round_number: int) -> None:
        assert self._filter is not None
        self._note(
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
                metrics=self._reports.metrics(pending.metrics, pending.round),
                discarded=self._journal.discarded,
                manifest=self._journal.manifest,
                **({"trained_from": self._journal.incoming_path} if self._is_sparse else {}),
            )
        except errors.StaleUpdate as error:
            self._note("dropped", round=pending.round, error=type(error).__name__)
        except errors.ServerMisbehaves:
            raise  # nothing is wrong with the update, so it is kept for an honest server
        except errors.FederationError:
            # Sent again, the update would be refused again; trained again, it may not be.
            self._journal.drop_update()
            raise
        else:
            self.count += 1
            self._note(
                "pushed",
                round=pending.round,
                bytes=self._journal.update_path.stat().st_size,
                seconds=self._since(began),
            )
        self._journal.release_update()

    def _since(self, began: float) -> float:
        return round(self._clock() - began, 3)

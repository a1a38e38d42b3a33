"""What a site tells of models: scores of global models, the models that it lends, and rows of the
evaluation at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from federated import errors
from federated.privacy.policy import EPSILON
from federated.rounds.tasks import MODEL_NAME, global_name
from federated.security import report_filter
from federated.site import answers
from federated.site import trainer as site_trainer
from federated.site.answers import AnswerLimits, Answers
from federated.site.journal import Journal
from federated.site.private_arrays import PrivateArrays
from federated.site.received_models import ReceivedModels
from federated.site.retries import Persistent
from federated.tensors import tensor_files
from federated.tensors.weights import NamedArrays
from runkit import printable


class SiteReports:
    """Checks and rounds every number that a site reports.

    Args:
      site: its name.
      trainer: has the vocabulary.
      digits: as in `answers.rounded`.
    """

    def __init__(self, site: str, trainer: site_trainer.SiteTrainer, digits: int):
        self._site, self._vocabulary, self._digits = site, trainer.vocabulary, digits

    def rows(self, rows: Iterable[Mapping[str, Any]], model: str) -> list[dict[str, Any]]:
        """Raises PrivacyRefused, as all methods here, for what may not leave."""
        checked = report_filter.checked_rows(
            rows, vocabulary=self._vocabulary, site=self._site, models=[model]
        )
        return [answers.rounded(row, self._digits) for row in checked]

    def scores(self, scores: Mapping[str, Any], what: str) -> dict[str, float]:
        checked = report_filter.check_scores(scores, vocabulary=self._vocabulary, what=what)
        return answers.rounded(checked, self._digits)

    def metrics(self, metrics: Mapping[str, Any], number: int) -> dict[str, float]:
        checked = report_filter.check_metrics(metrics, what=f"metrics of round {number}")
        # An epsilon is never stated too small.
        exact = {name: value for name, value in checked.items() if name == EPSILON}
        return answers.rounded(checked, self._digits) | exact


class SiteEvaluation:
    """Scores, lends and evaluates for one site, within the bounds on its answers.

    Args:
      trainer: scores and evaluates.
      server: the calls, which are tried again.
      models: downloads them.
      private_arrays: what the plan keeps at the site.
      reports: checks what is sent.
      limits: on how many models are scored in this run.
      note: writes an event.
    Attributes:
      count: models evaluated by this process.
    """

    def __init__(
        self,
        trainer: site_trainer.SiteTrainer,
        server: Persistent,
        journal: Journal,
        models: ReceivedModels,
        private_arrays: PrivateArrays,
        reports: SiteReports,
        limits: AnswerLimits,
        note: Callable[..., None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._trainer, self._server, self._journal = trainer, server, journal
        self._models, self._private, self._reports = models, private_arrays, reports
        self._limits, self._note, self._clock = limits, note, clock
        self._answers: Answers | None = None  # from the first login on
        self.count = 0

    @property
    def answered(self) -> str:
        """For how many models this site has answered, and its bounds; "" before the login."""
        return "" if self._answers is None else str(self._answers)

    def open(self, num_rounds: int) -> None:
        """Reads the count of answers; refuses a run that would need more of them than allowed."""
        every = getattr(self._trainer, "score_every", 1)
        limits = self._limits.for_rounds(num_rounds, every)
        journal = self._journal
        self._answers = Answers(journal.folder, limits, earlier=journal.evaluated)
        journal.keep_record(answers.NAME)
        if num_rounds:
            self._answers.require_rounds(num_rounds, every)
        if self._answers.begun:
            self._note("answered", so_far=str(self._answers))

    def score(self, number: int, pulled: NamedArrays) -> None:
        """Reports the scores of a global model; it is scored once."""
        scores, what = self._journal.scores(number), f"scores of global model {number}"
        if scores is None:
            self.ask("scores", global_name(number))
            began = self._clock()
            scores = self._reports.scores(site_trainer.scored(self._trainer, pulled), what)
            self._journal.keep_scores(number, scores)
            self._note("scored", model=number, scores=scores, seconds=self._since(began))
        checked = self._reports.scores(scores, what)  # again: they may be from a file
        self._server.report_scores(number, checked, sha256=self._models.sha256)

    def publish(self, lent: Callable[[], Mapping[str, NamedArrays]]) -> None:
        """Uploads the models that this site lends, and then declares which they are.

        Args:
          lent: returns them by name; not called once they are declared.
        """
        if not self._journal.declared:
            path = self._journal.lent_path
            for name, arrays in lent().items():
                _check_own_name(name)
                if name not in self._journal.published:
                    began = self._clock()
                    self._private.keep(name, arrays)
                    sent = self._private.shared(arrays, what=f"model {name}")
                    sha256 = tensor_files.save(path, sent, {"model": name})
                    self._server.publish(path, sha256, model=name)
                    self._journal.keep_published(name, sha256)
                    self._note(
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

    def evaluate(self, models: tuple[str, ...]) -> None:
        """Evaluates all models and submits their rows together."""
        self._note("to_evaluate", count=len(models), models=list(models))
        assert self._answers is not None  # opened after the login
        self._answers.require("rows", [m for m in models if self._journal.rows(m) is None])
        collected: list[dict[str, Any]] = []
        for name in models:
            rows = self._journal.rows(name)
            if rows is None:
                pulled = self._models.pull(name)
                self.ask("rows", name)
                began = self._clock()
                rows = self._reports.rows(site_trainer.evaluated(self._trainer, name, pulled), name)
                self._journal.keep_rows(name, rows)
                self.count += 1
                self._note("evaluated", model=name, rows=len(rows), seconds=self._since(began))
            collected.extend(self._reports.rows(rows, name))  # again: they may be from a file
        self._models.forget()
        self._server.submit_rows(collected)
        self._journal.keep_reported()
        self._note("rows_submitted", rows=len(collected))

    def ask(self, kind: answers.Kind, model: str) -> None:
        """Counts the model that was downloaded last as a question that this site answers.

        Raises:
          AnswersUsedUp: if this site answers no more of them.
        """
        assert self._answers is not None  # opened after the login
        count = self._answers.note(kind, model, self._models.whole_sha256)
        self._note("asked", kind=kind, model=model, count=count, limit=self._answers.bound(kind))

    def _since(self, began: float) -> float:
        return round(self._clock() - began, 3)


def _check_own_name(name: str) -> None:
    if not MODEL_NAME.fullmatch(name):
        raise errors.ModelRefused(
            f"this site's model is named {printable.text(repr(name), limit=80)}; "
            "use letters, digits, '_' and '-', at most 64, in --lend"
        )

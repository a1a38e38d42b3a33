"""Scores and selection of global models, and the evaluation after the last round.

In the evaluation, every site scores the same models and returns rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from federated import errors
from federated.aggregation import model_selection
from federated.rounds import rounds, tasks
from federated.security import report_filter
from federated.security.vocabulary import Vocabulary
from federated.server.run_state import RunState
from federated.storage.database import SiteRecord

_LISTED_MODELS = 1000  # the record of the selection lists only the newest models of a longer run
_RESCORED = 20  # different scores of one model that a site may send
# Test cases that a site can have, given its training cases: far more than any split leaves.
_FEW_CASES, _CASES_PER_EXAMPLE = 1000, 10
# Bytes of a site's rows as text: twice what the most rows take with the columns of this product.
_MAX_ROWS_BYTES = 128 * 2**20


def _cases(num_examples: int) -> int:
    return max(_FEW_CASES, _CASES_PER_EXAMPLE * num_examples)


class Evaluation:
    """Scores, selection and cross-site evaluation of one run."""

    def __init__(self, run: RunState, vocabulary: Vocabulary):
        self._run, self._vocabulary = run, vocabulary
        # (site, model, how often rounds were discarded) -> different scores
        self._rescored: dict[tuple[str, int, int], int] = {}
        self._enough_at: float | None = None  # when the rows of the minimum of sites had arrived

    def report_scores(
        self, site: str, model: int, scores: Mapping[str, float], sha256: str = ""
    ) -> None:
        """Records the scores of `site` for global model number `model`.

        Args:
          sha256: digest of the weights that were scored; "" from an earlier release.
        Raises:
          UnknownModel, PrivacyRefused, UpdateRefused.
        """
        run = self._run
        checked = report_filter.check_scores(
            scores, vocabulary=self._vocabulary, what=f"scores of site {site!r}"
        )
        with run.changing():
            if model not in run.store.globals():
                raise errors.UnknownModel(
                    f"there is no global model {model} to score; "
                    f"the last one is {max(run.store.globals())}"
                )
            if sha256 not in ("", run.store.globals()[model]):
                raise errors.UnknownModel(
                    f"global model {model} has been replaced; ask for the next task"
                )
            if (
                run.store.score(model, site) == checked
                or run.store.fixed_models()
                or run.store.finished
            ):
                return  # sent again, or too late: the best model has already been chosen
            key = (site, model, run.store.discarded)
            times = self._rescored.get(key, 0)
            if times >= _RESCORED:
                raise errors.UpdateRefused(
                    f"site {site!r} scored model {model} in {_RESCORED} different ways; "
                    "its last scores stay"
                )
            run.store.record_scores(model, site, checked)
            # Counted only now: on a full disk the site sends the same scores again and again.
            self._rescored[key] = times + 1
            run.note_change()
            run.log("scored", site=site, model=model, scores=checked)

    def declare_models(self, site: str, names: Sequence[str]) -> None:
        """Records that `site` has published all its models.

        Raises:
          UnknownModel: if a model of these names has not arrived.
        """
        run = self._run
        with run.changing():
            held = {name for name, (owner, _) in run.store.models().items() if owner == site}
            missing = sorted(set(names) - held)
            if missing:
                listed = ", ".join(name[:64] for name in missing[:10])
                raise errors.UnknownModel(
                    f"site {site!r} declares {listed}, which it has not published; publish first"
                )
            if run.store.fixed_models() or site in run.store.declared():
                return
            run.store.declare(site, sorted(set(names)))
            run.note_change()
            run.log("declared", site=site, models=sorted(set(names)))

    def submit_rows(
        self,
        site: str,
        rows: Iterable[Mapping[str, Any]],
        verify: Callable[[], object] = lambda: None,
    ) -> None:
        """Records the per-case rows of `site`, each checked as it arrives.

        They count once; rows sent later change nothing.

        Args:
          verify: raises once the site is no longer admitted; called again after the last row.
        Raises:
          PrivacyRefused, UnknownModel, UnknownSite, and whatever `verify` raises.
        """
        run = self._run
        with run.changed:
            models = run.store.fixed_models()
            if not models:
                raise errors.UnknownModel(
                    f"site {site!r} sent rows before the models to evaluate were fixed; "
                    "ask for the next task"
                )
            if site not in run.store.participants():
                raise errors.UnknownSite(
                    f"site {site!r} sent rows but no update in any round; "
                    "only sites that took part evaluate"
                )
            if site in run.store.reported():
                return
            # A site that evaluates while another one is evicted may still report models of the
            # evicted one; they are left out.
            withdrawn = run.store.withdrawn_models()
            cases = _cases(run.store.sites()[site].num_examples)
            discarded = run.store.discarded
        # Kept as text, which takes a tenth of the memory of a row's numbers and names.
        checked = report_filter.checked_rows(
            rows,
            vocabulary=self._vocabulary,
            site=site,
            models=(*models, *withdrawn),
            max_cases=cases,
        )
        lines, size = [], 0
        for row in checked:
            lines.append(json.dumps(row, allow_nan=False))
            size += len(lines[-1])
            if size > _MAX_ROWS_BYTES:
                raise errors.PrivacyRefused(
                    f"the first {len(lines)} rows of site {site!r} take {size} bytes; expected at "
                    f"most {_MAX_ROWS_BYTES} of all its rows, with fewer columns in each"
                )
        with run.changing():
            verify()
            if run.store.discarded != discarded:
                raise errors.UnknownModel(
                    f"site {site!r} sent rows of models that were discarded meanwhile; "
                    "ask for the next task"
                )
            if site in run.store.reported():
                return
            run.store.keep_rows(site, lines)
            run.note_change()
            self._log_rows([site])

    def withdraw(self, site: str) -> list[str]:
        """Removes the models of an evicted site from the run and returns their names.

        Called with the lock held.
        """
        return self._run.store.drop_models(site)

    def rewrite_rows(self) -> None:
        """Writes `rows.jsonl` with the sites and models that count now.

        Called with the lock held.
        """
        if self._run.store.reported():
            self._run.store.write_rows()
            self._log_rows(self._run.store.row_digests())

    def _log_rows(self, sites: Iterable[str]) -> None:
        digests = self._run.store.row_digests()
        for site in sites:
            if site in digests:
                count, sha256 = digests[site]
                self._run.log("rows", site=site, rows=count, sha256=sha256)

    def advance(self, now: float) -> float | None:
        """Takes the next step after the last round: selection, list of models to evaluate, end.

        Returns:
          Seconds until something may be due without a further event, or None.
        """
        run = self._run
        if run.store.finished:
            return None
        progress = run.progress()
        expected, next_silent = run.expected(progress.participants, now)
        if not progress.models:
            if not expected <= progress.scored or (
                run.config.cross_site_evaluation and not expected <= progress.declared
            ):
                return next_silent
            best = self.select()
            names = [*sorted(run.store.models()), tasks.LAST_GLOBAL, tasks.BEST_GLOBAL]
            if run.config.cross_site_evaluation:
                run.store.fix_models(names, best)
                run.note_change()
                run.log(
                    "models_fixed",
                    models=names,
                    asked=len(names),
                    best_round=best,
                    scored_by=self._scored_by(),
                )
                progress = run.progress()
        over, next_due = self._rows_are_in(expected, progress.reported, now)
        if not run.config.cross_site_evaluation or over:
            run.store.write_rows()
            run.store.finish()
            run.note_change()
            about = (
                {"best_round": best, "scored_by": self._scored_by()} if not progress.models else {}
            )
            run.log(
                "finished",
                rounds=max(run.store.globals()),
                sites=sorted(run.store.took_part()),
                **about,
            )
            return None
        return min((s for s in (next_silent, next_due) if s is not None), default=None)

    def _rows_are_in(
        self, expected: frozenset[str], reported: frozenset[str], now: float
    ) -> tuple[bool, float | None]:
        """Returns (whether the evaluation ends, seconds until it may end without a further event).

        After rounds, it ends with the rows of all sites that trained. Without rounds, it takes
        sites as a round does: it waits for the minimum, and then up to `wait_after_min_clients_s`
        for others. In both cases it waits for sites that are at work.
        """
        run = self._run
        if not run.store.only_evaluates:
            return expected <= reported, None
        came = len(run.store.took_part())
        enough = came >= (run.policy.min_num_clients if run.store.last_round is None else 1)
        if not enough:
            self._enough_at = None
        elif self._enough_at is None:
            self._enough_at = now
        if self._enough_at is None or not expected <= reported:
            return False, None
        absent = len(run.absent(now) - reported)
        expected_sites = rounds.num_expected(run.policy, absent=absent, replaced=run.replaced())
        if run.store.last_round is not None or came >= expected_sites:
            return True, None
        due = self._enough_at + run.policy.wait_after_min_clients_s
        return now >= due, max(0.0, due - now)

    def has_plateaued(self) -> bool:
        """Returns whether the mean score has not improved for `patience_rounds` global models."""
        config = self._run.config
        chosen = self._chosen() if config.patience_rounds else None
        return chosen is not None and model_selection.has_plateaued(
            chosen.mean, patience=config.patience_rounds, min_improvement=config.min_improvement
        )

    def _chosen(self, *, held_only: bool = False) -> model_selection.Selection | None:
        store = self._run.store
        records, held = store.sites(), store.held_globals() if held_only else None
        compared: dict[int, dict[str, float]] = {}
        for model, site, score in store.each_score(model_selection.SCORE):
            if self._counts(records[site], score) and (held is None or model in held):
                compared.setdefault(model, {})[site] = score
        return model_selection.select(
            compared, {site: max(1, record.num_examples) for site, record in records.items()}
        )

    @staticmethod
    def _counts(record: SiteRecord, score: float) -> bool:
        # The store of an earlier release may hold a score of 1e308, whose mean is infinite.
        return not record.evicted and 0 <= score <= 1

    def _scored_by(self) -> list[str]:
        """Returns the sites on whose scores the choice of the best model depends, for the log."""
        chosen = self._chosen(held_only=True)
        return [] if chosen is None else list(chosen.sites)

    def select(self) -> int:
        """Compares the models scored so far, stores the best one, and returns its number."""
        run = self._run
        if run.store.only_evaluates:
            return 0  # there is nothing to choose from
        last = max(run.store.globals())
        every = self._chosen()
        chosen = self._chosen(held_only=True)  # an old model may have been removed
        if every is None or chosen is None:
            run.store.keep_selection(
                last,
                last,
                {
                    "score": None,
                    "reason": "no site scored a model, so it is the last one",
                    "models": [],
                },
            )
            return last
        table = [
            {
                "round": model,
                "mean": every.mean.get(model),
                "worst": every.worst.get(model),
                "sites": by_site,
            }
            for model, by_site in run.store.scores(since=last - _LISTED_MODELS).items()
        ]
        run.store.keep_selection(
            chosen.best,
            chosen.best_worst_site,
            {
                "score": model_selection.SCORE,
                "mean": chosen.mean[chosen.best],
                "worst": chosen.worst[chosen.best],
                "on_sites": list(chosen.sites),
                "models": table,
            },
        )
        run.log(
            "selected",
            best_round=chosen.best,
            mean=chosen.mean[chosen.best],
            worst=chosen.worst[chosen.best],
        )
        return chosen.best

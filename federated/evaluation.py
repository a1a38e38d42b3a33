"""After the last round: whose scores and models are waited for, which models every site evaluates, and the rows they return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from federated import agenda, errors, privacy, selection
from federated.run_state import RunState

SCORE = "dice"  # the key of a site's scores by which global models are compared


class Evaluation:
    """Scores, selection and cross-site evaluation of one run."""

    def __init__(self, run: RunState):
        self._run = run

    def report_scores(self, site: str, model: int, scores: Mapping[str, float]) -> None:
        """Records what `site` scored on global model number `model`. Raises UnknownModel, PrivacyRefused."""
        run, checked = self._run, privacy.check_metrics(scores, what=f"scores of site {site!r}")
        with run.changed:
            if model not in run.store.globals():
                raise errors.UnknownModel(f"there is no global model {model} to score; the last one is {max(run.store.globals())}")
            run.store.record_scores(model, site, checked)
            run.note_change()
        run.log("scored", site=site, model=model, scores=checked)

    def declare_models(self, site: str, names: Sequence[str]) -> None:
        """Records that `site` has published all it will. Raises UnknownModel for a name that has not arrived."""
        run = self._run
        with run.changed:
            held = {name for name, (owner, _) in run.store.models().items() if owner == site}
            missing = sorted(set(names) - held)
            if missing:
                raise errors.UnknownModel(f"site {site!r} declares {', '.join(missing)}, which it has not published; publish first")
            if not run.store.fixed_models():
                run.store.declare(site, names)
                run.note_change()
        run.log("declared", site=site, models=sorted(names))

    def submit_rows(self, site: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Records the per-case rows of `site`. Raises PrivacyRefused, UnknownModel, UnknownSite."""
        run = self._run
        with run.changed:
            models = run.store.fixed_models()
            if not models:
                raise errors.UnknownModel(f"site {site!r} sent rows before the models to evaluate were fixed; ask for the next task")
            if site not in run.store.participants():
                raise errors.UnknownSite(f"site {site!r} sent rows but no update in any round; only sites that took part evaluate")
            checked = privacy.check_rows(rows, site=site, models=models)
            run.store.keep_rows(site, checked)
            run.note_change()
        run.log("rows", site=site, rows=len(checked))

    def advance(self, now: float) -> float | None:
        """Moves on after the last round: selection, fixing the models to evaluate, the end; returns seconds until the clock may matter."""
        run = self._run
        if run.store.finished:
            return None
        progress = run.progress()
        expected, next_silent = run.expected(progress.participants, now)
        if not progress.models:
            if not expected <= progress.scored or (run.config.cross_site_evaluation and not expected <= progress.declared):
                return next_silent
            best = self.select()
            names = [*sorted(run.store.models()), agenda.LAST_GLOBAL, agenda.BEST_GLOBAL]
            if run.config.cross_site_evaluation:
                run.store.fix_models(names, best)
                run.note_change()
                run.log("models_fixed", models=names, best_round=best)
                progress = run.progress()
        if not run.config.cross_site_evaluation or expected <= progress.reported:
            run.store.write_rows()
            run.store.finish()
            run.note_change()
            run.log("finished", rounds=max(run.store.globals()), sites=sorted(progress.participants))
            return None
        return next_silent

    def has_plateaued(self) -> bool:
        """Returns whether the mean score has not improved for as many global models as the operator has patience."""
        config = self._run.config
        chosen = self._chosen()
        return chosen is not None and selection.has_plateaued(
            chosen.mean, patience=config.patience_rounds, min_improvement=config.min_improvement
        )

    def _chosen(self, *, held_only: bool = False) -> selection.Selection | None:
        scores, records = self._run.store.scores(), self._run.store.sites()
        return selection.select(
            {
                model: {site: values[SCORE] for site, values in by_site.items() if SCORE in values}
                for model, by_site in scores.items()
                if not held_only or self._run.store.global_path(model).exists()
            },
            {site: record.num_examples for site, record in records.items()},
        )

    def select(self) -> int:
        """Compares what has been scored so far, keeps the best model, and returns its number."""
        run = self._run
        scores, last = run.store.scores(), max(run.store.globals())
        every, chosen = self._chosen(), self._chosen(held_only=True)  # an old model may have been removed
        if chosen is None:
            run.store.keep_selection(last, last, {"score": None, "reason": "no site scored a model; the last one stands in", "models": []})
            return last
        table = [
            {"round": model, "mean": every.mean.get(model), "worst": every.worst.get(model), "sites": by_site}
            for model, by_site in scores.items()
        ]
        run.store.keep_selection(
            chosen.best,
            chosen.best_worst_site,
            {
                "score": SCORE,
                "mean": chosen.mean[chosen.best],
                "worst": chosen.worst[chosen.best],
                "on_sites": list(chosen.sites),
                "models": table,
            },
        )
        run.log("selected", best_round=chosen.best, mean=chosen.mean[chosen.best], worst=chosen.worst[chosen.best])
        return chosen.best

"""Scores a model on a site's cases: returns rows of numbers, keeps masks of the first few cases."""

from __future__ import annotations

import pathlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from c2fnas import inference
from c2fnas.inference import LogitsFn
from c2fnas.scores import case_scores
from c2fnas.scores.tumour_score import TumourScore
from c2fnas.sliding_window import WindowConfig
from experiments.results import case_rows, model_names, shared_choice
from experiments.results.case_rows import SCORE
from preprocessing import declared_labels, resampling
from preprocessing.case_source import CaseSource, PreparedCase
from runkit import array_files, atomic, progress


class CaseEvaluation:
    """Scores the weights that a network currently has.

    Args:
      store: the site's prepared cases.
      cases: split -> its cases; "test" and "validation" are scored.
      logits: the network, see `inference.logits_fn`.
      window: the sliding window.
      examples: folder for the masks that are kept; it stays at the site.
      example_cases: number of test cases whose masks are kept for the site's figures.
      candidate_rounds: of the plan, see `shared_choice`; a model of any other round is a model like
        all others, whatever the server calls it.
      label: name in progress bars.
    """

    def __init__(
        self,
        store: CaseSource,
        cases: Mapping[str, Sequence[PreparedCase]],
        logits: LogitsFn,
        window: WindowConfig,
        *,
        examples: pathlib.Path,
        example_cases: int = 4,
        candidate_rounds: Collection[int] = (),
        label: str,
    ):
        self._store, self._cases, self._logits, self._window = store, cases, logits, window
        self._examples, self._example_cases, self._label = examples, example_cases, label
        self._candidate_rounds = frozenset(candidate_rounds)
        self._healthy = declared_labels.is_absent(store.declared, "tumour")
        self._undrawn = declared_labels.undrawn(store.declared)

    def rows(self, model_name: str) -> list[dict[str, Any]]:
        """Returns the rows of a model (see case_rows), without identifier, path or picture.

        They cover the test cases, on the training grid and on their own grids. A site without
        tumours adds its validation cases, to which the healthy gate is fitted. The rows of a
        candidate for a shared choice differ, see `shared_choice`.
        """
        candidate = model_names.candidate_of(model_name)
        if candidate is not None and candidate[1] in self._candidate_rounds:
            return self._scored_candidate(model_name)
        rows = []
        for index, case in enumerate(self._watched("test", f"evaluates {model_name}")):
            mask, score = self._segmented(case)
            rows.append({**self._row(model_name, case, "training", mask), SCORE: score})
            native = resampling.restore_labels(mask, case.native, case.target_mm)
            rows.append({**self._row(model_name, case, "native", native), SCORE: score})
            if index < self._example_cases:
                example = self._examples / f"case{case.number:03d}.{model_name}.npy"
                with atomic.replacing(example) as path:
                    array_files.save(path, mask)
        return rows + (self._validation_rows(model_name) if self._healthy else [])

    def _scored_candidate(self, model_name: str) -> list[dict[str, Any]]:
        """Returns rows on the training grid: of validation cases for the choice, of test cases."""
        rows = self._validation_rows(model_name)
        for case in self._watched("test", f"scores {model_name}"):
            mask, score = self._segmented(case)
            rows.append({**self._row(model_name, case, "training", mask), SCORE: score})
        return rows

    def _validation_rows(self, model_name: str) -> list[dict[str, Any]]:
        """Returns rows of the validation cases.

        Only a site without tumours includes the patients' scores, to which the healthy gate is
        fitted.
        """
        rows = []
        for case in self._watched("validation", f"validates {model_name}"):
            mask, score = self._segmented(case)
            row = self._row(model_name, case, shared_choice.GRID, mask)
            rows.append({**row, SCORE: score} if self._healthy else row)
        return rows

    def _watched(self, split: str, doing: str) -> Iterator[PreparedCase]:
        """Yields the cases of a split, with a progress bar."""
        yield from progress.bar(self._cases[split], what=f"{self._label} {doing}", unit="case")

    def _row(
        self, model_name: str, case: PreparedCase, grid: str, mask: np.ndarray
    ) -> dict[str, Any]:
        """Returns the row of a mask, without the patient's score.

        Args:
          grid: "native" for the scan's own; any other name means the training grid.
        """
        truth, spacing_mm = np.asarray(case.label), case.target_mm
        if grid == "native":
            truth, spacing_mm = case.native_label(), case.native.spacing_mm
        return {
            "model": model_name,
            "site": self._store.site,
            "case": case.number,
            "grid": grid,
            **case_rows.columns(
                case_scores.compare(mask, truth, spacing_mm), undrawn=self._undrawn
            ),
        }

    def _segmented(self, case: PreparedCase) -> tuple[np.ndarray, float]:
        """Returns the mask of a case on the training grid and its score."""
        score = TumourScore(case.target_mm)
        return inference.segment(
            np.asarray(case.image, np.float32), self._logits, self._window, observe=score.add
        ), score.value

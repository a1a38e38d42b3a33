"""Curves of a training for TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Mapping

import tensorflow as tf

from runkit import private
from runkit.scalar_events import ScalarEvents


class TensorBoardLog:
    """Writes scalars of one model into a folder that TensorBoard reads.

    Nothing is made before the first value, and every value is in its file when a method returns. A
    run that is resumed writes its steps again into a file of its own; TensorBoard shows the later
    ones. TensorFlow's own summaries take as long as a tenth of a small step.

    Args:
      folder: of this model.
    """

    def __init__(self, folder: str | os.PathLike):
        self._events = ScalarEvents(folder)

    def training_step(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the values of a step: loss parts, learning_rate, patches_per_second. Fits
        `Trainer.train(on_step=...)`.
        """
        self._write("train", step, values)

    def validation(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the scores of a validation."""
        self._write("validation", step, values)

    def federated_round(
        self, step: int, number: int, values: Mapping[str, float] | None = None
    ) -> None:
        """Marks the step at which a round began, with the scores of the global model that it began
        with.
        """
        self._write("federated", step, {"round": number, **(values or {})})

    def _write(self, group: str, step: int, values: Mapping[str, float]) -> None:
        self._events.write(step, {f"{group}/{name}": value for name, value in values.items()})


class StepProfiler:
    """Records what devices and host do in steps `first` to `last`, counted from 1, into a folder
    that TensorBoard's profiler reads.

    Args:
      folder: of the model's TensorBoard files.
      first, last: steps, both recorded.
    """

    def __init__(self, folder: str | os.PathLike, first: int, last: int):
        self._folder, self._first, self._last, self._running = os.fspath(folder), first, last, False

    def before(self, step: int) -> None:
        """Called with the number of the step about to begin."""
        if not self._running and self._first <= step <= self._last:
            tf.profiler.experimental.start(self._folder)
            self._running = True

    def after(self, step: int) -> None:
        """Called with the number of the step that ended."""
        if self._running and step >= self._last:
            self.close()

    def close(self) -> None:
        """Ends a recording that is still running."""
        if self._running:
            self._running = False
            tf.profiler.experimental.stop()
            private.inherit(self._folder)

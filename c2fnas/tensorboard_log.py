"""Curves of a training for TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Mapping

import tensorflow as tf

from runkit import private
from runkit.scalar_events import ScalarEvents


class TensorBoardLog:
    """Writes scalars of one model into a folder that TensorBoard reads.

    Nothing is created before the first value, and every value is in its file when a method returns.
    A resumed run writes its steps into another file; TensorBoard shows the newer values. This class
    does not use TensorFlow's own summaries, which take up to a tenth of the time of a small step.

    Args:
      folder: folder of this model.
    """

    def __init__(self, folder: str | os.PathLike):
        self._events = ScalarEvents(folder)

    def training_step(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the values of a step; fits `Trainer.train(on_step=...)`."""
        self._write("train", step, values)

    def validation(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the scores of a validation."""
        self._write("validation", step, values)

    def federated_round(self, step: int, number: int) -> None:
        """Marks the step at which a round began; `step` is the number of steps taken before it."""
        self._write("federated", step, {"round": number})

    def _write(self, group: str, step: int, values: Mapping[str, float]) -> None:
        self._events.write(step, {f"{group}/{name}": value for name, value in values.items()})


class StepProfiler:
    """Records a profile of some steps for TensorBoard's profiler.

    Args:
      folder: folder of the model's TensorBoard files.
      first, last: first and last recorded step, counted from 1.
    """

    def __init__(self, folder: str | os.PathLike, first: int, last: int):
        self._folder, self._first, self._last, self._running = os.fspath(folder), first, last, False

    def before(self, step: int) -> None:
        """Starts the recording if `step`, which is about to begin, is to be recorded."""
        if not self._running and self._first <= step <= self._last:
            tf.profiler.experimental.start(self._folder)
            self._running = True

    def after(self, step: int) -> None:
        """Ends the recording if `step`, which has just ended, is the last one."""
        if self._running and step >= self._last:
            self.close()

    def close(self) -> None:
        """Ends the recording if it is still running."""
        if self._running:
            self._running = False
            tf.profiler.experimental.stop()
            private.inherit(self._folder)

"""Checkpoints of a training, and what must hold after a power cut while they are written.

    python -m tests.power_loss.checkpoints ROOT

writes a few of them in ROOT/training, each with a state that follows from its step.
"""

from __future__ import annotations

import functools
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from c2fnas import checkpoints
from tests.power_loss import recording, sync_lines

STEPS, KEEP = 30, 2


def command(root: pathlib.Path) -> list[str]:
    return [sys.executable, "-m", "tests.power_loss.checkpoints", str(root)]


class _Trainer:
    """A trainer whose state is a dict: to restore the variables of a network takes much longer than
    to read a checkpoint.
    """

    def __init__(self):
        from tests.c2fnas import tiny

        self._real = tiny.trainer()
        self._state = self._real.state()

    def __getattr__(self, name):
        return getattr(self._real, name)

    @property
    def step(self) -> int:
        return int(self._state["step"])

    def state(self):
        return self._state

    def restore(self, state) -> None:
        assert state.keys() == self._state.keys()
        self._state = dict(state)


@functools.cache
def _trainer() -> _Trainer:
    return _Trainer()


@functools.cache
def _state(step: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(step)
    state = {
        name: random.uniform(0, 1, array.shape).astype(array.dtype)
        for name, array in sorted(_trainer().state().items())
    }
    state["step"], state["optimizer/iterations"] = np.array(step), np.array(step)
    return state


def run(root: pathlib.Path) -> None:
    for step in range(1, STEPS + 1):
        _save(root, step)
        recording.mark(f"saved {step}")


def _save(root: pathlib.Path, step: int) -> None:
    trainer = _trainer()
    trainer.restore(_state(step))
    checkpoints.save(root / "training", trainer, {"step": step}, keep=KEEP)


def check(root: pathlib.Path, marks: Sequence[str]) -> None:
    """Raises AssertionError, or what the program raises, unless the newest checkpoint is one that
    was saved, whole, and not older than the last that `save` returned from.
    """
    trainer = _trainer()
    extra = checkpoints.load(root / "training", trainer)
    least = max((int(text.split()[1]) for text in marks), default=0)
    step = 0 if extra is None else extra["step"]
    assert step >= least, f"checkpoint of step {least} is lost; the newest is of step {step}"
    if step:
        found, expected = trainer.state(), _state(step)
        assert all(np.array_equal(found[name], array) for name, array in expected.items())
    _save(root, step + 1)
    assert checkpoints.load(root / "training", trainer) == {"step": step + 1}


if __name__ == "__main__":
    sync_lines.announce()
    run(pathlib.Path(sys.argv[1]))

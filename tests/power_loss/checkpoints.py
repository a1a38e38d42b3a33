"""Checkpoints of a training, and the conditions after a power cut while they are written.

    python -m tests.power_loss.checkpoints ROOT

writes a few of them in ROOT/training, each with a state that follows from its step.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import sys
import types
from collections.abc import Sequence

import numpy as np

from c2fnas import genotype
from tests.power_loss import recording, sync_lines

STEPS, KEEP = 30, 2
_SHAPES = {"weights/cell01/kernel": (3, 3, 3, 4, 8), "weights/cell01/gamma": (8,)}


def command(root: pathlib.Path) -> list[str]:
    return [sys.executable, "-m", "tests.power_loss.checkpoints", str(root)]


@dataclasses.dataclass(frozen=True)
class _Missing:
    classes: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Loss:
    missing: _Missing = _Missing()


@dataclasses.dataclass(frozen=True)
class _Config:
    frozen: tuple[str, ...] = ()
    loss: _Loss = _Loss()
    vae_rate: float = 1.0
    proximal_weight: float = 0.0
    private: frozenset[str] = frozenset()


class _Trainer:
    """The part of a trainer that `checkpoints` uses.

    The state is a dict, because importing TensorFlow and restoring the variables of a network takes
    much longer than reading a checkpoint.
    """

    network = types.SimpleNamespace(
        genotype=genotype.load(genotype.NAMES[0]),
        patch_size=(16, 16, 8),
        vae=None,
        latent_size=8,
        class_prior=None,
        precision="float32",
    )
    config = _Config()

    def __init__(self) -> None:
        self._state: dict[str, np.ndarray] = {}

    @property
    def step(self) -> int:
        return int(self._state["step"])

    def state(self) -> dict[str, np.ndarray]:
        return self._state

    def restore(self, state) -> None:
        assert state.keys() == _state(0).keys()
        self._state = dict(state)


@functools.cache
def _state(step: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(step)
    arrays = {
        f"{part}{name}": random.uniform(0, 1, shape).astype(np.float32)
        for part in ("", "optimizer/m/", "optimizer/v/")
        for name, shape in _SHAPES.items()
    }
    return {**arrays, "step": np.array(step), "optimizer/iterations": np.array(step)}


def run(root: pathlib.Path) -> None:
    for step in range(1, STEPS + 1):
        _save(root, step)
        recording.mark(f"saved {step}")


def _save(root: pathlib.Path, step: int) -> None:
    from c2fnas import checkpoints

    trainer = _Trainer()
    trainer.restore(_state(step))
    checkpoints.save(root / "training", trainer, {"step": step}, keep=KEEP)


def check(root: pathlib.Path, marks: Sequence[str]) -> None:
    """Checks the newest checkpoint.

    Raises AssertionError, or an error of the program, unless the checkpoint is complete, was really
    saved, and is not older than the last one for which `save` returned.
    """
    from c2fnas import checkpoints

    trainer = _Trainer()
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

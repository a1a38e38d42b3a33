"""The training of a supernet: each step takes the path that `paths.path_at` gives for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from c2fnas.search.paths import path_at
from c2fnas.search.supernet import Supernet
from c2fnas.train_step import Batch
from c2fnas.training import Datasets, Trainer, TrainingConfig

_COUNTS = "path_counts"


class SupernetTrainer(Trainer):
    """A `Trainer` of a supernet.

    A step changes only the weights and moments of its own path. `state` also holds `path_counts`
    int64 [cells, operations], see `Supernet.counts`.

    Args:
      supernet: built inside `strategy.scope()`.
      config: settings of the whole run; its seed decides the paths.
      strategy: as in `Trainer`.
      arguments: further arguments of `Trainer`.
    """

    def __init__(
        self,
        supernet: Supernet,
        config: TrainingConfig,
        strategy: tf.distribute.Strategy,
        **arguments: Any,
    ):
        super().__init__(supernet, config, strategy, **arguments)
        self.supernet = supernet
        self._round_number = self._round_begins = 0  # 0 without rounds

    def begin_round(self, round_number: int, first_step: int) -> None:
        """Counts the steps of the paths from a round's first step.

        All sites thus take the same paths in a round; a site with fewer steps takes the first ones.

        Args:
          round_number: from 1.
          first_step: number of the round's first step in this trainer's count.
        """
        self._round_number, self._round_begins = round_number, first_step

    def set_weights(
        self, arrays: Mapping[str, np.ndarray], *, reset_optimizer: bool = False
    ) -> None:
        super().set_weights(arrays, reset_optimizer=reset_optimizer)
        if reset_optimizer:
            self.supernet.set_counts(np.zeros_like(self.supernet.counts()))

    def state(self) -> dict[str, np.ndarray]:
        return {**super().state(), _COUNTS: self.supernet.counts()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        if _COUNTS not in state:
            raise ValueError(f"the state has no entry {_COUNTS}; use one of a supernet's training")
        before = self.supernet.counts()
        self.supernet.set_counts(state[_COUNTS])
        try:
            super().restore({name: array for name, array in state.items() if name != _COUNTS})
        except ValueError:
            self.supernet.set_counts(before)
            raise

    def train(self, datasets: Datasets, until_step: int, **arguments: Any) -> dict[str, float]:
        """Takes the steps up to `until_step` - 1, each along its own path; see `Trainer.train`."""

        def along_paths(first: int, last: int) -> Iterator[Batch]:
            # A batch is taken right before its step.
            for step, batch in enumerate(datasets(first, last), start=first):
                self.supernet.choose(
                    path_at(
                        self.supernet.space,
                        self.config.seed,
                        self._round_number,
                        step - self._round_begins,
                    )
                )
                yield batch

        return super().train(along_paths, until_step, **arguments)

"""The training loop: steps over a strategy, and the state that an exact continuation needs."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from c2fnas import inference, keras_stack, named_weights
from c2fnas.losses import LossConfig
from c2fnas.sliding_window import LogitsFn
from c2fnas.train_step import make_train_step, share
from runkit import progress

if TYPE_CHECKING:
    from c2fnas.network import Network

Datasets = Callable[[int, int], tf.data.Dataset]  # (first step, step after the last) -> one batch for each step
OnStep = Callable[[int, Mapping[str, float]], None]
_WEIGHTS, _OPTIMIZER = "weights/", "optimizer/"


class NonFiniteLoss(ValueError):
    """A part of the loss is no longer a number."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What decides the numbers of a training, beside the network and the data."""

    batch_size: int  # over all replicas
    total_steps: int  # of the whole run, all rounds together; the schedule spans them
    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-5
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    seed: int

    def __post_init__(self):
        for name in ("batch_size", "total_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        if not 0.0 <= self.final_learning_rate <= self.learning_rate:
            raise ValueError(
                f"final_learning_rate is {self.final_learning_rate}, learning_rate {self.learning_rate}; expected 0 <= final <= first"
            )


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Returns the rate of a step, 0 to total_steps - 1: half a cosine from learning_rate, at step 0, to final_learning_rate.

    The final rate would be that of step total_steps, the one after the last. A function of the step alone, so a resumed run
    and a federated round go on where the schedule stands.
    """
    share = min(max(step / config.total_steps, 0.0), 1.0)
    drop = config.learning_rate - config.final_learning_rate
    return config.final_learning_rate + 0.5 * drop * (1.0 + math.cos(math.pi * share))


class Trainer:
    """Weights, Adam's moments and the step of one training.

    Args:
      network: built inside `strategy.scope()`.
      config: of the whole run.
      strategy: e.g. tf.distribute.MirroredStrategy(); one replica is as good as any.
      optimizer: made inside `strategy.scope()` with its state; None makes Adam.
    Raises:
      ValueError: if the batch cannot be shared equally among the replicas.
    """

    def __init__(self, network: Network, config: TrainingConfig, strategy: tf.distribute.Strategy, *, optimizer: Any = None):
        self.network, self.config, self.strategy = network, config, strategy
        self.step = 0
        with strategy.scope():
            self._optimizer = keras_stack.optimizer(config.learning_rate, network.variables) if optimizer is None else optimizer
            self._train_step = make_train_step(network, self._optimizer, strategy, config.loss, config.batch_size)
        self._logits_fn = inference.logits_fn(network, strategy)

    def weights(self) -> dict[str, np.ndarray]:
        """Returns copies of all weights by canonical name, float32."""
        return named_weights.read(self.network)

    def set_weights(self, arrays: Mapping[str, np.ndarray], *, reset_optimizer: bool = False) -> None:
        """Sets all weights; Adam's moments and the step stay, unless `reset_optimizer` sets the moments to zero.

        Raises:
          ValueError: as `named_weights.assign`.
        """
        named_weights.assign(self.network, arrays)
        if reset_optimizer:
            state = keras_stack.optimizer_state(self._optimizer, self.network.variables)
            zeros = {name: np.zeros_like(array) for name, array in state.items()}
            keras_stack.assign_optimizer_state(self._optimizer, self.network.variables, zeros)

    def state(self) -> dict[str, np.ndarray]:
        """Returns all that an exact continuation needs: `weights/<name>`, `optimizer/<entry>` and `step` int64 []."""
        moments = keras_stack.optimizer_state(self._optimizer, self.network.variables)
        return {
            **{f"{_WEIGHTS}{name}": array for name, array in self.weights().items()},
            **{f"{_OPTIMIZER}{name}": array for name, array in moments.items()},
            "step": np.asarray(self.step, dtype=np.int64),
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Sets what `state` returned, here or on the other Keras stack.

        Raises:
          ValueError: if entries are missing, unexpected or of another shape; nothing is changed then.
        """
        if "step" not in state:
            raise ValueError("the state has no entry `step`; use one that a trainer's state() returned")
        weights = _below(_WEIGHTS, state)
        named_weights.check(self.network, weights)
        keras_stack.assign_optimizer_state(self._optimizer, self.network.variables, _below(_OPTIMIZER, state))
        named_weights.assign(self.network, weights)
        self.step = int(state["step"])

    def logits_fn(self) -> LogitsFn:
        """Returns the segmentation network as a compiled function; see `inference.logits_fn`."""
        return self._logits_fn

    def train(self, datasets: Datasets, until_step: int, *, on_step: OnStep | None = None, label: str = "training") -> dict[str, float]:
        """Takes the steps from `self.step` up to, not including, `until_step`.

        Args:
          datasets: called once with (self.step, until_step); its n-th batch is that of step self.step + n.
          on_step: called after each step with the number of steps taken and loss parts, learning_rate, patches_per_second.
          label: what the progress bar says.
        Returns:
          The mean of each loss part over these steps, learning_rate of the last and patches_per_second of all; empty if there
          was nothing left to do.
        Raises:
          NonFiniteLoss: naming the step and the part; the weights are spoilt then, a checkpoint from before is not.
          ValueError: if until_step lies beyond the run, or the datasets end early.
        """
        if until_step > self.config.total_steps:
            raise ValueError(f"until_step is {until_step}, the run has {self.config.total_steps} steps; plan more total_steps")
        first = self.step
        if until_step <= first:
            return {}
        sums: dict[str, float] = {}
        rate = learning_rate_at(first, self.config)
        batches = iter(datasets(first, until_step))
        begin = before = time.perf_counter()
        with progress.bar(total=until_step - first, what=label, unit="step") as bar:
            while self.step < until_step:
                rate = learning_rate_at(self.step, self.config)
                # By assignment, not by a schedule of the optimizer: its own count of steps is not that of the run after a reset.
                self._optimizer.learning_rate.assign(rate)
                parts = self._take_step(batches, until_step)
                self.step += 1
                for name, value in parts.items():
                    sums[name] = sums.get(name, 0.0) + value
                now = time.perf_counter()
                values = {**parts, "learning_rate": rate, "patches_per_second": self.config.batch_size / (now - before)}
                before = now
                bar.set_postfix(_shown(values), refresh=False)
                bar.update()
                if on_step is not None:
                    on_step(self.step, values)
        steps = until_step - first
        return {
            **{name: value / steps for name, value in sums.items()},
            "learning_rate": rate,
            "patches_per_second": steps * self.config.batch_size / (time.perf_counter() - begin),
        }

    def _take_step(self, batches, until_step: int) -> dict[str, float]:
        try:
            batch = next(batches)
        except StopIteration:
            raise ValueError(f"the datasets ended before step {self.step}; give a batch for each step up to {until_step}") from None
        parts = {name: float(value) for name, value in self._train_step(share(batch, self.strategy)).items()}
        spoilt = [name for name, value in parts.items() if not math.isfinite(value) and name != "total"]
        if spoilt or not math.isfinite(parts["total"]):
            raise NonFiniteLoss(
                f"step {self.step}: loss part {', '.join(f'{name} is {parts[name]}' for name in spoilt or ['total'])} "
                f"at learning rate {learning_rate_at(self.step, self.config):.3g}; start again from the last checkpoint with a lower rate"
            )
        return parts


def _below(prefix: str, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}


def _shown(values: Mapping[str, float]) -> dict[str, str]:
    short = {"total": "loss", "cross_entropy": "ce", "reconstruction": "l2", "learning_rate": "lr", "patches_per_second": "patches/s"}
    return {short.get(name, name): f"{value:.3g}" for name, value in values.items()}

"""The training loop: steps over a strategy, and the state that an exact continuation needs."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from absl import logging

from c2fnas import inference, keras_stack, named_weights
from c2fnas.losses import LossConfig
from c2fnas.sliding_window import LogitsFn
from c2fnas.train_step import Augment, make_train_step, share
from runkit import progress

if TYPE_CHECKING:
    from c2fnas.network import Network

Datasets = Callable[
    [int, int], tf.data.Dataset
]  # (first step, step after the last) -> one batch for each step
OnStep = Callable[[int, Mapping[str, float]], None]
DescribePatches = Callable[
    [int, Sequence[int]], str
]  # (step, slots of its batch) -> which cases they were cut from
_WEIGHTS, _OPTIMIZER = "weights/", "optimizer/"
NON_FINITE = ("stop", "skip")
_SKIPPED_IN_A_ROW = (
    10  # a few are one spoilt scan or a loss scale too high, this many a training that is lost
)
_LOSS_SCALE, _GROW_AFTER = (
    2.0**15,
    2000,
)  # where float16 starts, and after how many good steps it doubles (Micikevicius et al. 2018)


class NonFiniteLoss(ValueError):
    """A part of the loss, or a gradient, is no longer a number."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What decides the numbers of a training, beside the network and the data."""

    batch_size: int  # over all replicas
    total_steps: int  # of the whole run, all rounds together; the schedule spans them
    learning_rate: float = 1e-4
    final_learning_rate: float = 1e-5
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    vae_rate: float = 1.0  # the VAE branch's own weights move at this share of the rate
    clip_norm: float = (
        0.0  # gradients longer than this, all together, are scaled down to it; 0 for never
    )
    # what a step does whose loss or gradient is no number: end the training, or be left out
    non_finite: str = "stop"
    frozen: tuple[str, ...] = ()  # prefixes of canonical names whose weights stay as they are
    seed: int

    def __post_init__(self):
        object.__setattr__(self, "frozen", tuple(self.frozen))
        if not 0.0 <= self.clip_norm < math.inf:
            raise ValueError(
                f"clip_norm is {self.clip_norm}; expected a finite number above 0, or 0 for no clipping"
            )
        if not 0.0 < self.vae_rate <= 1.0:
            raise ValueError(
                f"vae_rate is {self.vae_rate}; expected a share of the learning rate, above 0 and at most 1"
            )
        if self.non_finite not in NON_FINITE:
            raise ValueError(
                f"non_finite is {self.non_finite!r}; expected one of {', '.join(NON_FINITE)}"
            )
        for name in ("batch_size", "total_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        if not 0.0 <= self.final_learning_rate <= self.learning_rate:
            raise ValueError(
                f"final_learning_rate is {self.final_learning_rate}, learning_rate {self.learning_rate}; expected 0 <= final <= first"
            )


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Returns the rate of a step, 0 to total_steps - 1: half a cosine from learning_rate, at step
    0, to final_learning_rate.

    The final rate would be that of step total_steps, the one after the last. A function of the step
    alone, so a resumed run and a federated round go on where the schedule stands.
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
      xla: compile the step's arithmetic by XLA; GPUs only.
      augment: see `make_train_step`.
      received: a network of the same genotype for the model that the server sent, see
        `set_received`; it needs no VAE branch. Built inside `strategy.scope()`, and only where
        `config.loss.missing` needs it.
    Raises:
      ValueError: if the batch cannot be shared equally among the replicas, or XLA is asked for
          without a GPU.
    """

    def __init__(
        self,
        network: Network,
        config: TrainingConfig,
        strategy: tf.distribute.Strategy,
        *,
        optimizer: Any = None,
        xla: bool = False,
        augment: Augment | None = None,
        received: Network | None = None,
    ):
        if xla and not tf.config.list_logical_devices("GPU"):
            raise ValueError(
                "xla is on and there is no GPU; on a CPU it loses oneDNN and makes a step about 12 times slower, so leave it off"
            )
        self.network, self.config, self.strategy = network, config, strategy
        self._received = received
        self.step = 0
        self._scaled = network.precision == "mixed_float16"
        self._loss_scale, self._good_steps, self._skipped_in_a_row = (
            (_LOSS_SCALE if self._scaled else 1.0),
            0,
            0,
        )
        with strategy.scope():
            self._optimizer = (
                keras_stack.optimizer(config.learning_rate, network.variables)
                if optimizer is None
                else optimizer
            )
            self._train_step = make_train_step(
                network,
                self._optimizer,
                strategy,
                config.loss,
                config.batch_size,
                clip_norm=config.clip_norm,
                frozen=config.frozen,
                xla=xla,
                augment=augment,
                at_once=keras_stack.samples_at_once(),
                received=received,
                vae_rate=config.vae_rate if network.vae is not None else 1.0,
            )
        self._logits_fn = inference.logits_fn(network, strategy)

    def weights(self) -> dict[str, np.ndarray]:
        """Returns copies of all weights by canonical name, float32."""
        return named_weights.read(self.network)

    def set_weights(
        self, arrays: Mapping[str, np.ndarray], *, reset_optimizer: bool = False
    ) -> None:
        """Sets all weights; Adam's moments and the step stay, unless `reset_optimizer` sets the
        moments to zero.

        Raises:
          ValueError: as `named_weights.assign`.
        """
        named_weights.assign(self.network, arrays)
        if reset_optimizer:
            state = keras_stack.optimizer_state(self._optimizer, self.network.variables)
            zeros = {name: np.zeros_like(array) for name, array in state.items()}
            keras_stack.assign_optimizer_state(self._optimizer, self.network.variables, zeros)

    def set_received(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Keeps the model that the server sent beside the one that is trained, for a loss that asks
        what it sees.

        It is not part of `state`: a site has the received model when it goes on.

        Raises:
          ValueError: as `named_weights.assign`.
        """
        if self._received is not None:
            named_weights.assign(
                self._received,
                {name: arrays[name] for name in self._received.variables if name in arrays},
            )

    def state(self) -> dict[str, np.ndarray]:
        """Returns all that an exact continuation needs: `weights/<name>`, `optimizer/<entry>` and
        `step` int64 [].

        In mixed float16 also `loss_scale/value` float32 [] and `loss_scale/good_steps` int64 [].
        """
        scale = {
            "loss_scale/value": np.asarray(self._loss_scale, dtype=np.float32),
            "loss_scale/good_steps": np.asarray(self._good_steps, dtype=np.int64),
        }
        moments = keras_stack.optimizer_state(self._optimizer, self.network.variables)
        return {
            **{f"{_WEIGHTS}{name}": array for name, array in self.weights().items()},
            **{f"{_OPTIMIZER}{name}": array for name, array in moments.items()},
            "step": np.asarray(self.step, dtype=np.int64),
            **(scale if self._scaled else {}),
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Sets what `state` returned, here or on the other Keras stack.

        Raises:
          ValueError: if entries are missing, unexpected or of another shape; nothing is changed
              then.
        """
        if "step" not in state:
            raise ValueError(
                "the state has no entry `step`; use one that a trainer's state() returned"
            )
        if self._scaled and "loss_scale/value" not in state:
            raise ValueError(
                "the state has no loss scale, so it is no training's in mixed_float16; use the precision it was made with"
            )
        weights = _below(_WEIGHTS, state)
        named_weights.check(self.network, weights)
        keras_stack.assign_optimizer_state(
            self._optimizer, self.network.variables, _below(_OPTIMIZER, state)
        )
        named_weights.assign(self.network, weights)
        self.step = int(state["step"])
        if self._scaled:
            self._loss_scale, self._good_steps = (
                float(state["loss_scale/value"]),
                int(state["loss_scale/good_steps"]),
            )

    def logits_fn(self) -> LogitsFn:
        """Returns the segmentation network as a compiled function; see `inference.logits_fn`."""
        return self._logits_fn

    def train(
        self,
        datasets: Datasets,
        until_step: int,
        *,
        on_step: OnStep | None = None,
        label: str = "training",
        describe: DescribePatches | None = None,
    ) -> dict[str, float]:
        """Takes the steps from `self.step` up to, not including, `until_step`.

        Args:
          datasets: called once with (self.step, until_step); its n-th batch is that of step
              self.step + n.
          on_step: called after each step with the number of steps taken and loss parts,
            gradient_norm, learning_rate, patches_per_second and data_wait_share; for a step that
            was left out `skipped` takes the place of the first two.
          label: what the progress bar says.
          describe: names the cases behind slots of a step, for the message about numbers that are
              none.
        Returns:
          The mean of each loss part and of gradient_norm over the steps taken, learning_rate of the
          last, patches_per_second of all and data_wait_share, the share of the time that was spent
          waiting for batches; skipped_steps where there were any; empty if there was nothing left
          to do.
        Raises:
          NonFiniteLoss: naming step, part and cases; the weights are those of before that step.
            With `non_finite` "skip" only after ten such steps in a row.
          ValueError: if until_step lies beyond the run, or the datasets end early.
        """
        if until_step > self.config.total_steps:
            raise ValueError(
                f"until_step is {until_step}, the run has {self.config.total_steps} steps; plan more total_steps"
            )
        first = self.step
        if until_step <= first:
            return {}
        means = _Means()
        rate = learning_rate_at(first, self.config)
        begin = before = time.perf_counter()
        waited = 0.0
        batches = iter(datasets(first, until_step))
        with progress.bar(total=until_step - first, what=label, unit="step") as bar:
            while self.step < until_step:
                rate = learning_rate_at(self.step, self.config)
                # By assignment, not by a schedule of the optimizer: its own count of steps is not
                # that of the run after a reset.
                self._optimizer.learning_rate.assign(rate)
                asked = time.perf_counter()
                batch = self._next(batches, until_step)
                wait = time.perf_counter() - asked
                parts = self._take_step(batch, describe)
                self.step += 1
                means.add(parts)
                now = time.perf_counter()
                waited += wait
                values = {
                    **parts,
                    "learning_rate": rate,
                    "patches_per_second": self.config.batch_size / (now - before),
                    "data_wait_share": min(1.0, wait / (now - before)),
                }
                before = now
                bar.set_postfix(_shown(values), refresh=False)
                bar.update()
                if on_step is not None:
                    on_step(self.step, values)
        seconds = time.perf_counter() - begin
        return {
            **means.values(),
            "learning_rate": rate,
            "patches_per_second": (until_step - first) * self.config.batch_size / seconds,
            "data_wait_share": min(1.0, waited / seconds),
        }

    def _next(self, batches, until_step: int) -> Any:
        try:
            return next(batches)
        except StopIteration:
            raise ValueError(
                f"the datasets ended before step {self.step}; give a batch for each step up to {until_step}"
            ) from None

    def _take_step(self, batch, describe: DescribePatches | None) -> dict[str, float]:
        results, norm, samples, gradients = self._train_step.gradients(
            share(batch, self.strategy), self._loss_scale
        )
        parts = {
            **{name: float(value) for name, value in results.items()},
            "gradient_norm": float(norm),
        }
        spoilt = [name for name, value in parts.items() if not math.isfinite(value)]
        if not spoilt:
            self._train_step.apply(gradients)
            self._after_step(taken=True)
            return parts
        overflow = self._scaled and spoilt == [
            "gradient_norm"
        ]  # the loss scale was too high, which is how it is found
        self._after_step(taken=False)
        message = self._explain(parts, spoilt, samples, describe)
        if self._skipped_in_a_row >= _SKIPPED_IN_A_ROW or not (
            overflow or self.config.non_finite == "skip"
        ):
            raise NonFiniteLoss(message)
        if not overflow:
            logging.warning("event=step_left_out %s", message)
        return {"skipped": 1.0}

    def _after_step(self, *, taken: bool) -> None:
        self._skipped_in_a_row = 0 if taken else self._skipped_in_a_row + 1
        if not self._scaled:
            return
        self._good_steps = self._good_steps + 1 if taken else 0
        if not taken:
            self._loss_scale = max(1.0, self._loss_scale / 2.0)
        elif self._good_steps == _GROW_AFTER:
            self._loss_scale, self._good_steps = self._loss_scale * 2.0, 0

    def _explain(
        self,
        parts: Mapping[str, float],
        spoilt: Sequence[str],
        samples: np.ndarray,
        describe: DescribePatches | None,
    ) -> str:
        named = [name for name in spoilt if name not in ("total", "gradient_norm")] or list(spoilt)
        slots = [int(slot) for slot in np.flatnonzero(~np.isfinite(samples))] or list(
            range(len(samples))
        )
        where = f"patches {slots}" if describe is None else describe(self.step, slots)
        return (
            f"step {self.step}: {', '.join(f'{name} is {parts[name]}' for name in named)} "
            f"at learning rate {learning_rate_at(self.step, self.config):.3g}, from {where}; no weight was changed by it. Look at these scans, "
            "or start again from the last checkpoint with a lower rate, clipped gradients, or such steps left out"
        )


class _Means:
    """Means of the parts of many steps, each over the steps that had it."""

    def __init__(self):
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, parts: Mapping[str, float]) -> None:
        for name, value in parts.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def values(self) -> dict[str, float]:
        means = {
            name: total / self._counts[name]
            for name, total in self._sums.items()
            if name != "skipped"
        }
        return {
            **means,
            **({"skipped_steps": self._sums["skipped"]} if "skipped" in self._sums else {}),
        }


def _below(prefix: str, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)
    }


def _shown(values: Mapping[str, float]) -> dict[str, str]:
    short = {
        "total": "loss",
        "cross_entropy": "ce",
        "reconstruction": "l2",
        "learning_rate": "lr",
        "patches_per_second": "patches/s",
    }
    short.update(data_wait_share="waits", gradient_norm="grad")
    return {short.get(name, name): f"{value:.3g}" for name, value in values.items()}

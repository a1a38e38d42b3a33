"""The training loop: steps over a strategy, and the state that an exact resume needs."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, get_args

import numpy as np
import tensorflow as tf
from absl import logging

from c2fnas import adam, exhausted_memory, inference, named_weights, threads, weight_vector
from c2fnas.allowed_values import CLIP_NORM, PROXIMAL_WEIGHT, VAE_RATE, NonFinite
from c2fnas.losses import LossConfig
from c2fnas.sliding_window import LogitsFn
from c2fnas.train_step import Augment, Batch, TrainStep, distribute
from runkit import progress, settings

if TYPE_CHECKING:
    from c2fnas.network import Network

# (first step, step after the last) -> one batch per step
Datasets = Callable[[int, int], tf.data.Dataset]
OnStep = Callable[[int, Mapping[str, float]], None]
# (step, slots of its batch) -> the cases from which these patches were cut
DescribePatches = Callable[[int, Sequence[int]], str]
_WEIGHTS, _OPTIMIZER = "weights/", "optimizer/"
# A corrupt scan or a high loss scale costs a few steps; after this many, the training has failed.
_SKIPPED_IN_A_ROW = 10
# The loss scale of float16 at the start, and the number of good steps after which it doubles
# (Micikevicius et al. 2018).
_LOSS_SCALE, _GROW_AFTER = 2.0**15, 2000


class NonFiniteLoss(ValueError):
    """A part of the loss, or a gradient, is infinite or NaN."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The settings that decide the numbers of a training, besides the network and the data.

    Attributes:
      batch_size: number of patches per step, over all replicas.
      total_steps: number of steps of the whole run, over which the learning rate falls.
      learning_rate, final_learning_rate: see `learning_rate_at`.
      loss: weights and options of the loss parts.
      vae_rate: share of the learning rate that applies to the VAE branch's own weights.
      clip_norm: if the norm of all gradients together is larger, they are scaled down to it; 0
        turns this off.
      non_finite: what happens at a non-finite loss or gradient: "stop" ends the training, "skip"
        skips the step.
      frozen: prefixes of canonical names of weights that do not change.
      proximal_weight: weight of FedProx's proximal term, see `proximal.ProximalTerm`; 0 for none.
      private: canonical names of weights that the proximal term leaves out, because no server sends
        them.
      seed: seed of the run.
    Raises:
      ValueError: for a value out of range.
    """

    batch_size: int
    total_steps: int
    learning_rate: float
    final_learning_rate: float
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    vae_rate: float
    clip_norm: float
    non_finite: NonFinite
    frozen: tuple[str, ...] = ()
    proximal_weight: float = 0.0
    private: frozenset[str] = frozenset()
    seed: int

    def __post_init__(self) -> None:
        settings.require(PROXIMAL_WEIGHT, "proximal_weight", self.proximal_weight)
        object.__setattr__(self, "frozen", tuple(self.frozen))
        settings.require(CLIP_NORM, "clip_norm", self.clip_norm)
        settings.require(VAE_RATE, "vae_rate", self.vae_rate)
        known = get_args(NonFinite)
        if self.non_finite not in known:
            raise ValueError(
                f"non_finite is {self.non_finite!r}; expected one of {', '.join(known)}"
            )
        for name in ("batch_size", "total_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        if not 0.0 <= self.final_learning_rate <= self.learning_rate:
            raise ValueError(
                f"final_learning_rate is {self.final_learning_rate}, "
                f"learning_rate {self.learning_rate}; expected 0 <= final <= first"
            )


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Returns the learning rate of a step from 0 to total_steps - 1.

    It follows half a cosine from learning_rate at step 0 to final_learning_rate at step
    total_steps, the one after the last. It depends only on the step, so resumed runs and federated
    rounds continue the schedule.
    """
    share = min(max(step / config.total_steps, 0.0), 1.0)
    drop = config.learning_rate - config.final_learning_rate
    return config.final_learning_rate + 0.5 * drop * (1.0 + math.cos(math.pi * share))


class Trainer:
    """One training: weights, Adam's moments and the number of steps taken.

    Args:
      network: the network to train, built inside `strategy.scope()`.
      config: settings of the whole run.
      strategy: e.g. tf.distribute.MirroredStrategy(), with any number of replicas.
      optimizer: created with its state inside `strategy.scope()`; None creates Adam.
      xla: whether XLA compiles the arithmetic of a step; GPUs only.
      augment: see `TrainStep`.
      received: a network of the same genotype for the model that the server sent, see
        `set_received`. It needs no VAE branch. It is built inside `strategy.scope()`, and only
        needed if `config.loss.missing.needs_received`.
    Raises:
      ValueError: if the batch cannot be shared equally among the replicas, or if `xla` is set
        without a GPU.
    """

    def __init__(
        self,
        network: Network,
        config: TrainingConfig,
        strategy: tf.distribute.Strategy,
        *,
        optimizer: tf.keras.optimizers.Optimizer | None = None,
        xla: bool = False,
        augment: Augment | None = None,
        received: Network | None = None,
    ):
        if xla and not tf.config.list_logical_devices("GPU"):
            raise ValueError(
                "xla is on and there is no GPU; on a CPU it loses oneDNN and makes a step about 12 "
                "times slower, so leave it off"
            )
        self.network, self.config, self.strategy = network, config, strategy
        self._received = received
        self.step = 0
        self._scaled = network.precision == "mixed_float16"
        self._loss_scale = _LOSS_SCALE if self._scaled else 1.0
        self._good_steps = self._skipped_in_a_row = 0
        vae_rate = config.vae_rate if network.vae is not None else 1.0
        with strategy.scope():
            vectors = weight_vector.vectors(network, frozen=config.frozen, vae_rate=vae_rate)
            self._optimizer = (
                adam.optimizer(config.learning_rate, network.variables, vectors=vectors)
                if optimizer is None
                else optimizer
            )
            self._train_step = TrainStep(
                network,
                self._optimizer,
                strategy,
                config.loss,
                config.batch_size,
                clip_norm=config.clip_norm,
                frozen=config.frozen,
                xla=xla,
                augment=augment,
                at_once=threads.samples_at_once(),
                received=received,
                vae_rate=vae_rate,
                proximal_weight=config.proximal_weight,
                private=config.private,
                vectors=vectors,
            )
        self._logits_fn = inference.logits_fn(network, strategy)

    def weights(self) -> dict[str, np.ndarray]:
        """Returns copies of all weights, canonical name -> float32 array."""
        return named_weights.read(self.network)

    def set_weights(
        self, arrays: Mapping[str, np.ndarray], *, reset_optimizer: bool = False
    ) -> None:
        """Sets all weights. The number of steps is kept.

        Args:
          arrays: canonical name -> array.
          reset_optimizer: whether Adam's moments are set to zero; otherwise they are kept.
        Raises:
          ValueError: as `named_weights.assign`.
        """
        named_weights.assign(self.network, arrays)
        if reset_optimizer:
            state = adam.state(self._optimizer, self.network.variables)
            zeros = {name: np.zeros_like(array) for name, array in state.items()}
            adam.assign_state(self._optimizer, self.network.variables, zeros)

    def set_received(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Keeps the model that the server sent, for a loss that depends on its logits or weights.

        It is not part of `state`, because a site has the received model when it resumes. Without a
        network for it and without a proximal term, this does nothing.

        Raises:
          ValueError: as `named_weights.assign` and `ProximalTerm.assign`.
        """
        self._train_step.set_received(arrays)
        if self._received is not None:
            own = {name: arrays[name] for name in self._received.variables if name in arrays}
            named_weights.assign(self._received, own)

    def state(self) -> dict[str, np.ndarray]:
        """Returns everything that an exact resume needs.

        Returns:
          `weights/<name>`, `optimizer/<entry>` and `step` int64 []; in mixed_float16 also
          `loss_scale/value` float32 [] and `loss_scale/good_steps` int64 [].
        """
        moments = adam.state(self._optimizer, self.network.variables)
        state = {f"{_WEIGHTS}{name}": array for name, array in self.weights().items()}
        state |= {f"{_OPTIMIZER}{name}": array for name, array in moments.items()}
        state["step"] = np.asarray(self.step, dtype=np.int64)
        if self._scaled:
            state["loss_scale/value"] = np.asarray(self._loss_scale, dtype=np.float32)
            state["loss_scale/good_steps"] = np.asarray(self._good_steps, dtype=np.int64)
        return state

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Sets what `state` returned, on this Keras stack or the other.

        Raises:
          ValueError: if entries are missing, unexpected or of another shape. Nothing changes then.
        """
        if "step" not in state:
            raise ValueError(
                "the state has no entry `step`; use one that a trainer's state() returned"
            )
        if self._scaled and "loss_scale/value" not in state:
            raise ValueError(
                "the state has no loss scale, so its training was not in mixed_float16; "
                "use the precision it was made with"
            )
        weights = _below(_WEIGHTS, state)
        named_weights.check(self.network, weights)
        adam.assign_state(self._optimizer, self.network.variables, _below(_OPTIMIZER, state))
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
        """Takes the steps from `self.step` to `until_step` - 1.

        Args:
          datasets: called once with (self.step, until_step); its n-th batch, from 0, is for step
            self.step + n.
          until_step: the number of steps that will have been taken.
          on_step: called after each step with the number of steps taken and its values: loss parts,
            gradient_norm, learning_rate, patches_per_second and data_wait_share. If the step was
            skipped, `skipped` replaces loss parts and gradient_norm.
          label: label of the progress bar.
          describe: names the cases behind slots of a step, for the message about non-finite values.
        Returns:
          The mean of each loss part and of gradient_norm over the steps taken; the learning_rate of
          the last step; patches_per_second; data_wait_share, the share of the time spent waiting
          for batches; and skipped_steps if there were any. Empty if there was no step to take.
        Raises:
          OutOfDeviceMemory: naming batch, patch and the sizes that would fit.
          NonFiniteLoss: naming step, loss part and cases; the weights are those before that step.
            With `non_finite` "skip", only after ten such steps in a row.
          ValueError: if `until_step` lies beyond the run, or the datasets end early.
        """
        if until_step > self.config.total_steps:
            raise ValueError(
                f"until_step is {until_step}, but the run has {self.config.total_steps} steps; "
                "plan more total_steps"
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
                # Assigned here, because a schedule of the optimizer would follow its own count of
                # steps, which a reset sets to 0.
                self._optimizer.learning_rate.assign(rate)
                asked = time.perf_counter()
                batch = self._next(batches, until_step)
                wait = time.perf_counter() - asked
                with exhausted_memory.explained(self._out_of_memory):
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

    def _next(self, batches: Iterator[Batch], until_step: int) -> Batch:
        try:
            return next(batches)
        except StopIteration:
            raise ValueError(
                f"the datasets ended before step {self.step}; "
                f"give a batch for each step up to {until_step}"
            ) from None

    def _take_step(self, batch: Batch, describe: DescribePatches | None) -> dict[str, float]:
        """Takes one step and returns its loss parts and gradient_norm, or `skipped`."""
        results, norm, samples, gradients = self._train_step.gradients(
            distribute(batch, self.strategy), self._loss_scale
        )
        parts = {
            **{name: float(value) for name, value in results.items()},
            "gradient_norm": float(norm),
        }
        non_finite = [name for name, value in parts.items() if not math.isfinite(value)]
        if not non_finite:
            self._train_step.apply(gradients)
            self._after_step(taken=True)
            return parts
        # The loss scale is too high; it is raised until this happens.
        overflow = self._scaled and non_finite == ["gradient_norm"]
        self._after_step(taken=False)
        message = self._explain(parts, non_finite, samples, describe)
        if self._skipped_in_a_row >= _SKIPPED_IN_A_ROW or not (
            overflow or self.config.non_finite == "skip"
        ):
            raise NonFiniteLoss(message)
        if not overflow:
            logging.warning("event=step_left_out %s", message)
        return {"skipped": 1.0}

    def _out_of_memory(self) -> str:
        return exhausted_memory.training_message(
            self.network, self.config.batch_size, self.strategy.num_replicas_in_sync, self.step
        )

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
        non_finite: Sequence[str],
        samples: np.ndarray,
        describe: DescribePatches | None,
    ) -> str:
        """Returns the message about a step with non-finite values."""
        own = [name for name in non_finite if name not in ("total", "gradient_norm")]
        named = own or list(non_finite)
        slots = [int(slot) for slot in np.flatnonzero(~np.isfinite(samples))] or list(
            range(len(samples))
        )
        where = f"patches {slots}" if describe is None else describe(self.step, slots)
        return (
            f"step {self.step}: {', '.join(f'{name} is {parts[name]}' for name in named)} "
            f"at learning rate {learning_rate_at(self.step, self.config):.3g}, from {where}; "
            "the weights are unchanged. Look at these scans, or start again from the last "
            "checkpoint with a lower rate, clip the gradients, or skip such steps"
        )


class _Means:
    """The mean of each value over the steps that have it."""

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
    """Returns the entries whose names start with a prefix, without it."""
    return {
        name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)
    }


def _shown(values: Mapping[str, float]) -> dict[str, str]:
    """Returns the values of a step as short texts for the progress bar."""
    short = {
        "total": "loss",
        "cross_entropy": "ce",
        "reconstruction": "l2",
        "learning_rate": "lr",
        "patches_per_second": "patches/s",
    }
    short.update(data_wait_share="waits", gradient_norm="grad")
    return {short.get(name, name): f"{value:.3g}" for name, value in values.items()}

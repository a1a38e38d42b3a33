"""One training step over all replicas, in two halves: the summed gradients, and their application."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from c2fnas import keras_stack, losses, sample_loop
from c2fnas.losses import LossConfig

if TYPE_CHECKING:
    from c2fnas.network import Network


Augment = Callable[
    [tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]
]  # image, label, sample_seed -> image, label


class TrainStep:
    """Compiled halves of a step. Made by `make_train_step`.

    Between the two the host sees the losses and the gradients' norm, so a step that is no number
    changes no weight.
    """

    def __init__(
        self,
        network: Network,
        optimizer: Any,
        strategy: tf.distribute.Strategy,
        loss_config: LossConfig,
        global_batch: int,
        *,
        clip_norm: float,
        frozen: tuple[str, ...],
        xla: bool,
        augment: Augment | None,
        at_once: int,
        received: Network | None,
        vae_rate: float,
    ):
        self._network, self._optimizer, self._strategy = network, optimizer, strategy
        self._received = received
        self._loss_config, self._batch, self._clip_norm = loss_config, global_batch, clip_norm
        self._augment = augment
        self._replicas = strategy.num_replicas_in_sync
        trained = {name: v for name, v in network.variables.items() if not name.startswith(frozen)}
        self._variables = list(trained.values())
        self._shares = (
            None
            if vae_rate == 1.0
            else [vae_rate if name.startswith("vae/") else 1.0 for name in trained]
        )
        self._patches = (global_batch // self._replicas, *network.patch_size)
        self._weights = {"dice": loss_config.dice, "cross_entropy": loss_config.cross_entropy}
        if network.vae is not None:
            self._weights.update(kl=loss_config.kl, reconstruction=loss_config.reconstruction)
        if loss_config.missing.has_false_alarms:
            self._weights["false_alarms"] = loss_config.false_alarms
        self._at_once = min(at_once, global_batch // self._replicas)
        local = self._local_gradients if self._at_once == 1 else self._one_by_one
        # Only the replica's own arithmetic: the sum over replicas is not XLA's.
        self._local = tf.function(local, jit_compile=True, autograph=False) if xla else local
        self._compiled_gradients = tf.function(self._all_gradients, autograph=False)
        self._compiled_apply = tf.function(self._apply_all, autograph=False)

    def __call__(self, batch: Any) -> dict[str, tf.Tensor]:
        """Takes a whole step, whatever the numbers are, and returns the loss parts."""
        parts, _, _, gradients = self.gradients(batch)
        self.apply(gradients)
        return parts

    def gradients(
        self, batch: Any, loss_scale: float = 1.0
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor, np.ndarray, Any]:
        """Returns the first half of a step; no weight changes.

        Args:
          batch: a distributed batch, see `share`.
          loss_scale: what the loss is multiplied by before float16 gradients and the gradients
              divided by after; a power of 2.
        Returns:
          Loss parts over the global batch, scalar float32: dice and cross_entropy, with a VAE
          branch kl and reconstruction, each before its weight, with evidence of absence
          false_alarms, and total, their weighted sum; the norm of all gradients together before
          they are clipped; total of each sample of this process, in the batch's order; the
          gradients, for `apply`.
        """
        per_replica = self._compiled_gradients(batch, tf.constant(loss_scale, tf.float32))
        parts, norm, samples, gradients = per_replica
        local = [part.numpy() for part in self._strategy.experimental_local_results(samples)]
        return parts, norm, np.concatenate(local), gradients

    def apply(self, gradients: Any) -> None:
        """The second half: changes the weights by what `gradients` returned."""
        self._compiled_apply(gradients)

    def _all_gradients(self, batch, loss_scale):
        parts, norm, samples, gradients = self._strategy.run(
            self._replica_gradients, args=(batch, loss_scale)
        )
        summed = {
            name: self._strategy.reduce(tf.distribute.ReduceOp.SUM, part, axis=None)
            for name, part in parts.items()
        }
        # Every replica has the same norm; as a mean it needs no choice of one of them.
        return (
            summed,
            self._strategy.reduce(tf.distribute.ReduceOp.MEAN, norm, axis=None),
            samples,
            gradients,
        )

    def _apply_all(self, gradients):
        def replica_apply(gradients):
            keras_stack.apply_summed_gradients(
                self._optimizer, gradients, self._variables, self._replicas, shares=self._shares
            )

        self._strategy.run(replica_apply, args=(gradients,))

    def _replica_gradients(self, batch, loss_scale):
        network = self._network
        # Patches travel as float16, half the bytes from the case store to the device. Another size
        # than planned is an error.
        image = tf.cast(tf.ensure_shape(batch["image"], (*self._patches, 1)), tf.float32)
        label = tf.ensure_shape(batch["label"], self._patches)
        if self._augment is not None:
            image, label = self._augment(image, label, batch["sample_seed"])
        noise = (
            None if network.vae is None else latent_noise(batch["sample_seed"], network.latent_size)
        )
        parts, samples, gradients = self._local(image, label, noise, loss_scale)
        if self._replicas > 1:
            gradients = tf.distribute.get_replica_context().all_reduce(
                tf.distribute.ReduceOp.SUM, gradients
            )
        norm = tf.linalg.global_norm(gradients)
        if self._clip_norm > 0.0:
            # Of the sum over the replicas, not of each: how many there are must not matter.
            gradients, _ = tf.clip_by_global_norm(gradients, self._clip_norm, use_norm=norm)
        return parts, norm, samples, gradients

    def _one_by_one(self, image, label, noise, loss_scale):
        """As `_local_gradients`, sample by sample."""

        def one(image, label, noise=None):
            parts, samples, gradients = self._local_gradients(image, label, noise, loss_scale)
            return (parts, gradients), samples

        scalar = tf.TensorSpec(())
        like = (
            {"total": scalar, **dict.fromkeys(self._weights, scalar)},
            [tf.TensorSpec(v.shape) for v in self._variables],
        )
        inputs = (image, label) if noise is None else (image, label, noise)
        (parts, gradients), samples = sample_loop.summed(one, inputs, like, at_once=self._at_once)
        return parts, samples, gradients

    def _local_gradients(self, image, label, noise, loss_scale):
        scaled = self._network.precision == "mixed_float16"
        # Before the tape, which would keep all that the gradient of its weights needs.
        received = (
            None if self._received is None else self._received.segmenter(image, training=False)
        )
        with tf.GradientTape() as tape:
            per_sample = self._per_sample(image, label, noise, received)
            parts = {
                name: tf.reduce_sum(values) / float(self._batch)
                for name, values in per_sample.items()
            }
            total = tf.add_n([self._weights[name] * part for name, part in parts.items()])
            target = total * loss_scale if scaled else total
        # tf variables, not Keras 3's: compiled by XLA, a function takes and captures only those.
        gradients = tape.gradient(target, [keras_stack.tf_variable(v) for v in self._variables])
        if scaled:
            gradients = [gradient / loss_scale for gradient in gradients]
        samples = tf.add_n([self._weights[name] * values for name, values in per_sample.items()])
        return {"total": total, **parts}, samples, gradients

    def _per_sample(self, image, label, noise, received) -> dict[str, tf.Tensor]:
        network, config = self._network, self._loss_config
        outputs = network.train_outputs(image, noise)
        dice, entropy = losses.dice_and_cross_entropy(
            outputs["logits"],
            label,
            include_background=config.include_background,
            missing=config.missing,
            received=received,
        )
        values = {"dice": dice, "cross_entropy": entropy}
        if network.vae is not None:
            voxels = int(np.prod(network.patch_size))
            values["kl"] = losses.kl_divergence(
                outputs["mean"], outputs["std"], voxels=voxels, kind=config.kl_kind
            )
            values["reconstruction"] = losses.reconstruction_loss(outputs["reconstruction"], image)
        if config.missing.has_false_alarms:
            values["false_alarms"] = losses.false_alarm_entropy(
                outputs["logits"], label, received, config.missing
            )
        return values


def make_train_step(
    network: Network,
    optimizer: Any,
    strategy: tf.distribute.Strategy,
    loss_config: LossConfig,
    global_batch: int,
    *,
    clip_norm: float = 0.0,
    frozen: tuple[str, ...] = (),
    xla: bool = False,
    augment: Augment | None = None,
    at_once: int = 1,
    received: Network | None = None,
    vae_rate: float = 1.0,
) -> TrainStep:
    """Returns the compiled halves of a step.

    Every loss is the sum over a replica's samples divided by the global batch, and gradients are
    summed over the replicas: the number of replicas changes neither the loss nor the gradients.
    Latent noise is a function of a sample's own seed, so it does not matter which replica a sample
    meets.

    Args:
      network: built inside `strategy.scope()`.
      optimizer: its state made inside `strategy.scope()` for the network's variables, in their
          order.
      loss_config: weights of the parts.
      global_batch: samples over all replicas.
      clip_norm: gradients whose norm, all together, is above it are scaled down to it; 0 for never.
      frozen: prefixes of canonical names; weights so named keep their values.
      xla: compile a replica's arithmetic by XLA. For GPUs: on a CPU it loses oneDNN and with it a
          factor of ten.
      augment: image float32 [b, x, y, z, 1], label [b, x, y, z] and sample_seed [b, 2] of a replica
          -> image and label; part of the graph.
      at_once: samples of a replica that are computed at the same time, each by itself; 1 computes
          all of them together, see sample_loop.py.
      received: the model that the server sent, built inside `strategy.scope()`; its weights do not
        change. Where `loss_config.missing` needs it.
      vae_rate: share of the learning rate by which the VAE branch's own weights move.
    Raises:
      ValueError: if the global batch cannot be shared equally among the replicas, if `frozen`
        leaves nothing to train, or if the received model is needed and not given.
    """
    replicas = strategy.num_replicas_in_sync
    if global_batch < 1 or global_batch % replicas:
        raise ValueError(
            f"batch_size is {global_batch} over {replicas} replicas; give a multiple of {replicas}, or use fewer devices"
        )
    if loss_config.missing.needs_received and received is None:
        raise ValueError(
            f"missing_labels is {loss_config.missing.treatment!r} and no received model is given; pass one built like the network"
        )
    if all(name.startswith(frozen) for name in network.variables):
        raise ValueError(f"frozen is {frozen}, which leaves no weight to train; freeze less")
    return TrainStep(
        network,
        optimizer,
        strategy,
        loss_config,
        global_batch,
        clip_norm=clip_norm,
        frozen=frozen,
        xla=xla,
        augment=augment,
        at_once=at_once,
        received=received,
        vae_rate=vae_rate,
    )


def share(batch: dict[str, tf.Tensor], strategy: tf.distribute.Strategy) -> Any:
    """Returns a global batch as a distributed one: the n-th replica gets the n-th equal share of
    the samples.

    By hand rather than by `experimental_distribute_dataset`: shapes stay static, and which replica
    meets a sample is plain, over several devices and over several machines.

    Args:
      batch: image float16 [b, x, y, z, 1], label uint8 [b, x, y, z], sample_seed int32 [b, 2].
      strategy: b is a multiple of its replicas.
    """

    def of_replica(context: tf.distribute.ValueContext) -> dict[str, tf.Tensor]:
        number, replicas = context.replica_id_in_sync_group, context.num_replicas_in_sync
        return {
            name: part[number * len(part) // replicas : (number + 1) * len(part) // replicas]
            for name, part in batch.items()
        }

    return strategy.experimental_distribute_values_from_function(of_replica)


def latent_noise(sample_seed: tf.Tensor, latent_size: int) -> tf.Tensor:
    """Returns standard normal float32 [b, latent_size], each row a function of its seed alone.

    Args:
      sample_seed: int32 [b, 2].
    """
    return tf.map_fn(
        lambda seed: tf.random.stateless_normal((latent_size,), seed),
        sample_seed,
        fn_output_signature=tf.TensorSpec((latent_size,)),
    )

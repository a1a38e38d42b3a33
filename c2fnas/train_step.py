"""One training step over all replicas, in two halves: summing gradients and applying them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from c2fnas import adam, gpus, keras_stack, losses, sample_loop
from c2fnas.allowed_values import PROXIMAL_WEIGHT
from c2fnas.losses import LossConfig
from c2fnas.named_weights import VAE_PREFIX
from c2fnas.proximal import ProximalTerm
from c2fnas.weight_vector import WeightVector
from runkit import settings

if TYPE_CHECKING:
    from c2fnas.network import Network

# A batch by name, on one device or distributed: image float16 [b, x, y, z, 1], label uint8
# [b, x, y, z] and sample_seed int32 [b, 2].
Batch = Mapping[str, tf.Tensor]
Gradients = Sequence[tf.Tensor]  # one per trained variable or vector of them, on every replica
# image, label, sample_seed -> image, label; see `TrainStep`
Augment = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


class TrainStep:
    """The two compiled halves of a step.

    Between the halves the host checks the losses and the norm of the gradients, so a step with a
    non-finite loss leaves the weights unchanged.

    Every loss is the sum over a replica's samples divided by the global batch, and gradients are
    summed over the replicas. The number of replicas thus affects neither loss nor gradients.
    Latent noise depends only on a sample's own seed, so it does not matter which replica gets a
    sample.

    Args:
      network: the network to train, built inside `strategy.scope()`.
      optimizer: its state must be created inside `strategy.scope()` for the network's variables, in
        their order.
      strategy: the replicas.
      loss_config: weights and options of the loss parts.
      global_batch: number of samples over all replicas.
      clip_norm: if the norm of all gradients together is larger, they are scaled down to it; 0
        turns this off.
      frozen: prefixes of canonical names of weights that do not change.
      xla: whether XLA compiles a replica's arithmetic. For GPUs only: on a CPU, a step without
        oneDNN takes ten times as long.
      augment: image float32 [b, x, y, z, 1], label [b, x, y, z] and sample_seed [b, 2] of a replica
        -> image and label; part of the graph.
      at_once: number of a replica's samples that are computed at the same time, each by itself; 1
        computes all of them together, see sample_loop.py.
      received: a network for the model that the server sent, built inside `strategy.scope()`; its
        weights do not change. Needed if `loss_config.missing.needs_received`.
      vae_rate: share of the learning rate that applies to the VAE branch's own weights.
      proximal_weight: weight of the proximal term, see `ProximalTerm`; 0 leaves it out. Give the
        received weights by `set_received` before the first step.
      private: canonical names of weights that have no received value, and so no proximal term.
      vectors: what `weight_vector.vectors` returned, if `at_once` is 1. Build an Adam that updates
        them with the same vectors.
    Raises:
      ValueError: if the global batch cannot be shared equally among the replicas, if `frozen`
        leaves nothing to train, if the received model is needed and not given, or for a proximal
        weight out of its range.
    """

    def __init__(
        self,
        network: Network,
        optimizer: tf.keras.optimizers.Optimizer,
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
        proximal_weight: float = 0.0,
        private: Collection[str] = (),
        vectors: Sequence[WeightVector] = (),
    ):
        settings.require(PROXIMAL_WEIGHT, "proximal_weight", proximal_weight)
        replicas = strategy.num_replicas_in_sync
        if global_batch < 1 or global_batch % replicas:
            raise ValueError(
                f"batch_size is {global_batch} over {replicas} replicas; "
                f"give a multiple of {replicas}, or use fewer devices"
            )
        if loss_config.missing.needs_received and received is None:
            raise ValueError(
                f"missing_labels is {loss_config.missing.treatment!r} and no received model is "
                "given; pass one built like the network"
            )
        if all(name.startswith(frozen) for name in network.variables):
            raise ValueError(f"frozen is {frozen}, which leaves no weight to train; freeze less")
        self._network, self._optimizer, self._strategy = network, optimizer, strategy
        self._received = received
        self._loss_config, self._batch, self._clip_norm = loss_config, global_batch, clip_norm
        self._augment = augment
        self._replicas = replicas
        trained = {name: v for name, v in network.variables.items() if not name.startswith(frozen)}
        self._vectors = vectors
        if vectors:
            trained = {n: trained[n] for vector in vectors for n in vector.names}
        self._names, self._variables = list(trained), list(trained.values())
        places = {name: place for place, name in enumerate(self._names)}
        self._alternatives = [
            (one, [[places[n] for n in sorted(group) if n in places] for group in one.groups])
            for one in network.alternatives
        ]
        anchored = {name: v for name, v in trained.items() if name not in private}
        self._proximal = (
            ProximalTerm(proximal_weight, anchored, self._replicas)
            if proximal_weight and anchored
            else None
        )
        self._shares = (
            None
            if vae_rate == 1.0
            else [vae_rate if name.startswith(VAE_PREFIX) else 1.0 for name in trained]
        )
        self._patches = (global_batch // self._replicas, *network.patch_size)
        self._weights = {"dice": loss_config.dice, "cross_entropy": loss_config.cross_entropy}
        if network.vae is not None:
            self._weights.update(kl=loss_config.kl, reconstruction=loss_config.reconstruction)
        if loss_config.missing.has_false_alarms:
            self._weights["false_alarms"] = loss_config.false_alarms
        self._at_once = min(at_once, global_batch // self._replicas)
        local = self._local_gradients if self._at_once == 1 else self._one_by_one
        # XLA compiles only a replica's own arithmetic, not the sum over replicas.
        self._local = tf.function(local, jit_compile=True, autograph=False) if xla else local
        self._compiled_gradients = tf.function(self._all_gradients, autograph=False)
        self._compiled_apply = tf.function(self._apply_all, autograph=False)

    def __call__(self, batch: Batch) -> dict[str, tf.Tensor]:
        """Takes a whole step without checking for non-finite values; returns the loss parts."""
        parts, _, _, gradients = self.gradients(batch)
        self.apply(gradients)
        return parts

    def gradients(
        self, batch: Batch, loss_scale: float = 1.0
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor, np.ndarray, Gradients]:
        """Computes losses and gradients, the first half of a step. The weights do not change.

        Args:
          batch: a distributed batch, see `distribute`.
          loss_scale: in mixed_float16 the loss is multiplied by this power of 2 before the
            gradients, and the gradients are divided by it afterwards.
        Returns:
          The loss parts over the global batch, scalar float32: dice and cross_entropy; with a VAE
          branch, kl and reconstruction; with evidence of absence, false_alarms (all unweighted);
          with a proximal weight, proximal, the weighted term; and total, the weighted sum;
          the norm of all gradients together before clipping, scalar float32;
          the total of each sample of this process in the order of the batch, float32 [samples];
          the gradients for `apply`.
        Raises:
          ValueError: if there is a proximal term and no model was received.
        """
        if self._proximal is not None and not self._proximal.assigned:
            raise ValueError(
                "proximal_weight is set and no model was received; call set_received before the "
                "first step, or leave the weight at 0 for a training without a server"
            )
        parts, norm, samples, gradients = self._compiled_gradients(
            batch, tf.constant(loss_scale, tf.float32)
        )
        local = [part.numpy() for part in self._strategy.experimental_local_results(samples)]
        return parts, norm, np.concatenate(local), gradients

    def apply(self, gradients: Gradients) -> None:
        """Changes the weights by the result of `gradients`, the second half of a step."""
        self._compiled_apply(gradients)

    def set_received(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Sets the reference weights of the proximal term; without the term, does nothing.

        Raises:
          ValueError: as `ProximalTerm.assign`.
        """
        if self._proximal is not None:
            self._proximal.assign(arrays)

    def _all_gradients(self, batch, loss_scale):
        parts, norm, samples, gradients = self._strategy.run(
            self._replica_gradients, args=(batch, loss_scale)
        )
        summed = {
            name: self._strategy.reduce(tf.distribute.ReduceOp.SUM, part, axis=None)
            for name, part in parts.items()
        }
        # Every replica has the same norm, and so has their mean.
        return (
            summed,
            self._strategy.reduce(tf.distribute.ReduceOp.MEAN, norm, axis=None),
            samples,
            gradients,
        )

    def _apply_all(self, gradients):
        def replica_apply(gradients):
            if self._vectors and isinstance(self._optimizer, adam.VectorAdam):
                adam.apply_vectors(self._optimizer, gradients)
                return
            adam.apply_summed_gradients(
                self._optimizer,
                self._of_weights(gradients),
                self._variables,
                self._replicas,
                shares=self._shares,
                alternatives=self._alternatives,
            )

        self._strategy.run(replica_apply, args=(gradients,))

    def _of_weights(self, gradients: Gradients) -> Gradients:
        """Returns the gradients one per weight."""
        if not self._vectors:
            return gradients
        pairs = zip(self._vectors, gradients, strict=True)
        return [part for vector, gradient in pairs for part in vector.split(gradient)]

    def _joined(self, gradients: Gradients) -> Gradients:
        """Returns the gradients one per vector."""
        rest = iter(gradients)
        return [
            vector.joined(list(itertools.islice(rest, len(vector.names))))
            for vector in self._vectors
        ]

    def _replica_gradients(self, batch, loss_scale):
        network = self._network
        # Patches arrive as float16, which halves the bytes from the case store to the device.
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
        if self._proximal is not None:
            proximal, own = self._proximal.added(self._names, self._of_weights(gradients))
            gradients = own if not self._vectors else self._joined(own)
            parts = {**parts, "total": parts["total"] + proximal, "proximal": proximal}
        norm = global_norm(gradients)
        if self._clip_norm > 0.0:
            # The sum is clipped, so that the number of replicas does not matter.
            gradients, _ = tf.clip_by_global_norm(gradients, self._clip_norm, use_norm=norm)
        return parts, norm, samples, gradients

    def _one_by_one(self, image, label, noise, loss_scale):
        """Does the same as `_local_gradients`, sample by sample."""

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
        # Outside the tape, which would keep values for gradients of the received model.
        received = (
            None if self._received is None else self._received.segmenter(image, training=False)
        )
        # TensorFlow's variables: a function compiled by XLA cannot capture those of Keras 3.
        weights = [vector.read() for vector in self._vectors] or [
            keras_stack.tf_variable(v) for v in self._variables
        ]
        with tf.GradientTape() as tape, contextlib.ExitStack() as stack:
            for vector, values in zip(self._vectors, weights, strict=False):
                tape.watch(values)
                stack.enter_context(vector.in_use(values, image.shape[0]))
            per_sample = self._per_sample(image, label, noise, received)
            parts = {
                name: tf.reduce_sum(values) / float(self._batch)
                for name, values in per_sample.items()
            }
            total = tf.add_n([self._weights[name] * part for name, part in parts.items()])
            target = total * loss_scale if scaled else total
        gradients = tape.gradient(target, weights)
        if scaled:
            gradients = [gradient / loss_scale for gradient in gradients]
        samples = tf.add_n([self._weights[name] * values for name, values in per_sample.items()])
        return {"total": total, **parts}, samples, gradients

    def _per_sample(
        self,
        image: tf.Tensor,
        label: tf.Tensor,
        noise: tf.Tensor | None,
        received: tf.Tensor | None,
    ) -> dict[str, tf.Tensor]:
        """Returns the loss parts, each float32 [b]."""
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


def global_norm(gradients: Gradients) -> tf.Tensor:
    """Returns the norm of all gradients together, scalar float32.

    On a GPU it is one sum over all gradients, concatenated in memory, instead of one sum for each:
    starting an operation takes longer there than adding up a weight's gradient.
    """
    if not gpus.is_used():
        return tf.linalg.global_norm(gradients)
    together = tf.concat([tf.reshape(gradient, [-1]) for gradient in gradients], axis=0)
    return tf.sqrt(2.0 * tf.nn.l2_loss(together))


def distribute(batch: Batch, strategy: tf.distribute.Strategy) -> Batch:
    """Distributes a global batch: the n-th replica gets the n-th equal share of the samples.

    Unlike `experimental_distribute_dataset`, this keeps shapes static, and it is well defined which
    replica gets which sample, across several devices and several machines.

    Args:
      batch: image float16 [b, x, y, z, 1], label uint8 [b, x, y, z], sample_seed int32 [b, 2].
      strategy: the replicas; b is a multiple of their number.
    """

    def of_replica(context: tf.distribute.ValueContext) -> dict[str, tf.Tensor]:
        number, replicas = context.replica_id_in_sync_group, context.num_replicas_in_sync
        return {
            name: part[number * len(part) // replicas : (number + 1) * len(part) // replicas]
            for name, part in batch.items()
        }

    return strategy.experimental_distribute_values_from_function(of_replica)


def latent_noise(sample_seed: tf.Tensor, latent_size: int) -> tf.Tensor:
    """Returns standard normal noise; each row depends only on its seed.

    Args:
      sample_seed: int32 [b, 2].
      latent_size: number of values per sample.
    Returns:
      float32 [b, latent_size].
    """
    return tf.map_fn(
        lambda seed: tf.random.stateless_normal((latent_size,), seed),
        sample_seed,
        fn_output_signature=tf.TensorSpec((latent_size,)),
    )

"""One training step over all replicas."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from c2fnas import losses
from c2fnas.losses import LossConfig

if TYPE_CHECKING:
    from c2fnas.network import Network


def make_train_step(
    network: Network, optimizer: Any, strategy: tf.distribute.Strategy, loss_config: LossConfig, global_batch: int
) -> Callable[[Any], dict[str, tf.Tensor]]:
    """Returns a compiled function that takes one step.

    Every loss is the sum over a replica's samples divided by the global batch, and gradients are summed over the replicas:
    the number of replicas changes neither the loss nor the gradients. Latent noise is a function of a sample's own seed, so
    it does not matter which replica a sample meets.

    Args:
      network: built inside `strategy.scope()`.
      optimizer: its state made inside `strategy.scope()` for the network's variables, in their order.
      loss_config: weights of the parts.
      global_batch: samples over all replicas.
    Returns:
      distributed batch (see `share`) -> dict of scalar float32 over the global batch: dice and cross_entropy, with a VAE branch kl and reconstruction, each
      before its weight, and total, their weighted sum.
    Raises:
      ValueError: if the global batch cannot be shared equally among the replicas.
    """
    replicas = strategy.num_replicas_in_sync
    if global_batch < 1 or global_batch % replicas:
        raise ValueError(f"batch_size is {global_batch} over {replicas} replicas; give a multiple of {replicas}, or use fewer devices")
    patches = (global_batch // replicas, *network.patch_size)
    variables = list(network.variables.values())
    voxels = int(np.prod(network.patch_size))
    weights = {"dice": loss_config.dice, "cross_entropy": loss_config.cross_entropy}
    if network.vae is not None:
        weights.update(kl=loss_config.kl, reconstruction=loss_config.reconstruction)

    def loss_parts(batch) -> dict[str, tf.Tensor]:
        # Patches travel as float16, half the bytes from the case store to the device. Another size than planned is an error.
        image = tf.cast(tf.ensure_shape(batch["image"], (*patches, 1)), tf.float32)
        label = tf.ensure_shape(batch["label"], patches)
        noise = None if network.vae is None else latent_noise(batch["sample_seed"], network.latent_size)
        outputs = network.train_outputs(image, noise)
        per_sample = {
            "dice": losses.soft_dice_loss(outputs["logits"], label, include_background=loss_config.include_background),
            "cross_entropy": losses.cross_entropy(outputs["logits"], label),
        }
        if network.vae is not None:
            per_sample["kl"] = losses.kl_divergence(outputs["mean"], outputs["std"], voxels=voxels, kind=loss_config.kl_kind)
            per_sample["reconstruction"] = losses.reconstruction_loss(outputs["reconstruction"], image)
        parts = {name: tf.reduce_sum(values) / float(global_batch) for name, values in per_sample.items()}
        return {"total": tf.add_n([weights[name] * part for name, part in parts.items()]), **parts}

    def replica_step(batch) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            parts = loss_parts(batch)
        gradients = tape.gradient(parts["total"], variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))  # sums them over the replicas first
        return parts

    @tf.function(autograph=False)
    def step(batch):
        per_replica = strategy.run(replica_step, args=(batch,))
        return {name: strategy.reduce(tf.distribute.ReduceOp.SUM, part, axis=None) for name, part in per_replica.items()}

    return step


def share(batch: dict[str, tf.Tensor], strategy: tf.distribute.Strategy) -> Any:
    """Returns a global batch as a distributed one: the n-th replica gets the n-th equal share of the samples.

    By hand rather than by `experimental_distribute_dataset`: shapes stay static, and which replica meets a sample is plain.

    Args:
      batch: image float16 [b, x, y, z, 1], label uint8 [b, x, y, z], sample_seed int32 [b, 2].
      strategy: b is a multiple of its replicas.
    """

    def of_replica(context: tf.distribute.ValueContext) -> dict[str, tf.Tensor]:
        number, replicas = context.replica_id_in_sync_group, context.num_replicas_in_sync
        return {name: part[number * len(part) // replicas : (number + 1) * len(part) // replicas] for name, part in batch.items()}

    return strategy.experimental_distribute_values_from_function(of_replica)


def latent_noise(sample_seed: tf.Tensor, latent_size: int) -> tf.Tensor:
    """Returns standard normal float32 [b, latent_size], each row a function of its seed alone.

    Args:
      sample_seed: int32 [b, 2].
    """
    return tf.map_fn(
        lambda seed: tf.random.stateless_normal((latent_size,), seed), sample_seed, fn_output_signature=tf.TensorSpec((latent_size,))
    )

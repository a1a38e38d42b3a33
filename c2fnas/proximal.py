"""The proximal term of FedProx, which keeps a site's training close to the model it received."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from c2fnas import keras_stack, variable_values
from c2fnas.keras_stack import Variable


class ProximalTerm:
    """weight / 2 * ||w - received||^2 over named weights, and its gradient weight * (w - received).

    Create it inside `strategy.scope()`; it holds one more copy of these weights. The gradient is
    that closed form, so it needs no tape.

    Args:
      weight: the paper's mu, above 0.
      variables: canonical name -> each weight that is trained and has a received value.
      replicas: number of replicas, each of which adds its share of the value.
    Attributes:
      assigned: whether received weights were assigned; before that the term must not be used.
    Source: Li et al. 2020, Federated Optimization in Heterogeneous Networks (arXiv 1812.06127).
    """

    def __init__(self, weight: float, variables: Mapping[str, Variable], replicas: int):
        self._weight, self._replicas = weight, replicas
        self._variables = dict(variables)
        self._received = {
            name: tf.Variable(tf.zeros(variable.shape, tf.float32), trainable=False)
            for name, variable in self._variables.items()
        }
        self.assigned = False

    def assign(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Sets the received weights; other names in `arrays` are ignored.

        Raises:
          ValueError: for a missing name or another shape. Nothing is assigned then.
        """
        for name, variable in self._received.items():
            if name not in arrays or np.shape(arrays[name]) != tuple(variable.shape):
                raise ValueError(
                    f"the received model has no {name} of shape {tuple(variable.shape)}; "
                    "use weights made for the same genotype, filters, patch and VAE branch"
                )
        variable_values.assign(
            list(self._received.values()),
            [np.asarray(arrays[name], np.float32) for name in self._received],
        )
        self.assigned = True

    def added(
        self, names: Sequence[str], gradients: Sequence[tf.Tensor]
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Adds the term's gradient. Call it on every replica, after the sum over the replicas.

        Args:
          names: canonical name of each gradient; those without a received value are unchanged.
          gradients: summed over the replicas, one per name.
        Returns:
          This replica's share of the term, scalar float32, and the gradients.
        """
        total, result = tf.zeros(()), []
        for name, gradient in zip(names, gradients, strict=True):
            if name in self._received:
                weights = tf.convert_to_tensor(keras_stack.tf_variable(self._variables[name]))
                away = weights - tf.convert_to_tensor(self._received[name])
                total += tf.nn.l2_loss(away)  # half the sum of squares
                gradient = gradient + self._weight * away
            result.append(gradient)
        return total * (self._weight / self._replicas), result

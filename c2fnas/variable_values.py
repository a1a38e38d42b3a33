"""Reads and sets the values of many variables.

Keras and a distribution strategy take a third of a millisecond for each read and each assignment,
which is as long as a training step for the several hundred variables of a small network and its
optimizer. The operations themselves take a tenth of that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf

from c2fnas import keras_stack
from c2fnas.keras_stack import Variable


def read(variables: Iterable[Variable | tf.Variable]) -> list[np.ndarray]:
    """Returns a copy of each variable's value, in its own type; of replicas, that of the first."""
    found = []
    for variable in variables:
        first = _replicas(variable)[0]
        found.append(np.array(tf.raw_ops.ReadVariableOp(resource=first.handle, dtype=first.dtype)))
    return found


def assign(variables: Sequence[Variable | tf.Variable], values: Sequence[np.ndarray]) -> None:
    """Sets the value of each variable on all its replicas.

    Raises:
      ValueError: if a value has another shape than its variable; variables before it are then set.
    """
    for variable, value in zip(variables, values, strict=True):
        if tuple(value.shape) != tuple(variable.shape):
            raise ValueError(
                f"the value has shape {tuple(value.shape)}, its variable {tuple(variable.shape)}"
            )
        for replica in _replicas(variable):
            tf.raw_ops.AssignVariableOp(
                resource=replica.handle, value=tf.constant(value, replica.dtype)
            )


def _replicas(variable: Variable | tf.Variable) -> Sequence[tf.Variable]:
    """Returns the variables of all replicas in this process."""
    own = variable if isinstance(variable, tf.Variable) else keras_stack.tf_variable(variable)
    return own.values if isinstance(own, tf.distribute.DistributedValues) else (own,)

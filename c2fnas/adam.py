"""Adam's update and its state, the same on both Keras stacks.

The update is one TensorFlow operation per weight. Keras itself uses some twenty small operations,
so a step of a network with 150 weights would start three thousand more than it needs. On a GPU it
is one operation for all weights of a `WeightVector`, whose moments then are vectors, too.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from c2fnas import keras_stack, named_weights, variable_values
from c2fnas.keras_stack import Variable
from c2fnas.weight_vector import WeightVector


@dataclasses.dataclass(frozen=True, eq=False)
class Alternatives:
    """Groups of weights of which each step uses one, such as the operations of a supernet's cell.

    A step changes only the weights and moments of that group, and corrects the moments' bias by the
    number of steps that the group has taken.

    Attributes:
      groups: the canonical names of each group's weights.
      choice: returns the number of this step's group, integer [].
      counts: int64 [groups], the number of steps that each group has taken.
    """

    groups: tuple[frozenset[str], ...]
    choice: Callable[[], tf.Tensor]
    counts: tf.Variable


class VectorAdam(tf.keras.optimizers.Adam):
    """Adam whose moments for the weights of each vector are one vector, see `optimizer`."""

    vectors: tuple[WeightVector, ...]
    copies: tuple[Variable, ...]  # the weights of each vector, during an update


def optimizer(
    learning_rate: float,
    variables: Mapping[str, Variable],
    *,
    vectors: Sequence[WeightVector] = (),
) -> tf.keras.optimizers.Optimizer:
    """Returns Adam (beta 0.9 and 0.999, epsilon 1e-7) with its moments for named variables.

    Call it inside `strategy.scope()` before the first step: Keras 3 cannot create the moments
    inside a traced `strategy.run`.

    Args:
      learning_rate: at the first step.
      variables: canonical name -> variable.
      vectors: weights among them that `apply_vectors` will update.
    Source: Kingma and Ba 2015.
    """
    if not vectors:
        adam = tf.keras.optimizers.Adam(learning_rate=learning_rate)
        adam.build(list(variables.values()))
        return adam
    together = VectorAdam(learning_rate=learning_rate)
    copies = [
        keras_stack.make_variable([sum(vector.sizes)], f"weights{number}")
        for number, vector in enumerate(vectors)
    ]
    inside = {name for vector in vectors for name in vector.names}
    together.build([*copies, *(own for name, own in variables.items() if name not in inside)])
    together.vectors, together.copies = tuple(vectors), tuple(copies)
    return together


def apply_summed_gradients(
    optimizer: tf.keras.optimizers.Optimizer,
    gradients: Sequence[tf.Tensor],
    variables: Sequence[Variable],
    replicas: int,
    *,
    shares: Sequence[float] | None = None,
    alternatives: Sequence[tuple[Alternatives, Sequence[Sequence[int]]]] = (),
) -> None:
    """Takes one optimizer step with gradients that are already summed over the replicas.

    Call it on every replica, with the same gradients.

    Args:
      optimizer: Adam, or any other Keras optimizer, whose own update is then used.
      gradients: one per variable, in the same order.
      replicas: number of replicas.
      shares: factors of the learning rate, one per variable; None applies the full rate to all.
      alternatives: each with the positions of its groups' variables in `variables`.
    Raises:
      ValueError: if `shares` or `alternatives` are given for another optimizer than Adam.
    """
    if isinstance(optimizer, tf.keras.optimizers.Adam):
        rates = [1.0] * len(variables) if shares is None else shares
        _apply(optimizer, gradients, variables, rates, alternatives)
    elif alternatives:
        raise ValueError(
            f"{type(optimizer).__name__} cannot leave out the weights of other paths; use Adam"
        )
    elif shares is not None:
        raise ValueError(
            f"{type(optimizer).__name__} cannot give some weights another learning rate; use Adam"
        )
    else:
        keras_stack.apply_summed_gradients(optimizer, gradients, variables, replicas)


def apply_vectors(adam: VectorAdam, gradients: Sequence[tf.Tensor]) -> None:
    """Takes one step with a gradient for each vector of `adam`, already summed over the replicas.

    Call it on every replica, with the same gradients. On a device that computes each value by
    itself, the weights get the same bits as from `apply_summed_gradients`.
    """
    rate = tf.cast(tf.convert_to_tensor(adam.learning_rate), tf.float32)
    step = tf.cast(tf.convert_to_tensor(adam.iterations), tf.float32) + 1.0
    for vector, copy, gradient in zip(adam.vectors, adam.copies, gradients, strict=True):
        weights = keras_stack.tf_variable(copy).handle
        tf.raw_ops.AssignVariableOp(resource=weights, value=vector.read())
        share = rate if vector.share == 1.0 else rate * vector.share
        _change(adam, copy, keras_stack.slot(adam, copy), gradient, share, _powers(adam, step))
        changed = tf.raw_ops.ReadVariableOp(resource=weights, dtype=tf.float32)
        for variable, part in zip(vector.variables, vector.split(changed), strict=True):
            handle = keras_stack.tf_variable(variable).handle
            tf.raw_ops.AssignVariableOp(resource=handle, value=part)
    adam.iterations.assign_add(1)


def _powers(adam: tf.keras.optimizers.Optimizer, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the powers of both betas, float32 []."""
    return tf.pow(adam.beta_1, count), tf.pow(adam.beta_2, count)


def _change(
    adam: tf.keras.optimizers.Optimizer,
    variable: Variable,
    slot: int,
    gradient: tf.Tensor,
    rate: tf.Tensor,
    powers: tuple[tf.Tensor, tf.Tensor],
) -> None:
    """Changes a variable and its moments with one operation."""
    tf.raw_ops.ResourceApplyAdam(
        var=keras_stack.tf_variable(variable).handle,
        m=keras_stack.tf_variable(adam._momentums[slot]).handle,
        v=keras_stack.tf_variable(adam._velocities[slot]).handle,
        beta1_power=powers[0],
        beta2_power=powers[1],
        lr=rate,
        beta1=adam.beta_1,
        beta2=adam.beta_2,
        epsilon=adam.epsilon,
        grad=gradient,
    )


def _apply(
    adam: tf.keras.optimizers.Optimizer,
    gradients: Sequence[tf.Tensor],
    variables: Sequence[Variable],
    shares: Sequence[float],
    alternatives: Sequence[tuple[Alternatives, Sequence[Sequence[int]]]],
) -> None:
    rate = tf.cast(tf.convert_to_tensor(adam.learning_rate), tf.float32)

    def update(places: Sequence[int], count: tf.Tensor) -> tf.Tensor:
        powers = _powers(adam, count)
        for place in places:
            variable = variables[place]
            share = rate if shares[place] == 1.0 else rate * shares[place]
            slot = keras_stack.slot(adam, variable)
            _change(adam, variable, slot, gradients[place], share, powers)
        return count

    others = {place for _, groups in alternatives for group in groups for place in group}
    step = tf.cast(tf.convert_to_tensor(adam.iterations), tf.float32) + 1.0
    update([place for place in range(len(variables)) if place not in others], step)
    for alternative, groups in alternatives:
        choice = tf.cast(alternative.choice(), tf.int32)
        count = tf.cast(tf.gather(alternative.counts, choice), tf.float32) + 1.0
        tf.switch_case(choice, [functools.partial(update, group, count) for group in groups])
        # outside the branches, because replicas cannot synchronise inside them
        alternative.counts.assign_add(tf.one_hot(choice, len(groups), dtype=tf.int64))
    adam.iterations.assign_add(1)


def state(
    optimizer: tf.keras.optimizers.Optimizer, variables: Mapping[str, Variable]
) -> dict[str, np.ndarray]:
    """Returns Adam's state by canonical name.

    Returns:
      `iterations` int64 [], and for every variable `<name>/m` and `<name>/v`, the first and second
      moment, float32 of the variable's shape.
    """
    found = {"iterations": np.asarray(optimizer.iterations.numpy(), dtype=np.int64)}
    places, moments = _places(optimizer, variables), _moments(optimizer)
    for name, variable in variables.items():
        for entry, values in moments.items():
            slot, part = places[name]
            flat = values[slot].reshape(-1)[part]
            found[f"{name}/{entry}"] = flat.reshape(tuple(variable.shape)).copy()
    return found


def assign_state(
    optimizer: tf.keras.optimizers.Optimizer,
    variables: Mapping[str, Variable],
    state: Mapping[str, np.ndarray],
) -> None:
    """Sets what `state` returned, on this Keras stack or the other.

    Raises:
      ValueError: if entries are missing, unexpected or of another shape. Nothing is assigned then.
    """
    expected = {
        "iterations": (),
        **{f"{name}/{entry}": tuple(v.shape) for name, v in variables.items() for entry in "mv"},
    }
    problems = named_weights.differences(state, expected)
    if problems:
        raise ValueError(
            f"optimizer state does not fit this network: {problems}; "
            "use the state of a training with the same genotype and VAE branch"
        )
    places, moments = _places(optimizer, variables), _moments(optimizer)
    for name, (slot, part) in places.items():
        for entry, values in moments.items():
            values[slot].reshape(-1)[part] = np.ravel(state[f"{name}/{entry}"])
    for own, values in zip(_variables(optimizer).values(), moments.values(), strict=True):
        variable_values.assign(own, values)
    optimizer.iterations.assign(np.asarray(state["iterations"], dtype=np.int64))


def _variables(optimizer: tf.keras.optimizers.Optimizer) -> dict[str, Sequence[Variable]]:
    return {"m": optimizer._momentums, "v": optimizer._velocities}


def _moments(optimizer: tf.keras.optimizers.Optimizer) -> dict[str, list[np.ndarray]]:
    """Returns copies of the first moments, `m`, and second ones, `v`, as the optimizer has them."""
    return {entry: variable_values.read(own) for entry, own in _variables(optimizer).items()}


def _places(
    optimizer: tf.keras.optimizers.Optimizer, variables: Mapping[str, Variable]
) -> dict[str, tuple[int, slice]]:
    """Returns canonical name -> (number of its moments, their part of these as one axis)."""
    found: dict[str, tuple[int, slice]] = {}
    vectors = optimizer.vectors if isinstance(optimizer, VectorAdam) else ()
    for number, vector in enumerate(vectors):
        ends = np.cumsum(vector.sizes).tolist()
        for name, size, end in zip(vector.names, vector.sizes, ends, strict=True):
            found[name] = number, slice(end - size, end)
    # Both stacks keep the moments as lists in the order of the variables that `optimizer` above
    # gave to build().
    others = (name for name in variables if name not in found)
    return {
        **found,
        **{name: (slot, slice(None)) for slot, name in enumerate(list(others), len(vectors))},
    }

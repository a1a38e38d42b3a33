"""Adam's update and its state, the same on both Keras stacks.

The update is one TensorFlow operation per weight. Keras itself uses some twenty small operations,
so a step of a network with 150 weights would start three thousand more than it needs.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from c2fnas import keras_stack
from c2fnas.keras_stack import Variable


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


def optimizer(
    learning_rate: float, variables: Mapping[str, Variable]
) -> tf.keras.optimizers.Optimizer:
    """Returns Adam (beta 0.9 and 0.999, epsilon 1e-7) with its moments for named variables.

    Call it inside `strategy.scope()` before the first step: Keras 3 cannot create the moments
    inside a traced `strategy.run`.
    Source: Kingma and Ba 2015.
    """
    adam = tf.keras.optimizers.Adam(learning_rate=learning_rate)
    adam.build(list(variables.values()))
    return adam


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


def _apply(
    adam: tf.keras.optimizers.Optimizer,
    gradients: Sequence[tf.Tensor],
    variables: Sequence[Variable],
    shares: Sequence[float],
    alternatives: Sequence[tuple[Alternatives, Sequence[Sequence[int]]]],
) -> None:
    rate = tf.cast(tf.convert_to_tensor(adam.learning_rate), tf.float32)

    def update(places: Sequence[int], count: tf.Tensor) -> tf.Tensor:
        first_power, second_power = tf.pow(adam.beta_1, count), tf.pow(adam.beta_2, count)
        for place in places:
            slot = keras_stack.slot(adam, variables[place])
            tf.raw_ops.ResourceApplyAdam(
                var=keras_stack.tf_variable(variables[place]).handle,
                m=keras_stack.tf_variable(adam._momentums[slot]).handle,
                v=keras_stack.tf_variable(adam._velocities[slot]).handle,
                beta1_power=first_power,
                beta2_power=second_power,
                lr=rate if shares[place] == 1.0 else rate * shares[place],
                beta1=adam.beta_1,
                beta2=adam.beta_2,
                epsilon=adam.epsilon,
                grad=gradients[place],
            )
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
    for name, moment, velocity in _moments(optimizer, variables):
        found[f"{name}/m"] = np.asarray(moment.numpy(), dtype=np.float32)
        found[f"{name}/v"] = np.asarray(velocity.numpy(), dtype=np.float32)
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
    slots = {"iterations": optimizer.iterations}
    for name, moment, velocity in _moments(optimizer, variables):
        slots[f"{name}/m"], slots[f"{name}/v"] = moment, velocity
    missing, unexpected = sorted(slots.keys() - state.keys()), sorted(state.keys() - slots.keys())
    shapes = [
        f"{name} is {tuple(np.shape(state[name]))}, expected {tuple(slot.shape)}"
        for name, slot in slots.items()
        if name in state and tuple(np.shape(state[name])) != tuple(slot.shape)
    ]
    if missing or unexpected or shapes:
        raise ValueError(
            f"optimizer state does not fit this network: missing {missing[:4]}, "
            f"unexpected {unexpected[:4]}, shapes {shapes[:4]}; "
            "use the state of a training with the same genotype and VAE branch"
        )
    for name, slot in slots.items():
        slot.assign(np.asarray(state[name], dtype=np.int64 if name == "iterations" else np.float32))


def _moments(
    optimizer: tf.keras.optimizers.Optimizer, variables: Mapping[str, Variable]
) -> Iterator[tuple[str, Variable, Variable]]:
    # Both stacks keep the moments as lists in the order of the variables that `optimizer` above
    # gave to build().
    return zip(variables, optimizer._momentums, optimizer._velocities, strict=True)

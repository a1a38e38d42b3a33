"""The differences between Keras 2 (TensorFlow 2.15 with tensorflow-addons) and Keras 3.

Both stacks normalise with weights `gamma` and `beta` [channels] and the same epsilon, and both keep
Adam's moments in the order of the variables. Each stack can therefore use the weights and optimizer
states of the other.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, get_args

import numpy as np
import tensorflow as tf

from c2fnas.allowed_values import InstanceNorm, Precision
from c2fnas.normalisation import instance_normalise

IS_KERAS_3 = hasattr(tf.keras, "ops")
EPSILON = 1e-5  # added to the variance in every norm


_LibraryNorm: Any  # an untyped class, from a different library on each stack
_LIBRARY_SETTINGS: dict[str, float]
if IS_KERAS_3:
    _LibraryNorm = tf.keras.layers.GroupNormalization
    _LIBRARY_SETTINGS = {"groups": -1, "epsilon": EPSILON}
else:
    with warnings.catch_warnings():
        # Every import warns that its development has ended, so only this stack uses it.
        warnings.simplefilter("ignore", UserWarning)
        import tensorflow_addons as tfa

    _LibraryNorm = tfa.layers.InstanceNormalization
    _LIBRARY_SETTINGS = {"epsilon": EPSILON}


class Variable(Protocol):
    """A weight: a tf.Variable on Keras 2, a keras.Variable on Keras 3."""

    @property
    def shape(self) -> Sequence[int]: ...

    def numpy(self) -> np.ndarray: ...

    def assign(self, value: np.ndarray) -> object: ...


@tf.keras.utils.register_keras_serializable(package="c2fnas")
class LibraryInstanceNormalization(_LibraryNorm):
    """The library's own instance norm.

    On Keras 2 it is that of tensorflow-addons, on Keras 3 a group norm with one channel per group.
    Normalises every channel of every sample over x, y, z: float [b, x, y, z, c] in and out.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**{**_LIBRARY_SETTINGS, **kwargs})

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        # Keras 3's build() replaces groups=-1 by the number of channels; a copy needs the -1.
        return {**super().get_config(), **({"groups": -1} if IS_KERAS_3 else {})}


@tf.keras.utils.register_keras_serializable(package="c2fnas")
class InstanceNormalization(LibraryInstanceNormalization):
    """The instance norm computed by normalisation.py, with the same weights and values.

    float [b, x, y, z, c] in and out. Statistics, gamma and beta are float32 whatever the type of
    the voxels.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**{"autocast": False, **kwargs})

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return instance_normalise(
            inputs,
            tf.convert_to_tensor(self.gamma),
            tf.convert_to_tensor(self.beta),
            epsilon=self.epsilon,
        )


def instance_norm(name: str, kind: str = "rows") -> LibraryInstanceNormalization:
    """Returns an instance norm over x, y and z with epsilon 1e-5.

    Its weights are gamma, 1 at the start, and beta, 0 at the start, both [channels].

    Args:
      name: name of the layer.
      kind: "rows" for the arithmetic of normalisation.py, which is faster and on a large grid a
        hundred times more accurate, or "library" for the library's own.
    Raises:
      ValueError: for any other kind.
    """
    known = get_args(InstanceNorm)
    if kind not in known:
        raise ValueError(f"instance_norm is {kind!r}; expected one of {', '.join(known)}")
    return (
        InstanceNormalization(name=name)
        if kind == "rows"
        else LibraryInstanceNormalization(name=name, dtype="float32")
    )


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """Sets the precision of the layers that are made inside this context.

    Args:
      name: "float32", "mixed_bfloat16" or "mixed_float16"; weights are float32 in all of them.
    Raises:
      ValueError: for any other name.
    """
    known = get_args(Precision)
    if name not in known:
        raise ValueError(f"precision is {name!r}; expected one of {', '.join(known)}")
    policies = tf.keras.mixed_precision
    before = policies.dtype_policy() if IS_KERAS_3 else policies.global_policy()
    choose = policies.set_dtype_policy if IS_KERAS_3 else policies.set_global_policy
    choose(name)
    try:
        yield
    finally:
        choose(before)


@contextlib.contextmanager
def shapes_without_tracing() -> Iterator[None]:
    """Takes the shape of a layer's output from its `compute_output_shape`, as Keras 3 always does.

    When a layer is called on a `keras.Input`, Keras 2 runs it in a graph that it throws away. That
    takes nine tenths of the time in which a network is built. Inside this context only layers
    without a `compute_output_shape` of their own are still run.
    """
    if IS_KERAS_3:
        yield
        return
    base = tf.keras.layers.Layer
    traced = base._infer_output_signature

    def told(layer, inputs, args, kwargs, input_masks):
        if type(layer).compute_output_shape is base.compute_output_shape:
            return traced(layer, inputs, args, kwargs, input_masks)
        with tf.name_scope(layer._name_scope()):
            layer._maybe_build(inputs)
        shape = layer.compute_output_shape(tf.nest.map_structure(lambda one: one.shape, inputs))
        first = tf.nest.flatten(inputs)[0]
        dtype = layer.compute_dtype if layer._autocast else first.dtype
        return type(first)(tf.TensorSpec(shape, dtype))

    base._infer_output_signature = told
    try:
        yield
    finally:
        base._infer_output_signature = traced


def tf_variable(variable: Variable) -> tf.Variable:
    """Returns the TensorFlow variable behind a weight."""
    return variable.value if IS_KERAS_3 else variable  # type: ignore[attr-defined]  # Keras 3's


@contextlib.contextmanager
def replaced(layer: tf.keras.layers.Layer, attribute: str, tensor: tf.Tensor) -> Iterator[None]:
    """Makes a layer compute with a tensor in place of one of its variables.

    Keras itself is not told, or it would record the tensor as a part of the layer.

    Args:
      layer: a layer that was built.
      attribute: name of the variable, e.g. "kernel".
      tensor: what the layer's `call` takes for it, already in the type that it computes in.
    """
    attributes = vars(layer)
    if attribute not in attributes:  # a property of Keras 3
        attribute = f"_{attribute}"
    before = attributes[attribute]
    attributes[attribute] = tensor
    try:
        yield
    finally:
        attributes[attribute] = before


def make_variable(shape: Sequence[int], name: str) -> Variable:
    """Returns a variable of zeros, float32, for which an optimizer can keep moments."""
    zeros = np.zeros(shape, np.float32)
    return tf.keras.Variable(zeros, name=name) if IS_KERAS_3 else tf.Variable(zeros, name=name)


def slot(optimizer: tf.keras.optimizers.Optimizer, variable: Variable) -> int:
    """Returns the index of a variable in the optimizer's lists of moments."""
    if IS_KERAS_3:
        return optimizer._get_variable_index(variable)
    return optimizer._index_dict[optimizer._var_key(variable)]


def apply_summed_gradients(
    optimizer: tf.keras.optimizers.Optimizer,
    gradients: Sequence[tf.Tensor],
    variables: Sequence[Variable],
    replicas: int,
) -> None:
    """Calls the library's own update with gradients that are already summed over the replicas.

    Call it on every replica, with the same gradients.
    """
    if IS_KERAS_3:
        # Keras 3 always sums over the replicas; the sum of equal shares is the gradient again. The
        # division also gives each gradient this replica's device, which that sum needs and the
        # arguments of a function do not have.
        gradients = [gradient / float(replicas) for gradient in gradients]
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
    else:
        optimizer.apply_gradients(
            zip(gradients, variables, strict=True), skip_gradients_aggregation=True
        )

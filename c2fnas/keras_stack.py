"""Every difference between Keras 2 (TensorFlow 2.15 with tensorflow-addons) and Keras 3, and
nothing else.

Both stacks normalise with weights `gamma` and `beta` [channels] and the same epsilon, and both keep
Adam's moments in the order of the variables, so weights and optimizer states of one stack work with
the other.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from c2fnas.normalisation import instance_normalise

keras = tf.keras
IS_KERAS_3 = hasattr(keras, "ops")
EPSILON = 1e-5  # of every norm

NORMS = ("rows", "library")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")

if IS_KERAS_3:
    _LibraryNorm = keras.layers.GroupNormalization
    _LIBRARY_SETTINGS = {"groups": -1, "epsilon": EPSILON}
else:
    with warnings.catch_warnings():
        # At every import it says that its development has ended: known, and the reason why it is on
        # this stack only.
        warnings.simplefilter("ignore", UserWarning)
        import tensorflow_addons as tfa

    _LibraryNorm = tfa.layers.InstanceNormalization
    _LIBRARY_SETTINGS = {"epsilon": EPSILON}


@keras.utils.register_keras_serializable(package="c2fnas")
class LibraryInstanceNormalization(_LibraryNorm):
    """The library's own instance norm: tensorflow-addons', on Keras 3 a group norm of one channel a
    group.

    Normalises every channel of every sample over x, y, z: float [b, x, y, z, c] in and out.
    """

    def __init__(self, **kwargs):
        super().__init__(**{**_LIBRARY_SETTINGS, **kwargs})

    def get_config(self):
        # Keras 3's build() replaces groups=-1 by the number of channels; the argument it was given
        # is what a copy needs.
        return {**super().get_config(), **({"groups": -1} if IS_KERAS_3 else {})}


@keras.utils.register_keras_serializable(package="c2fnas")
class InstanceNormalization(LibraryInstanceNormalization):
    """The same weights and values by our own arithmetic, see normalisation.py: float [b, x, y, z,
    c] in and out.

    Statistics, gamma and beta stay float32 whatever the voxels are.
    """

    def __init__(self, **kwargs):
        super().__init__(**{"autocast": False, **kwargs})

    def call(self, inputs):
        return instance_normalise(
            inputs,
            tf.convert_to_tensor(self.gamma),
            tf.convert_to_tensor(self.beta),
            epsilon=self.epsilon,
        )


def instance_norm(name: str, kind: str = "rows") -> Any:
    """Returns an instance norm over x, y, z with weights gamma (1 at the start) and beta (0),
    epsilon 1e-5.

    Args:
      name: of the layer.
      kind: "rows", our own arithmetic (the default: faster, and on a large grid a hundred times
          more accurate), or "library".
    Raises:
      ValueError: for another kind.
    """
    if kind not in NORMS:
        raise ValueError(f"instance_norm is {kind!r}; expected one of {', '.join(NORMS)}")
    return (
        InstanceNormalization(name=name)
        if kind == "rows"
        else LibraryInstanceNormalization(name=name, dtype="float32")
    )


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """Layers made inside compute as `name` says: "float32", or "mixed_bfloat16" / "mixed_float16"
    with float32 weights.

    Raises:
      ValueError: for another name.
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision is {name!r}; expected one of {', '.join(PRECISIONS)}")
    before = (
        keras.mixed_precision.dtype_policy()
        if IS_KERAS_3
        else keras.mixed_precision.global_policy()
    )
    choose = (
        keras.mixed_precision.set_dtype_policy
        if IS_KERAS_3
        else keras.mixed_precision.set_global_policy
    )
    choose(name)
    try:
        yield
    finally:
        choose(before)


def stack_name() -> str:
    """Returns the versions that decide the numbers, e.g. 'tensorflow 2.21.0, keras 3.15.1, numpy
    2.3.1'.
    """
    packages = (
        ["tensorflow", "keras", "numpy"]
        if IS_KERAS_3
        else ["tensorflow", "keras", "tensorflow-addons", "numpy"]
    )
    return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)


def set_up(seed: int, threads: int, deterministic: bool = True, *, samples: int = 1) -> None:
    """Fixes what a process must fix before TensorFlow computes anything: threads, seeds,
    deterministic kernels.

    Args:
      seed: of Keras, NumPy and Python; nothing in this package depends on it.
      threads: worker threads between operations, shared among the samples that are computed at the
        same time: as many threads work on one operation as there are for each sample. The results
        depend on it.
      deterministic: the same bits in every process on this machine and stack.
      samples: how many there are to compute at the same time, e.g. the batch size; see
          `samples_at_once`.
    Raises:
      RuntimeError: if TensorFlow has computed already, since threads can no longer be set then.
      ValueError: if `threads` is below 1.
    """
    if threads < 1:
        raise ValueError(f"threads is {threads}; expected at least 1")
    wanted = (threads // max(1, min(samples, threads)), threads)
    try:
        tf.config.threading.set_intra_op_parallelism_threads(wanted[0])
        tf.config.threading.set_inter_op_parallelism_threads(wanted[1])
    except RuntimeError as error:
        if _threads() != wanted:
            raise RuntimeError(
                f"TensorFlow already computes with (intra, inter) threads {_threads()} (0 is its own choice), asked for {wanted}; "
                "call set_up before anything else uses TensorFlow"
            ) from error
    keras.utils.set_random_seed(seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()


def samples_at_once() -> int:
    """Returns how many samples this process computes at the same time, each by itself: what
    `set_up` left threads for; 1 with a GPU.
    """
    within, between = _threads()
    if not within or not between or tf.config.list_logical_devices("GPU"):
        return 1
    return between // within


def _threads() -> tuple[int, int]:
    return (
        tf.config.threading.get_intra_op_parallelism_threads(),
        tf.config.threading.get_inter_op_parallelism_threads(),
    )


def optimizer(learning_rate: float, variables: Mapping[str, Any]) -> Any:
    """Returns Adam (0.9, 0.999, 1e-7) for named variables, with its moments already made.

    Keras 3 cannot make them inside a traced `strategy.run`, so call this inside `strategy.scope()`
    before the first step.
    """
    adam = keras.optimizers.Adam(learning_rate=learning_rate)
    adam.build(list(variables.values()))
    return adam


def apply_summed_gradients(
    optimizer: Any,
    gradients: Sequence[tf.Tensor],
    variables: Sequence[Any],
    replicas: int,
    *,
    shares: Sequence[float] | None = None,
) -> None:
    """Changes variables by gradients that are the sum over the replicas already. Called on every
    replica, with the same gradients.

    Args:
      shares: of the learning rate, one for each variable; only Adam can be given them. None: the
          whole rate for all.

    Adam's arithmetic is TensorFlow's own operation, one for each weight: as some twenty small ones,
    as Keras has it, the step of a network of 150 weights starts three thousand operations more than
    it needs.
    """
    if isinstance(optimizer, keras.optimizers.Adam):
        _apply_adam(
            optimizer, gradients, variables, [1.0] * len(variables) if shares is None else shares
        )
    elif shares is not None:
        raise ValueError(
            f"{type(optimizer).__name__} cannot have another rate for some weights; use Adam"
        )
    elif IS_KERAS_3:
        # It sums over the replicas itself and cannot be told not to; of equal ones a share each
        # sums to what they were. And as arguments of a function they have no device, which that sum
        # asks for; the division gives them this replica's.
        gradients = [gradient / float(replicas) for gradient in gradients]
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
    else:
        optimizer.apply_gradients(
            zip(gradients, variables, strict=True), skip_gradients_aggregation=True
        )


def _apply_adam(
    adam: Any, gradients: Sequence[tf.Tensor], variables: Sequence[Any], shares: Sequence[float]
) -> None:
    taken = tf.cast(tf.convert_to_tensor(adam.iterations), tf.float32) + 1.0
    rate = tf.cast(tf.convert_to_tensor(adam.learning_rate), tf.float32)
    first_power, second_power = tf.pow(adam.beta_1, taken), tf.pow(adam.beta_2, taken)
    for variable, gradient, share in zip(variables, gradients, shares, strict=True):
        slot = (
            adam._get_variable_index(variable)
            if IS_KERAS_3
            else adam._index_dict[adam._var_key(variable)]
        )
        tf.raw_ops.ResourceApplyAdam(
            var=tf_variable(variable).handle,
            m=tf_variable(adam._momentums[slot]).handle,
            v=tf_variable(adam._velocities[slot]).handle,
            beta1_power=first_power,
            beta2_power=second_power,
            lr=rate if share == 1.0 else rate * share,
            beta1=adam.beta_1,
            beta2=adam.beta_2,
            epsilon=adam.epsilon,
            grad=gradient,
        )
    adam.iterations.assign_add(1)


def tf_variable(variable: Any) -> tf.Variable:
    """Returns the TensorFlow variable behind a weight."""
    return variable.value if IS_KERAS_3 else variable


def optimizer_state(optimizer: Any, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns Adam's state by canonical name: `iterations` int64 [], `<name>/m` and `<name>/v`
    float32.
    """
    state = {"iterations": np.asarray(optimizer.iterations.numpy(), dtype=np.int64)}
    for name, moment, velocity in _moments(optimizer, variables):
        state[f"{name}/m"] = np.asarray(moment.numpy(), dtype=np.float32)
        state[f"{name}/v"] = np.asarray(velocity.numpy(), dtype=np.float32)
    return state


def assign_optimizer_state(
    optimizer: Any, variables: Mapping[str, Any], state: Mapping[str, np.ndarray]
) -> None:
    """Sets what `optimizer_state` returned, on this stack or the other.

    Raises:
      ValueError: if entries are missing, unexpected or of another shape; nothing is assigned then.
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
            f"optimizer state does not fit this network: missing {missing[:4]}, unexpected {unexpected[:4]}, shapes {shapes[:4]}; "
            "use the state of a training with the same genotype and VAE branch"
        )
    for name, slot in slots.items():
        slot.assign(np.asarray(state[name], dtype=np.int64 if name == "iterations" else np.float32))


def _moments(optimizer: Any, variables: Mapping[str, Any]):
    # Both stacks keep the moments as lists in the order of the variables given to build(), which
    # `optimizer` above fixes.
    return zip(variables, optimizer._momentums, optimizer._velocities, strict=True)

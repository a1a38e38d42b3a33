"""Weights under canonical names: the same names, shapes and initial values on both Keras stacks.

Names are recorded while the network is built from the genotype, e.g. `cell06/input0/op/kernel`, and
never parsed from Keras names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from runkit import atomic, printable, randomness

if TYPE_CHECKING:
    import safetensors

    from c2fnas.keras_stack import Variable
    from c2fnas.network import Network

VAE_PREFIX = "vae/"  # prefix of the canonical names of the VAE branch's weights
_SHOWN = 6  # names in a message
_Layer = TypeVar("_Layer")


class NamedLayers:
    """Layers under canonical names, in the order in which they are built.

    Several layers may share a name if their weights have different names.

    Attributes:
      instance_norm: kind of instance norm that the network uses, see `keras_stack.instance_norm`.
    """

    _WEIGHTS = ("kernel", "bias", "gamma", "beta")

    def __init__(self, instance_norm: str = "rows"):
        self.instance_norm = instance_norm
        self._entries: list[tuple[str, object]] = []

    def add(self, name: str, layer: _Layer) -> _Layer:
        """Records a layer under a canonical name and returns it."""
        self._entries.append((name, layer))
        return layer

    def variables(self) -> dict[str, Variable]:
        """Returns canonical name -> variable. The layers must have been built.

        Raises:
          ValueError: if two variables have the same name.
        """
        return {
            name: getattr(layer, attribute) for name, (layer, attribute) in self.owners().items()
        }

    def owners(self) -> dict[str, tuple[Any, str]]:
        """Returns canonical name -> (layer, its attribute with the variable), as `variables`."""
        found: dict[str, tuple[Any, str]] = {}
        for name, layer in self._entries:
            for weight in self._WEIGHTS:
                if getattr(layer, weight, None) is None:
                    continue
                if f"{name}/{weight}" in found:
                    raise ValueError(
                        f"two variables are named {name}/{weight}; "
                        "give their layers different names"
                    )
                found[f"{name}/{weight}"] = (layer, weight)
        return found


def without_vae(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays without those of the VAE branch, which changes no logit."""
    return {name: array for name, array in arrays.items() if not name.startswith(VAE_PREFIX)}


def specs(network: Network) -> dict[str, tuple[tuple[int, ...], str]]:
    """Returns canonical name -> (shape, "float32") of every weight."""
    return {
        name: (tuple(int(n) for n in variable.shape), "float32")
        for name, variable in network.variables.items()
    }


def read(network: Network) -> dict[str, np.ndarray]:
    """Returns copies of all weights, canonical name -> float32 array."""
    from c2fnas import variable_values  # here, because a server has no TensorFlow

    values = variable_values.read(network.variables.values())
    return dict(zip(network.variables, values, strict=True))


def assign(network: Network, arrays: Mapping[str, np.ndarray]) -> None:
    """Sets every weight.

    Raises:
      ValueError: as `check`. Nothing is assigned then.
    """
    from c2fnas import variable_values

    check(network, arrays)
    variable_values.assign(
        list(network.variables.values()),
        [np.asarray(arrays[name], dtype=np.float32) for name in network.variables],
    )


def check(network: Network, arrays: Mapping[str, np.ndarray]) -> None:
    """Checks that `arrays` has exactly the names and shapes of the network's weights.

    Raises:
      ValueError: naming the weights that are missing, unexpected or of another shape.
    """
    problems = differences(arrays, {name: shape for name, (shape, _) in specs(network).items()})
    if problems:
        raise ValueError(
            f"weights do not fit network {network.genotype.name!r} with "
            f"{network.genotype.filters} filters and vae={network.vae!r}: {problems}. "
            "Use weights made for the same genotype, filters, patch and VAE branch"
        )


def differences(arrays: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]) -> str:
    """Returns which arrays are missing, unexpected or of another shape; "" for none.

    Args:
      arrays: name -> array.
      expected: name -> shape.
    """
    problems = {
        "missing": [name for name in expected if name not in arrays],
        "unexpected": [name for name in arrays if name not in expected],
        "other shapes:": [
            f"{name} is {np.shape(arrays[name])}, expected {shape}"
            for name, shape in expected.items()
            if name in arrays and np.shape(arrays[name]) != shape
        ],
    }
    return "; ".join(
        f"{what} {printable.some(names, _SHOWN)}" for what, names in problems.items() if names
    )


def initial(network: Network, seed: int) -> dict[str, np.ndarray]:
    """Returns the initial values, canonical name -> float32 array.

    They depend only on seed, name and shape, so both Keras stacks start with the same bits. Kernels
    are Glorot uniform, gamma is 1, beta and biases are 0. With a class prior, the classifier's bias
    is its logarithm.
    """
    arrays = {}
    for name, (shape, _) in specs(network).items():
        kind = name.rsplit("/", 1)[1]
        if kind == "kernel":
            arrays[name] = _glorot_uniform(seed, name, shape)
        elif name == "end/classifier/bias" and network.class_prior is not None:
            prior = np.asarray(network.class_prior, dtype=np.float64)
            arrays[name] = np.log(prior / prior.sum()).astype(np.float32)
        else:
            arrays[name] = np.full(shape, 1.0 if kind == "gamma" else 0.0, dtype=np.float32)
    return arrays


def _glorot_uniform(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    receptive = int(np.prod(shape[:-2], dtype=np.int64))
    limit = np.sqrt(6.0 / (receptive * (shape[-2] + shape[-1])))
    # Raw counter output, scaled by hand: NumPy keeps these bits the same in every version, but not
    # those of its distributions.
    raw = randomness.generator(seed, "initial weights", name).bit_generator.random_raw(
        int(np.prod(shape, dtype=np.int64))
    )
    unit = (raw >> np.uint64(40)).astype(np.float64) / 2.0**24
    return ((2.0 * unit - 1.0) * limit).astype(np.float32).reshape(shape)


def save(
    path: str | os.PathLike,
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes named arrays as one safetensors file, whole or not at all.

    Raises:
      OSError: if the system cannot write it, e.g. to a full disk.
    """
    import safetensors  # not in the base installation, which only reads what describes a model
    import safetensors.numpy

    # not ascontiguousarray, which would add an axis to a scalar
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    with atomic.replacing(path) as temporary:
        try:
            safetensors.numpy.save_file(contiguous, temporary, metadata=dict(metadata or {}))
        except safetensors.SafetensorError as error:  # only its text holds the system's error
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            needed = sum(array.nbytes for array in contiguous.values())
            raise OSError(
                int(number[1]),
                f"{os.strerror(int(number[1]))}; it takes {needed / 1e6:.1f} MB",
                os.fspath(path),
            ) from error


def load(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns (named arrays, metadata) of a safetensors file.

    Raises:
      ValueError: naming the file, if it is missing, truncated or of another kind.
      OSError: if the system cannot open it (too many open files, no permission). The file itself
        may be intact, so callers must not fall back to another file.
    """
    import safetensors

    try:
        with opened(path) as stream:
            names = stream.keys()
            return {name: stream.get_tensor(name) for name in names}, dict(stream.metadata() or {})
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file; give the path of saved weights") from error
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path}: not a readable safetensors file ({error}); give the path of saved weights"
        ) from error


def opened(path: str | os.PathLike) -> safetensors.safe_open:
    """Opens a safetensors file.

    safetensors reports any failure to open a file as a missing file. The plain `open` here raises
    the system's own error. If it succeeds, the cause is gone, and the file can be opened now.

    Raises:
      OSError: if the system cannot open the file.
      safetensors.SafetensorError: if it is truncated or of another kind, or cannot be mapped into
        memory.
    """
    import safetensors

    try:
        return safetensors.safe_open(path, framework="numpy")
    except OSError:
        with open(path, "rb"):
            pass
    try:
        return safetensors.safe_open(path, framework="numpy")
    except OSError as error:
        raise safetensors.SafetensorError(str(error)) from error

"""A training on disk: weights, Adam's moments, step and what belongs to them, in one file that is replaced as a whole."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from c2fnas import keras_stack, named_weights

if TYPE_CHECKING:
    from c2fnas.training import Trainer

FILE_NAME = "checkpoint.safetensors"


def save(folder: str | os.PathLike, trainer: Trainer, extra: Mapping[str, Any]) -> pathlib.Path:
    """Writes the trainer's state to `folder`/checkpoint.safetensors and returns that path.

    Args:
      folder: made where it is missing.
      trainer: whose weights, moments and step are kept, with its genotype and configuration.
      extra: JSON-able; given back by `load`.
    """
    path = pathlib.Path(folder) / FILE_NAME
    metadata = {**_identity(trainer), "extra": dict(extra), "stack": keras_stack.stack_name()}
    named_weights.save(path, trainer.state(), {name: json.dumps(value, allow_nan=False) for name, value in metadata.items()})
    return path


def load(folder: str | os.PathLike, trainer: Trainer) -> dict[str, Any] | None:
    """Restores the trainer and returns what `save` was given as extra; None where there is no checkpoint.

    A checkpoint of one Keras stack continues on the other, there without equal bits.

    Raises:
      ValueError: naming the file, if it cannot be read, or if it belongs to another genotype, patch, VAE branch or training
        configuration: then every difference is listed, and the trainer is as before.
    """
    path = pathlib.Path(folder) / FILE_NAME
    if not path.exists():
        return None
    try:
        state, metadata = named_weights.load(path)
    except ValueError as error:
        raise ValueError(f"{path}: the checkpoint cannot be read ({error.__cause__}); remove it to start this training again") from error
    if not metadata.keys() >= {"genotype", "network", "training", "extra"}:
        raise ValueError(f"{path}: not a checkpoint of a training; remove it, or give another folder")
    identity = _identity(trainer)
    differences = list(_differences({name: json.loads(metadata[name]) for name in identity}, identity))
    if differences:
        raise ValueError(
            f"{path} belongs to another training: {'; '.join(differences)}. Give it another folder, or the settings it was started with"
        )
    try:
        trainer.restore(state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return json.loads(metadata["extra"])


def _identity(trainer: Trainer) -> dict[str, Any]:
    """Returns, JSON-able, what two trainings must share for one to go on with the state of the other."""
    network = trainer.network
    prior = network.class_prior
    return {
        "genotype": network.genotype.to_json(),
        "network": {
            "patch_size": list(network.patch_size),
            "vae": network.vae,
            "latent_size": network.latent_size,
            "class_prior": None if prior is None else list(prior),
        },
        "training": dataclasses.asdict(trainer.config),
    }


def _differences(saved: Any, present: Any, where: str = "") -> Iterator[str]:
    if isinstance(saved, dict) and isinstance(present, dict):
        for name in sorted(saved.keys() | present.keys()):
            yield from _differences(saved.get(name, "absent"), present.get(name, "absent"), f"{where}.{name}" if where else name)
    elif isinstance(saved, list) and isinstance(present, list) and len(saved) == len(present) and where.endswith("cells"):
        for number, (one, other) in enumerate(zip(saved, present, strict=True), start=1):
            yield from _differences(one, other, f"{where}[{number}]")
    elif saved != present:
        yield f"{where} is {saved!r} in the checkpoint, {present!r} here"

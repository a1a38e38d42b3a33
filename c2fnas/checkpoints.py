"""A training on disk: weights, Adam's moments, step and what belongs to them, in one file that is
replaced as a whole.

<folder>/checkpoint.safetensors          the newest
<folder>/earlier_<step>.safetensors      those before it, as many as `keep` says less one
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import safetensors
from absl import logging

from c2fnas import keras_stack, named_weights
from runkit import atomic, private

if TYPE_CHECKING:
    from c2fnas.losses import LossConfig
    from c2fnas.training import Trainer, TrainingConfig

FILE_NAME = "checkpoint.safetensors"
_EARLIER = "earlier_"


def save(
    folder: str | os.PathLike, trainer: Trainer, extra: Mapping[str, Any], *, keep: int = 1
) -> pathlib.Path:
    """Writes the trainer's state to `folder`/checkpoint.safetensors and returns that path.

    Args:
      folder: made where it is missing; other accounts cannot read what it holds.
      trainer: whose weights, moments and step are kept, with its genotype and configuration.
      extra: JSON-able; given back by `load`.
      keep: how many checkpoints stay, this one included.
    Raises:
      OSError: if it cannot be written, e.g. to a full disk; the checkpoints that were there still
          are.
    """
    path = pathlib.Path(folder) / FILE_NAME
    metadata = {
        **_identity(trainer),
        "extra": dict(extra),
        "step": trainer.step,
        "stack": keras_stack.stack_name(),
    }
    texts = {name: json.dumps(value, allow_nan=False) for name, value in metadata.items()}
    state = trainer.state()
    try:
        private.folder(path.parent)
        if keep > 1:
            _set_aside(path)
        named_weights.save(path, state, texts)
    except (OSError, safetensors.SafetensorError) as error:
        needed = sum(array.nbytes for array in state.values())
        free = shutil.disk_usage(path.parent).free if path.parent.exists() else 0
        raise OSError(
            getattr(error, "errno", None) or errno.EIO,
            f"checkpoint of step {trainer.step} not written ({error}): it takes {needed / 1e6:.1f} MB, {free / 1e6:.1f} MB are free. The "
            "checkpoints that were there still are: make room and start again with the same command",
            str(path),
        ) from error
    for old in _earlier(path.parent)[max(0, keep - 1) :]:
        old.unlink(missing_ok=True)
    return path


def load(folder: str | os.PathLike, trainer: Trainer) -> dict[str, Any] | None:
    """Restores the trainer and returns what `save` was given as extra; None where there is no
    checkpoint.

    A checkpoint of one Keras stack continues on the other, there without equal bits. Where the
    newest cannot be read (a failing disk: a kill cannot do that), the one before it is taken and a
    warning says so; training from there gives the same numbers again.

    Raises:
      ValueError: naming the file, if none can be read, or if it belongs to another genotype, patch,
        VAE branch or training configuration: then every difference is listed, and the trainer is as
        before.
    """
    path = pathlib.Path(folder) / FILE_NAME
    candidates = [*([path] if path.exists() else []), *_earlier(path.parent)]
    failures: list[tuple[pathlib.Path, ValueError]] = []
    for candidate in candidates:
        try:
            state, metadata = named_weights.load(candidate)
        except ValueError as error:
            failures.append((candidate, error))
            continue
        for failed, error in failures:
            logging.warning(
                "event=checkpoint_unreadable file=%s cause=%s taken=%s",
                failed,
                error.__cause__,
                candidate,
            )
        return _restore(candidate, state, metadata, trainer)
    if failures:
        failed, error = failures[0]
        raise ValueError(
            f"{failed}: the checkpoint cannot be read ({error.__cause__}); remove it to start this training again"
        ) from error
    return None


def _restore(
    path: pathlib.Path, state: Mapping[str, Any], metadata: Mapping[str, str], trainer: Trainer
) -> dict[str, Any]:
    if not metadata.keys() >= {"genotype", "network", "training", "extra"}:
        raise ValueError(
            f"{path}: not a checkpoint of a training; remove it, or give another folder"
        )
    identity = _identity(trainer)
    different = differences({name: json.loads(metadata[name]) for name in identity}, identity)
    if different:
        raise ValueError(
            f"{path} belongs to another training: {'; '.join(different)}. Give it another folder, or the settings it was started with"
        )
    try:
        trainer.restore(state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return json.loads(metadata["extra"])


def _set_aside(path: pathlib.Path) -> None:
    """Gives the newest checkpoint a second name by its step; `path` itself stays until it is
    replaced.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as stream:
            step = int((stream.metadata() or {}).get("step", "0"))
    except (OSError, safetensors.SafetensorError):
        return  # there is none, or it cannot be read: nothing worth a second name
    name = path.with_name(f"{_EARLIER}{step:08d}.safetensors")
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError:  # a file system without hard links
        with atomic.replacing(name) as copy:
            shutil.copyfile(path, copy)


def _earlier(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the checkpoints before the newest, the latest first."""
    return sorted(folder.glob(f"{_EARLIER}*.safetensors"), reverse=True)


def _identity(trainer: Trainer) -> dict[str, Any]:
    """Returns, JSON-able, what two trainings must share for one to go on with the state of the
    other.
    """
    network = trainer.network
    prior = network.class_prior
    return {
        "genotype": network.genotype.to_json(),
        "network": {
            "patch_size": list(network.patch_size),
            "vae": network.vae,
            "latent_size": network.latent_size,
            "class_prior": None if prior is None else list(prior),
            "precision": network.precision,
        },
        "training": _training(trainer.config),
    }


def _training(config: TrainingConfig) -> dict[str, Any]:
    """As it was before the branch could have a rate of its own where it has none: earlier
    checkpoints go on.
    """
    described = {
        **dataclasses.asdict(config),
        "frozen": list(config.frozen),
        "loss": _loss(config.loss),
    }
    if config.vae_rate == 1.0:
        del described["vae_rate"]
    return described


def _loss(config: LossConfig) -> dict[str, Any]:
    """A loss in which no class is missing is described as it was before there could be one: earlier
    checkpoints go on.
    """
    described = {
        name: value
        for name, value in dataclasses.asdict(config).items()
        if name not in ("missing", "false_alarms")
    }
    missing = config.missing
    if missing.classes and missing.treatment != "background":
        described["missing"] = {**dataclasses.asdict(missing), "classes": list(missing.classes)}
        described["false_alarms"] = config.false_alarms
    return described


def differences(
    saved: Any, present: Any, where: str = "", *, there: str = "the checkpoint"
) -> list[str]:
    """Returns one text for each entry in which two JSON values differ, e.g. "genotype.cells[3].op
    is 'conv2d' in the checkpoint, ...".
    """
    if isinstance(saved, dict) and isinstance(present, dict):
        pairs = [
            (f"{where}.{name}" if where else name, name)
            for name in sorted(saved.keys() | present.keys())
        ]
        parts = [
            differences(saved.get(name, "absent"), present.get(name, "absent"), place, there=there)
            for place, name in pairs
        ]
    elif (
        isinstance(saved, list)
        and isinstance(present, list)
        and len(saved) == len(present)
        and where.endswith("cells")
    ):
        pairs = enumerate(zip(saved, present, strict=True), start=1)
        parts = [
            differences(one, other, f"{where}[{number}]", there=there)
            for number, (one, other) in pairs
        ]
    else:
        parts = [[f"{where} is {saved!r} in {there}, {present!r} here"]] if saved != present else []
    return [text for part in parts for text in part]

"""Checkpoints: weights, Adam's moments, step and settings of a training in one file.

<folder>/checkpoint.safetensors          the newest checkpoint, replaced as a whole
<folder>/earlier_<step>.safetensors      up to `keep` - 1 earlier ones
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

import numpy as np
import safetensors
from absl import logging

from c2fnas import named_weights
from runkit import atomic, formats, nested, private, release

if TYPE_CHECKING:
    from c2fnas.losses import LossConfig
    from c2fnas.training import Trainer, TrainingConfig

FORMAT = 1  # raise it when earlier releases can no longer read a new checkpoint
FILE_NAME = "checkpoint.safetensors"
_EARLIER = "earlier_"


def save(
    folder: str | os.PathLike, trainer: Trainer, extra: Mapping[str, Any], *, keep: int = 1
) -> pathlib.Path:
    """Writes the trainer's state to `folder`/checkpoint.safetensors and returns that path.

    Args:
      folder: created if it is missing; other accounts cannot read its files.
      trainer: its weights, moments, step, genotype and configuration are saved.
      extra: JSON values that `load` returns.
      keep: number of checkpoints to keep, including this one.
    Raises:
      OSError: if the file cannot be written, e.g. to a full disk. Earlier checkpoints are kept.
    """
    path = pathlib.Path(folder) / FILE_NAME
    metadata = {
        "format": FORMAT,
        **_identity(trainer),
        "extra": dict(extra),
        "step": trainer.step,
        "stack": release.stack(),
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
            f"the checkpoint of step {trainer.step} could not be written ({error}): "
            f"it needs {needed / 1e6:.1f} MB, and {free / 1e6:.1f} MB are free. "
            "Earlier checkpoints are kept: make room and run the same command again to resume",
            str(path),
        ) from error
    for old in _earlier(path.parent)[max(0, keep - 1) :]:
        old.unlink(missing_ok=True)
    return path


def load(folder: str | os.PathLike, trainer: Trainer) -> dict[str, Any] | None:
    """Restores the trainer and returns the `extra` of `save`; None if there is no checkpoint.

    A checkpoint of one Keras stack can be resumed on the other, but not bit for bit. If the newest
    cannot be read, the one before it is loaded with a warning, and training from there gives the
    same numbers again. Only a failing disk can cause this, not a kill.

    Raises:
      ValueError: if no checkpoint can be read, if a newer release wrote it, or if it belongs to
        another genotype, patch, VAE branch or training configuration. The message names the file
        and every difference, and the trainer is left unchanged.
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
        for unreadable, cause in failures:
            logging.warning(
                "event=checkpoint_unreadable file=%s cause=%s taken=%s",
                unreadable,
                cause.__cause__,
                candidate,
            )
        return _restore(candidate, state, metadata, trainer)
    if failures:
        unreadable, cause = failures[0]
        raise ValueError(
            f"{unreadable}: the checkpoint cannot be read ({cause.__cause__}); "
            "remove it to start this training again"
        ) from cause
    return None


def _restore(
    path: pathlib.Path,
    state: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    trainer: Trainer,
) -> dict[str, Any]:
    if not metadata.keys() >= {"genotype", "network", "training", "extra"}:
        raise ValueError(
            f"{path}: not a checkpoint of a training; remove it, or give another folder"
        )
    formats.refuse_newer(path, metadata.get("format"), FORMAT)
    identity = _identity(trainer)
    different = differences({name: json.loads(metadata[name]) for name in identity}, identity)
    if different:
        raise ValueError(
            f"{path} belongs to another training: {'; '.join(different)}. "
            "Give another folder, or the settings that it was started with"
        )
    try:
        trainer.restore(state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return json.loads(metadata["extra"])


def _set_aside(path: pathlib.Path) -> None:
    """Gives the newest checkpoint a second name with its step, and keeps `path` itself."""
    try:
        with named_weights.opened(path) as stream:
            step = int((stream.metadata() or {}).get("step", "0"))
    except (OSError, safetensors.SafetensorError):
        return  # there is none, or it cannot be read and is not worth keeping
    name = path.with_name(f"{_EARLIER}{step:08d}.safetensors")
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError:  # a file system without hard links
        with atomic.replacing(name) as copy:
            shutil.copyfile(path, copy)


def _earlier(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the earlier checkpoints, the one written last first.

    The time decides, not the step: a federated training goes back to an earlier step if the
    server's operator discards rounds.
    """
    return sorted(
        folder.glob(f"{_EARLIER}*.safetensors"),
        key=lambda path: (path.stat().st_mtime_ns, path.name),
        reverse=True,
    )


def _identity(trainer: Trainer) -> dict[str, Any]:
    """Returns the JSON values that must be equal for one training to resume another's state."""
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
    """Returns the configuration as JSON values.

    Settings added later are left out if they have their defaults, so that checkpoints of releases
    without them can still be opened.
    """
    described = {
        **dataclasses.asdict(config),
        "frozen": list(config.frozen),
        "private": sorted(config.private),
        "loss": _loss(config.loss),
    }
    defaults = {"vae_rate": 1.0, "proximal_weight": 0.0, "private": []}
    return {n: value for n, value in described.items() if n not in defaults or value != defaults[n]}


def _loss(config: LossConfig) -> dict[str, Any]:
    """Returns the configuration of the loss as JSON values.

    Missing labels are left out if they do not change the loss, so that checkpoints of releases
    without them can still be opened.
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
    """Returns one text per entry in which two JSON values differ.

    For example "genotype.cells[3].op is 'conv2d' in the checkpoint, 'conv3d' here".

    Args:
      saved, present: the values to compare.
      where: path of the values, for the texts.
      there: the origin of the saved value, for the texts.
    """
    return [
        f"{path} is {one!r} in {there}, {other!r} here"
        for path, one, other in nested.differences(
            saved, present, where, absent="absent", numbered="cells"
        )
    ]

"""The models of an evaluation without training: model folders in, files for the server out.

The server sends only weights. All models of one evaluation therefore share the network, preparation
and sliding window that the sites' flags name; how each was trained does not matter. Needs neither
TensorFlow nor any other package that only sites install.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from c2fnas import model_folder, named_weights
from c2fnas.model_folder import Model
from experiments.configuration import evaluation_plan
from experiments.results import model_names
from federated.rounds import plan as plans
from federated.rounds.tasks import MODEL_NAME
from federated.tensors import tensor_files

_SHOWN = 6  # differences in one message


@dataclasses.dataclass(frozen=True)
class Files:
    """The files for `federated.server.serve.serve`: an initial model for the plan, and the models.

    Attributes:
      gated: models whose folders hold a healthy gate, which is not sent.
      private: model -> the site whose private arrays it holds; these are sent with it.
    """

    initial: pathlib.Path
    models: Mapping[str, pathlib.Path]
    gated: tuple[str, ...] = ()
    private: Mapping[str, str] = dataclasses.field(default_factory=dict)


def find(entries: Sequence[str]) -> dict[str, pathlib.Path]:
    """Returns name -> model folder for entries `folder` or `name:folder`, in their order.

    Raises:
      ValueError: naming the entry that is not a model, or whose name cannot be used.
    """
    found: dict[str, pathlib.Path] = {}
    for entry in entries:
        if not entry.removesuffix(":"):
            raise ValueError(
                f"--models has the entry {entry!r}, which names no folder; give model folders, as "
                "folder or name:folder, separated by single commas"
            )
        name, separator, rest = entry.partition(":")
        named = bool(separator) and not os.path.isdir(entry)
        if named and not rest:
            raise ValueError(f"--models has {entry!r}, a name without a folder; give name:folder")
        folder = pathlib.Path(rest if named else entry)
        name = name if named else model_folder.describe(folder).name
        if (
            not MODEL_NAME.fullmatch(name)
            or model_names.candidate_of(name) is not None
            or name.endswith(model_names.GATED)
        ):
            raise ValueError(
                f"{folder}: its model cannot be called {name!r} in an evaluation; give another "
                "name, as name:folder, of letters, digits, '_' and '-', at most 64, that ends "
                f"neither in {model_names.GATED} nor in _FL_local_r and a number"
            )
        if name in found:
            raise ValueError(
                f"{folder} and {found[name]} both hold a model called {name}; give at least one "
                "of them another name, as name:folder"
            )
        found[name] = folder
    return found


def write(
    folders: Mapping[str, pathlib.Path], plan: Mapping[str, Any], into: str | os.PathLike
) -> Files:
    """Writes what the sites receive: each model's weights without its VAE branch.

    Args:
      folders: name -> model folder.
      plan: the plan of the evaluation, see `configuration.plan`.
      into: folder to write to; the bytes depend only on the models.
    Raises:
      ValueError: naming the model that does not fit the plan or has a weight that is not finite.
    """
    into, models, gated, private = pathlib.Path(into), {}, [], {}
    for name, folder in folders.items():
        model = model_folder.describe(folder)
        _check_plan(folder, model, plan)
        weights, _ = tensor_files.load(model_folder.weights_file(folder))
        shapes = {key: array.shape for key, array in weights.items()}
        model_folder.check_shapes(shapes, model.genotype, folder)
        kept = scored_part(weights, folder, "the model is damaged: copy the whole folder again")
        gated += [name] if model.gate else []
        own = model.training_data.get("private_arrays")
        if isinstance(own, dict) and own:
            private[name] = "; ".join(f"{arrays} {of}" for of, arrays in own.items())
        models[name] = into / f"{name}.safetensors"
        tensor_files.save(models[name], kept, {"model": name})
        if len(models) == 1:
            tensor_files.save(into / ".initial", kept, {"plan": json.dumps(plan)})
    return Files(into / ".initial", models, tuple(gated), private)


def scored_part(
    weights: Mapping[str, np.ndarray], place: str | os.PathLike, remedy: str
) -> dict[str, np.ndarray]:
    """Returns the weights that a prediction needs: all except those of the VAE branch.

    Raises:
      ValueError: naming `place` and the remedy, if a weight is not finite.
    """
    kept = named_weights.without_vae(weights)
    odd = [name for name, array in kept.items() if not np.isfinite(array).all()]
    if odd:
        raise ValueError(f"{place}: the weights of {odd[0]} are not all finite; {remedy}")
    return kept


def _check_plan(folder: pathlib.Path, model: Model, plan: Mapping[str, Any]) -> None:
    try:
        own = evaluation_plan({**model.plan, "genotype": model.genotype.to_json()})
    except ValueError as error:
        raise ValueError(f"{folder}: {error}; copy the whole folder again") from error
    lines = plans.differences(own, dict(plan), words=("the model has", "the flags"))
    if lines:
        more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        raise ValueError(
            f"{folder}: this model does not fit the network, the preparation or the sliding window "
            f"of this evaluation: {'; '.join([*lines[:_SHOWN], *more])}. Give the flag file it was "
            "trained with, with --num_rounds=0; models that differ in this need an evaluation of "
            "their own"
        )

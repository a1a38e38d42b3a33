"""Paths of a supernet as the models of an evaluation: the operator's list, and the server's files.

The list of paths is a JSON file. Every path is sent with the weights of the whole supernet, because
all models of an evaluation have the same arrays. Needs neither TensorFlow nor a site's packages.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from c2fnas.genotype import Genotype
from c2fnas.search import path_weights
from c2fnas.search.operation_space import OperationSpace
from experiments.configuration import evaluation_plan
from experiments.models.given_models import Files, scored_part
from experiments.results import path_names
from federated.rounds import plan as plans
from federated.tensors import tensor_files
from runkit import atomic, formats

FORMAT = 1  # version of the list of paths


def write_list(
    path: str | os.PathLike, supernet: str | os.PathLike, genes: Iterable[Sequence[int]]
) -> None:
    """Writes the list of paths that a server has its sites score.

    Args:
      path: file to write (.json).
      supernet: safetensors file of the trained supernet, e.g. a global model of a server's store.
      genes: the paths.
    """
    atomic.write_json(
        path,
        {
            "format": FORMAT,
            "supernet": str(pathlib.Path(supernet).resolve()),
            "paths": [path_names.name_of(gene) for gene in genes],
        },
    )


def files(entries: Sequence[str], plan: Mapping[str, Any], into: str | os.PathLike) -> Files:
    """Writes what the sites receive: for each path, the supernet's weights without its VAE branch.

    Args:
      entries: the value of --models, which must be a single list of paths.
      plan: the plan of the evaluation, see `configuration.plan`.
      into: folder to write to.
    Raises:
      ValueError: naming the file, if it is not such a list or its supernet does not fit the plan.
    """
    if len(entries) != 1 or not entries[0].endswith(".json"):
        raise ValueError(
            f"--models is {','.join(entries)!r}; with --supernet it is one list of paths, the "
            ".json file that experiments.search_federated wrote"
        )
    content = atomic.read_json(entries[0])
    if not isinstance(content, dict) or not {"supernet", "paths"} <= content.keys():
        raise ValueError(
            f"{entries[0]}: is not a list of paths; give the file that "
            "experiments.search_federated wrote"
        )
    formats.refuse_newer(entries[0], content.get("format"), FORMAT)
    weights = load(content["supernet"], plan)
    space = space_of(plan)
    kept = scored_part(weights, content["supernet"], "train again from an earlier round")
    into, models = pathlib.Path(into), {}
    for name in content["paths"]:
        path_weights.extract(space, path_names.gene_of(name), kept)  # the supernet has all of it
        models[name] = into / f"{name}.safetensors"
        tensor_files.save(models[name], kept, {"model": name})
    initial = into / ".initial"
    tensor_files.save(initial, kept, {"plan": json.dumps(plan)})
    return Files(initial, models)


def space_of(plan: Mapping[str, Any]) -> OperationSpace:
    """Returns the paths of a plan's supernet.

    Raises:
      ValueError: if the plan is not for a supernet.
    """
    about = plan.get("supernet")
    if not isinstance(about, dict):
        raise ValueError("the plan is not that of a supernet; give --supernet")
    return OperationSpace(Genotype.from_json(plan["genotype"]), tuple(about["operations"]))


def load(file: str | os.PathLike, plan: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
    """Returns the weights of a trained supernet, after comparing it with the flags.

    Args:
      file: e.g. a global model of the server's store.
      plan: the plan of an evaluation of its paths, see `configuration.evaluation_plan`.
    Raises:
      ValueError: naming the file, if it was trained with another plan or is not a supernet.
    """
    weights, metadata = tensor_files.load(file)
    if "plan" in metadata:
        own = evaluation_plan(json.loads(metadata["plan"]))
        lines = plans.differences(own, dict(plan), words=("the supernet has", "the flags"))
        if lines:
            raise ValueError(
                f"{file}: this supernet does not fit the flags: {'; '.join(lines[:6])}. Give the "
                "flag file that it was trained with"
            )
    space = space_of(plan)
    try:
        path_weights.extract(space, (0,) * len(space.choices), weights)
    except ValueError as error:
        raise ValueError(
            f"{file}: is not a supernet of the flags' --genotype: {error}; give a global model "
            "that sites trained with --supernet"
        ) from error
    return weights

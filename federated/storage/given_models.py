"""The models that the operator gives to a run without rounds; every site evaluates them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from federated.errors import IncompatibleWeights
from federated.rounds import tasks
from federated.tensors.tensor_files import TensorFile, file_manifest
from federated.tensors.weights import TensorManifest, TensorSpec, check_same
from runkit import nested


def read(
    models: Mapping[str, str | os.PathLike], specs: Sequence[TensorSpec], *, num_rounds: int
) -> dict[str, TensorManifest]:
    """Returns {name: manifest} of the given models, after checking that a run can evaluate them.

    Args:
      models: name -> safetensors file, in the order in which sites evaluate them.
      specs: the tensors that each of them must have.
      num_rounds: number of rounds of the run; models are given if and only if it is 0.
    Raises:
      ValueError: naming the model or the number at fault.
    """
    if bool(models) != (num_rounds == 0):
        raise ValueError(
            f"{len(models)} models are given to a run of {num_rounds} rounds; a run of 0 rounds "
            "evaluates given models and needs at least one, and any other trains its own"
        )
    if len(models) > tasks.MAX_MODELS:
        raise ValueError(
            f"{len(models)} models are given; a site evaluates {tasks.MAX_MODELS} in a run at "
            "most, so split them over several runs"
        )
    found = {}
    for name, path in models.items():
        if not tasks.MODEL_NAME.fullmatch(name):
            raise ValueError(
                f"a given model is named {name[:80]!r}; use letters, digits, '_' and '-', at most "
                "64, beginning with a letter or digit"
            )
        with TensorFile(path) as file:
            found[name] = file_manifest(file)
        try:
            check_same(specs, found[name].specs, what=f"given model {name!r}")
        except IncompatibleWeights as error:
            raise ValueError(str(error)) from error
    return found


def differences(stored: Mapping[str, str], asked: Mapping[str, str]) -> list[str]:
    """Returns a line for every model that differs between the two, each {name: digest}."""

    def shown(digest: str | None) -> str:
        return "no such model" if digest is None else f"the one with digest {digest[:16]}…"

    return [
        f"model {name}: the store has {shown(one)}, asked for is {shown(two)}"
        for name, one, two in nested.differences(stored, asked)
    ]

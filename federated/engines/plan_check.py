"""Refuses, before a run starts, plans that an engine cannot honour."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from federated.engines import PLAN
from federated.rounds import sharing
from federated.tensors import tensor_files
from federated.tensors.weights import NamedArrays


def check_plan(plan: Mapping[str, Any], *, what: str) -> None:
    """Checks that an engine can run a plan. Every engine moves every array of a model.

    Args:
      what: whose plan it is, for the message.
    Raises:
      ValueError: for rules of sharing.
    """
    if sharing.of_plan(plan):
        raise ValueError(
            f"{what} has rules of sharing, {plan[sharing.PLAN_KEY]}, but this engine would move "
            "every array of the model, those that are to stay at a site too; use this package's "
            "own server, or make the initial model without --keep_at_site and --only_receive"
        )


def read_initial(path: str | os.PathLike) -> tuple[NamedArrays, dict[str, str]]:
    """Returns the arrays and the metadata of global model 0, its plan checked if it carries one.

    Raises:
      ValueError: as `check_plan`, and for a plan that is not a JSON object.
    """
    arrays, metadata = tensor_files.load(path)
    if PLAN in metadata:
        try:
            plan = json.loads(metadata[PLAN])
        except ValueError as error:
            raise ValueError(f"{path}: its plan is not JSON; make the model again") from error
        if not isinstance(plan, dict):
            raise ValueError(f"{path}: its plan is not a JSON object; make the model again")
        check_plan(plan, what=f"{path}: the plan")
    return arrays, metadata

"""Refuses, before a run starts, plans that an engine cannot honour."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from federated.engines import PLAN
from federated.rounds import sharing
from federated.tensors import tensor_files
from federated.tensors.weights import NamedArrays
from runkit import json_text


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
    """Returns the arrays and the metadata of global model 0, its plan checked.

    Raises:
      ValueError: as `check_plan`, and for a model without a plan that is a JSON object.
    """
    arrays, metadata = tensor_files.load(path)
    if PLAN not in metadata:
        raise ValueError(
            f"{path}: carries no plan, so the sites' settings could not be compared; write the "
            f"plan as JSON into the file's metadata, under {PLAN!r}"
        )
    try:
        plan = json_text.loads(metadata[PLAN])
    except ValueError as error:
        raise ValueError(f"{path}: its plan is not JSON; make the model again") from error
    if not isinstance(plan, dict):
        raise ValueError(f"{path}: its plan is not a JSON object; make the model again")
    check_plan(plan, what=f"{path}: the plan")
    return arrays, metadata


def check_num_rounds(metadata: Mapping[str, str], num_rounds: int, *, what: str) -> None:
    """Checks a run's number of rounds against the plan in a model's metadata.

    Args:
      what: the model, for the message.
    Raises:
      ValueError: for a plan with another `schedule.num_rounds`. Trainers may derive their learning
        rate from it, so that another number would silently be another schedule.
    """
    schedule = json_text.loads(metadata[PLAN]).get("schedule")
    planned = schedule.get("num_rounds", num_rounds) if isinstance(schedule, dict) else num_rounds
    if planned != num_rounds:
        raise ValueError(
            f"num_rounds is {num_rounds}, but {planned!r} in the plan of {what}, by which the "
            "sites' trainers go, e.g. for their learning rate; give the plan's number, or make the "
            "initial model again with the other one"
        )

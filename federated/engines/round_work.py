"""A site's work in a round, for any engine that moves the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from federated import errors
from federated.engines.plan_check import check_plan
from federated.rounds import plan as plans
from federated.security import report_filter
from federated.site import trainer as site_trainer
from federated.site.trainer import SiteTrainer
from federated.tensors.weights import DTYPES, NamedArrays, canonical, check_same, specs_of


class SiteUpdate(NamedTuple):
    """A site's weights after local training, and the numbers it reports with them."""

    arrays: NamedArrays
    num_examples: int
    metrics: dict[str, float]  # scores of the received model; training metrics as "train_<name>"


def take_round(
    trainer: SiteTrainer, received: Mapping[str, Any], round_number: int, *, plan: Any = None
) -> SiteUpdate:
    """Scores the received global model, trains from it and returns the update.

    Args:
      received: name -> array, as the engine delivers them.
      round_number: from 1, as everywhere in this package; the engines count from 0.
      plan: the server's plan, to be compared with the trainer's; None if the engine did not send
        it.
    Raises:
      ValueError: for a plan that keeps arrays at a site or lets sites only receive some, or for a
        number of training cases that is not an int.
      PlanDiffers: naming every difference.
      IncompatibleWeights: if the received arrays, or the update, are not those of the trainer.
      PrivacyRefused: for a metric that may not leave the site.
    """
    check_plan(trainer.plan, what="this site's plan")
    site_trainer.check_trainer(trainer)
    if plan is not None and (differing := plans.differences(plan, trainer.plan)):
        raise errors.PlanDiffers(
            f"this site's settings differ from the server's: {'; '.join(differing)}; "
            "use the same settings at every site"
        )
    model = round_number - 1
    metrics: dict[str, float] = {}
    if model % getattr(trainer, "score_every", 1) == 0:
        metrics |= report_filter.check_scores(
            site_trainer.scored(trainer, restored(trainer, received)),
            vocabulary=trainer.vocabulary,
            what=f"scores of global model {model}",
        )
    arrays, trained = site_trainer.trained(trainer, restored(trainer, received), round_number)
    check_same(canonical(trainer.specs), specs_of(arrays), what=f"update of round {round_number}")
    named = {f"train_{name}": value for name, value in trained.items()}
    metrics |= report_filter.check_metrics(named, what=f"metrics of round {round_number}")
    return SiteUpdate(arrays, trainer.num_examples, metrics)


def restored(trainer: SiteTrainer, received: Mapping[str, Any]) -> NamedArrays:
    """Returns the delivered arrays with the trainer's shapes and dtypes, in canonical order.

    The caller may change them. Engines turn arrays without an axis into scalars and float32 scalars
    into float64, and use their own order; this would affect a trainer that draws a random number
    per array.

    Raises:
      IncompatibleWeights: for other names or shapes.
    """
    dtypes = {spec.name: DTYPES[spec.dtype] for spec in trainer.specs}
    arrays = {name: np.array(value, dtypes.get(name)) for name, value in received.items()}
    specs = specs_of(arrays)
    check_same(canonical(trainer.specs), specs, what="the received global model")
    return {spec.name: arrays[spec.name] for spec in specs}

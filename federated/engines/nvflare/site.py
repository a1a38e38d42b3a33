"""A site under NVFLARE: a `SiteTrainer` behind NVFLARE's Client API.

A job's script for the sites:

    from federated.engines.nvflare import site as nvflare_site

    nvflare_site.run(lambda site: MyTrainer(site, ...))
"""

from __future__ import annotations

import json
from collections.abc import Callable

import nvflare.client as flare
from nvflare.apis.fl_constant import FLMetaKey
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType

from federated.engines import PLAN
from federated.engines.plan_check import check_plan
from federated.engines.round_work import take_round
from federated.site.trainer import SiteTrainer


def run(make_trainer: Callable[[str], SiteTrainer]) -> None:
    """Takes part in an NVFLARE job until it ends.

    Args:
      make_trainer: called once, with the site's name in NVFLARE.
    Raises:
      As `check_plan`, before anything is received, and `take_round`; NVFLARE then aborts the job.
    """
    flare.init()
    trainer = make_trainer(flare.get_site_name())
    check_plan(trainer.plan, what="this site's plan")
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        plan = (received.meta or {}).get(PLAN)  # sent with the initial model only
        update = take_round(
            trainer,
            received.params,
            received.current_round + 1,
            plan=None if plan is None else json.loads(plan),
        )
        flare.send(
            FLModel(
                params=update.arrays,
                params_type=ParamsType.FULL,
                metrics=update.metrics,
                meta={FLMetaKey.NUM_STEPS_CURRENT_ROUND: update.num_examples},
            )
        )

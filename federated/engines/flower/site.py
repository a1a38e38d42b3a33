"""A site under Flower: a `SiteTrainer` behind a ClientApp.

An app's module for the sites:

    from federated.engines.flower import site as flower_site

    app = flower_site.client_app(lambda site: MyTrainer(site, ...))

Each SuperNode is started with its site's name: `flower-supernode --node-config 'site="C1"' ...`.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from federated.engines import PLAN
from federated.engines.flower.messages import ARRAYS, CONFIG, METRICS, NUM_EXAMPLES, ROUND, SITE
from federated.engines.round_work import take_round
from federated.site.trainer import SiteTrainer


def client_app(make_trainer: Callable[[str], SiteTrainer]) -> ClientApp:
    """Returns the app that takes part in a run.

    Args:
      make_trainer: called with the site's name, once per round, because Flower runs every message
        in a separate process. A trainer must keep its state between rounds on disk.
    Raises:
      ValueError: in the app, for a SuperNode that was started without a site's name.
      And as `take_round`; the server then stops the run.
    """
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if SITE not in context.node_config:
            raise ValueError(
                "this SuperNode has no site's name; start it with --node-config 'site=\"C1\"'"
            )
        site = str(context.node_config[SITE])
        config = message.content[CONFIG]
        received = {name: array.numpy() for name, array in message.content[ARRAYS].items()}
        update = take_round(
            make_trainer(site), received, int(config[ROUND]), plan=json.loads(config[PLAN])
        )
        content = RecordDict(
            {
                ARRAYS: ArrayRecord({n: Array(update.arrays[n]) for n in sorted(update.arrays)}),
                METRICS: MetricRecord({**update.metrics, NUM_EXAMPLES: update.num_examples}),
                CONFIG: ConfigRecord({SITE: site}),
            }
        )
        return Message(content, reply_to=message)

    return app

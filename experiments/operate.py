"""Gives an order to a running server, e.g. to pause or to exclude a site.

    python -m experiments.operate --kit=federation/operator --order=pause
    python -m experiments.operate --kit=federation/operator --order=evict --site=C2
    python -m experiments.operate --kit=federation/operator --order=discard_round --round=12

Orders:
    pause          let sites finish and send what they have begun, but start nothing new and close
                   no round; stays in force across restarts
    resume         end the pause
    evict          exclude a site at once: revoke its token, stop its transfers, and drop its update
                   of the open round, its lent models, scores and rows
    admit          let an evicted site come back, or a site return with a different number of
                   training cases
    discard_round  go back to the global model before a round; it and all later ones are repeated
    finish         make the open round the last one; the sites' evaluation follows as usual
    finish_now     make the round before the open one the last one; the evaluation follows

If something keeps an order from taking effect, e.g. a site that has left for good, the answer names
it and the orders that help: usually `evict` for that site, then `finish_now`.
"""

from __future__ import annotations

from absl import app, flags

from experiments import flags as experiment_flags
from experiments import program
from federated.errors import FederationError
from federated.wire.messages import ORDERS

FLAGS = flags.FLAGS
flags.DEFINE_string("kit", None, "The operator's kit, made by experiments.provision.")
experiment_flags.define_server()
flags.DEFINE_enum("order", None, list(ORDERS), "The order, see above.")
flags.DEFINE_string("site", None, "The site to evict or admit.")
flags.DEFINE_integer("round", None, "The first round to discard.", lower_bound=1)


def main(argv: list[str]) -> None:
    del argv
    order = experiment_flags.required("order", "the order for the server")
    if (order in ("evict", "admit")) != bool(FLAGS.site):
        raise app.UsageError(
            f"--order={order} needs the name of a site: --site"
            if not FLAGS.site
            else f"--order={order} does not take --site"
        )
    if (order == "discard_round") != (FLAGS.round is not None):
        raise app.UsageError(
            f"--order={order} needs the number of a round: --round"
            if FLAGS.round is None
            else f"--order={order} does not take --round"
        )
    with experiment_flags.operator_client() as operator:
        print(operator.order(order, FLAGS.site or "", FLAGS.round or 0))


if __name__ == "__main__":
    program.run(main, required=["kit", "order"], expected=(FederationError,))

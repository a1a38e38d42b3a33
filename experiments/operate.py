"""Gives a running server an order: pause, resume, evict, admit, discard_round, finish, finish_now.

    python -m experiments.operate --kit=federation/operator --order=pause
    python -m experiments.operate --kit=federation/operator --order=evict --site=C2
    python -m experiments.operate --kit=federation/operator --order=discard_round --round=12

`pause` lets sites finish and send what they have begun, gives out nothing new and closes no round;
it holds across restarts. `evict` voids a site's token at once, ends what it is sending, and drops
its update of the open round, its lent models, scores and rows; `admit` lets it come again, and lets
a site come with another number of training cases. `discard_round` goes back to the global model
before a round: that round and all later ones are trained again. `finish` makes the open round the
last one, `finish_now` the one before it; the sites' evaluation follows as usual. Where something
keeps an order from leading on, e.g. a site that has left for ever, the answer says what, and which
orders help: as a rule `evict` for that site, then `finish_now`.
"""

from __future__ import annotations

from absl import app, flags

from experiments import flags as experiment_flags
from federated.errors import FederationError

FLAGS = flags.FLAGS
flags.DEFINE_string("kit", None, "The operator's folder, made by experiments.provision.")
flags.DEFINE_string("server", None, "host:port of the server, in place of the kit's.")
flags.DEFINE_enum(
    "order",
    None,
    ["pause", "resume", "evict", "admit", "discard_round", "finish", "finish_now"],
    "What the server is to do.",
)
flags.DEFINE_string("site", None, "The site to evict or admit.")
flags.DEFINE_integer("round", None, "The first round to discard.", lower_bound=1)


def main(argv: list[str]) -> None:
    del argv
    from federated.admin import client as admin_client
    from runkit import private

    order = experiment_flags.required("order", "what the server is to do")
    if (order in ("evict", "admit")) != bool(FLAGS.site):
        raise app.UsageError(
            f"--order={order} takes {'the name of a site: --site' if not FLAGS.site else 'no --site'}"
        )
    if (order == "discard_round") != (FLAGS.round is not None):
        raise app.UsageError(
            f"--order={order} takes {'the number of a round: --round' if FLAGS.round is None else 'no --round'}"
        )
    host, port = experiment_flags.address(FLAGS.server) if FLAGS.server else (None, None)
    folder = experiment_flags.required("kit", "the operator's folder")
    kit = admin_client.Kit.read(folder, host=host, port=port)
    private.tree(folder)
    with admin_client.AdminClient(kit) as operator:
        print(operator.order(order, FLAGS.site or "", FLAGS.round or 0))


if __name__ == "__main__":
    experiment_flags.run(main, required=["kit", "order"], expected=(FederationError,))

"""Shows where a running federation is: sites, rounds, bytes, scores.

python -m experiments.status --kit=federation/operator              once
python -m experiments.status --kit=federation/operator --every=2    again and again, until Ctrl-C
python -m experiments.status --kit=federation/operator --json       for programs
"""

from __future__ import annotations

import json
import sys
import time

from absl import flags

from experiments import flags as experiment_flags
from experiments.reports import status_table
from federated.errors import FederationError, ServerUnreachable
from runkit import printable

FLAGS = flags.FLAGS
flags.DEFINE_string("kit", None, "The operator's folder, made by experiments.provision.")
flags.DEFINE_string("server", None, "host:port of the server, in place of the kit's.")
flags.DEFINE_float("every", 0.0, "Seconds between two looks; 0 looks once.")
flags.DEFINE_integer("rounds", 10, "Newest rounds to show.")
flags.DEFINE_bool("json", False, "Print JSON, one object a look.")

_CLEAR = "\x1b[H\x1b[J"


def main(argv: list[str]) -> int:
    del argv
    from federated.admin import client as admin_client
    from runkit import private

    host, port = experiment_flags.address(FLAGS.server) if FLAGS.server else (None, None)
    folder = experiment_flags.required("kit", "the operator's folder")
    kit = admin_client.Kit.read(folder, host=host, port=port)
    private.tree(folder)
    with admin_client.AdminClient(kit) as operator:
        while True:
            try:
                status = operator.status()
            except ServerUnreachable as error:
                if not FLAGS.every:
                    raise
                status, text = (
                    None,
                    f"{printable.text(error)}; looking again every {FLAGS.every:g} s",
                )
            if status is not None:
                text = (
                    json.dumps(status)
                    if FLAGS.json
                    else status_table.render(status, rounds=FLAGS.rounds)
                )
            print(
                (_CLEAR if FLAGS.every and sys.stdout.isatty() and not FLAGS.json else "") + text,
                flush=True,
            )
            if not FLAGS.every or (status is not None and status["finished"]):
                return 0
            time.sleep(FLAGS.every)


if __name__ == "__main__":
    experiment_flags.run(main, required=["kit"], expected=(FederationError,))

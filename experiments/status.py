"""Shows the state of a running federation: sites, rounds, bytes, scores.

    python -m experiments.status --kit=federation/operator              # once
    python -m experiments.status --kit=federation/operator --every=2    # repeatedly
    python -m experiments.status --kit=federation/operator --json       # for other programs

With --every it ends when the federation has finished, or with Ctrl-C.
"""

from __future__ import annotations

import json
import sys
import time

from absl import flags

from experiments import flags as experiment_flags
from experiments import program
from experiments.reports import status_table
from federated.errors import FederationError, ServerUnreachable
from runkit import printable

FLAGS = flags.FLAGS
flags.DEFINE_string("kit", None, "The operator's kit, made by experiments.provision.")
experiment_flags.define_server()
flags.DEFINE_float("every", 0.0, "Repeat after this many seconds; 0 prints the status once.")
flags.DEFINE_integer("rounds", 10, "Number of newest rounds to show.")
flags.DEFINE_bool("json", False, "Print JSON, one object each time.")

_CLEAR = "\x1b[H\x1b[J"


def main(argv: list[str]) -> int:
    del argv
    with experiment_flags.operator_client() as operator:
        while True:
            try:
                status = operator.status()
            except ServerUnreachable as error:
                if not FLAGS.every:
                    raise
                status, text = (
                    None,
                    f"{printable.text(error)}; trying again every {FLAGS.every:g} s",
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
    program.run(main, required=["kit"], expected=(FederationError,))

"""Checks a server's log and store: hashes, signatures, every model and every row.

    python -m experiments.audit --store=store --authority=kit/ca.pem
    python -m experiments.audit --store=store --head=HASH    # is a recorded line still in the log?
    python -m experiments.audit --store=store --show         # also print the events

Works on the server's folder while the server runs, or on a copy. If anything was changed, it names
the first wrong line and exits with code 1.
"""

from __future__ import annotations

import datetime
import pathlib

from absl import flags

from experiments import flags as experiment_flags
from experiments import program
from runkit import atomic, printable

FLAGS = flags.FLAGS
flags.DEFINE_string("store", None, "The server's folder, or a copy of it.")
flags.DEFINE_string(
    "authority",
    None,
    "The federation's ca.pem. With it, the end of every round must be signed by a server that this "
    "authority certified.",
)
flags.DEFINE_string(
    "head",
    "",
    "Hash of a line, recorded earlier from this program or experiments.status (at least its first "
    "16 digits). The log must still contain that line.",
)
flags.DEFINE_bool("show", False, "Also print the events, one per line.")

_CHAIN = ("line", "previous", "hash", "time", "event", "certificate")


def main(argv: list[str]) -> None:
    del argv
    from federated.audit import chain, verification
    from federated.security import certificates

    store = pathlib.Path(experiment_flags.required("store", "the server's folder"))
    authority = certificates.load(atomic.read_bytes(FLAGS.authority)) if FLAGS.authority else None
    if FLAGS.show:
        for record in chain.read_chain(store / "events.jsonl", authority):
            when = datetime.datetime.fromtimestamp(record["time"], datetime.timezone.utc)
            facts = " ".join(
                printable.text(f"{key}={value}")
                for key, value in record.items()
                if key not in _CHAIN
            )
            event = printable.text(record["event"])
            print(f"{record['line']:>6}  {when:%Y-%m-%d %H:%M:%S}  {event:<14} {facts}")
    with atomic.naming(store):
        found = verification.verify(store, authority, head=FLAGS.head)
    signed = ", signed by the server" if authority else ""
    segments = f" in {found.segments} segments" if found.segments > 1 else ""
    print(f"{found.lines} lines{segments}, unbroken{signed}; head {found.head}")
    if found.removed_lines:
        print(
            f"removed by the server's setting: lines 1 to {found.removed_lines}, with all rounds "
            f"up to {found.removed_rounds}; these rounds and the choice of the best model are "
            "not checked"
        )
    if found.given:
        print(f"given models that match the log: {', '.join(found.given)}")
    else:
        print(f"{len(found.rounds)} global models match the log{_pruned(found.pruned)}")
        again = (
            f"rounds {', '.join(map(str, found.recomputed))}"
            if found.recomputed
            else "none, because updates were masked"
            if found.summed
            else "none, because no updates are stored"
        )
        print(f"recomputed from the sites' updates, to the same bits: {again}")
    if found.summed:
        print(
            f"rounds {', '.join(map(str, found.summed))} added masked updates: nobody, including "
            "this program, can check that their models are the average of what the sites sent"
        )
    if found.rule_states:
        print(f"states of the aggregation rule that match the log: {len(found.rule_states)}")
    if found.discarded:
        print(f"discarded by the operator: rounds {', '.join(map(str, found.discarded))}")
    if found.models:
        print(f"lent models that match the log: {', '.join(found.models)}")
    if found.rows:
        print(f"rows that match the log: those of {', '.join(found.rows)}")
    if found.best_round is not None and found.removed_lines:
        print(f"best model, as the log names it: round {found.best_round}")
    elif found.best_round is not None:
        print(f"best model, chosen again from the logged scores: round {found.best_round}")


def _pruned(numbers: tuple[int, ...]) -> str:
    return f", {len(numbers)} are no longer kept" if numbers else ""


if __name__ == "__main__":
    program.run(main, required=["store"])

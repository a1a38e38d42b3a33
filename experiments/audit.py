"""Checks a server's log and store: hashes, signatures, every model, every row.

    python -m experiments.audit --store=store --authority=kit/ca.pem
    python -m experiments.audit --store=store --head=HASH          the log must still have a line that was noted earlier
    python -m experiments.audit --store=store --show               also prints what happened, a line an event

Works on the server's folder while the server runs, or on a copy. Exit code 1 and the first wrong
line where something was changed.
"""

from __future__ import annotations

import datetime
import pathlib

from absl import flags

from experiments import flags as experiment_flags
from runkit import printable

FLAGS = flags.FLAGS
flags.DEFINE_string("store", None, "The server's folder, or a copy of it.")
flags.DEFINE_string(
    "authority",
    None,
    "ca.pem of the federation: the ends of rounds must be signed by a server that it certified.",
)
flags.DEFINE_string(
    "head",
    "",
    "Hash of a line, noted earlier from this program or experiments.status, at least 16 digits.",
)
flags.DEFINE_bool("show", False, "Print the events.")

_CHAIN = ("line", "previous", "hash", "time", "event", "certificate")


def main(argv: list[str]) -> None:
    del argv
    from cryptography import x509

    from federated.audit import log as audit_log
    from federated.audit import verification

    store = pathlib.Path(experiment_flags.required("store", "the server's folder"))
    authority = (
        x509.load_pem_x509_certificate(pathlib.Path(FLAGS.authority).read_bytes())
        if FLAGS.authority
        else None
    )
    if FLAGS.show:
        for record in audit_log.read_chain(store / "events.jsonl", authority):
            when = datetime.datetime.fromtimestamp(record["time"], datetime.timezone.utc)
            facts = " ".join(
                printable.text(f"{key}={value}")
                for key, value in record.items()
                if key not in _CHAIN
            )
            print(
                f"{record['line']:>6}  {when:%Y-%m-%d %H:%M:%S}  {printable.text(record['event']):<14} {facts}"
            )
    found = verification.verify(store, authority, head=FLAGS.head)
    print(
        f"{found.lines} lines, unbroken{', signed by the server' if authority else ''}; head {found.head}"
    )
    print(f"{len(found.rounds)} global models are the logged ones{_pruned(found.pruned)}")
    again = (
        f"rounds {', '.join(map(str, found.recomputed))}"
        if found.recomputed
        else "none: their updates are not kept"
    )
    print(f"aggregated again from the sites' updates, to the same bits: {again}")
    if found.rule_states:
        print(f"state of the aggregation rule as logged: {len(found.rule_states)} rounds")
    if found.discarded:
        print(f"taken back by the operator: rounds {', '.join(map(str, found.discarded))}")
    if found.models:
        print(f"lent models as logged: {', '.join(found.models)}")
    if found.rows:
        print(f"rows as logged: of {', '.join(found.rows)}")
    if found.best_round is not None:
        print(f"the best model, chosen again from the logged scores: round {found.best_round}")


def _pruned(numbers: tuple[int, ...]) -> str:
    return f", {len(numbers)} are no longer kept" if numbers else ""


if __name__ == "__main__":
    experiment_flags.run(main, required=["store"])

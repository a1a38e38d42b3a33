"""Kills the programs of federations at every named point and at random times.

    .venv/py3.11/bin/python -m tests.soak.kills --kills=200

Every run must end with the same bits as a run without kills. A kill is SIGKILL, and programs are
restarted at once, as systemd would. It counts the kills and stops with an error at the first run
whose global models, best model, selection, published models or rows differ in one byte, or that
does not end by itself.
"""

from __future__ import annotations

import argparse
import pathlib
import random
import tempfile
import time

from federated.security import provisioning
from tests.federated.programs import federate, results
from tests.soak import cost

_RESTART_S = 0.8
ROUNDS, BULK = 5, 700_000  # three chunks per model

# In the order of a run: after each kill, the program is restarted and reaches the next point.
SERVER_POINTS = [
    "Records.enrol:before:1",
    "Records.enrol:after:1",
    "Records.add_session:after:1",
    "Records.record_scores:before:1",
    "Records.record_scores:after:1",
    "Uploads.offer:before:1",
    "Uploads.offer:after:1",
    "PartialModel.put:before:1",
    "PartialModel.put:after:2",
    "PartialModel.finish:before:1",
    "PartialModel.finish:after:1",
    "Store.keep_update:before:1",
    "Store.keep_update:after:1",
    "event:pushed:1",
    "spooled_updates.aggregate_spooled:before:1",
    "spooled_updates.aggregate_spooled:after:1",
    "Store.close_round:before:1",
    "Store.close_round:after:1",
    "event:aggregated:1",
    "Store.keep_selection:before:1",
    "Store.keep_selection:after:1",
    "Store.empty_discarded:before:2",  # the first is at the start
    "Store.empty_discarded:after:2",
]
SERVER_ENDING = [
    "Store.keep_model:before:1",
    "Store.keep_model:after:1",
    "Records.declare:before:1",
    "Records.declare:after:1",
    "Records.fix_models:before:1",
    "Records.fix_models:after:1",
    "Store.keep_rows:before:1",
    "Store.keep_rows:after:1",
    "Store.write_rows:after:1",
    "Records.finish:before:1",
]
SITE_POINTS = [
    "GrpcTransport.login:after:1",
    "GrpcTransport.pull:before:1",
    "PartialModel.put:after:2",
    "GrpcTransport.pull:after:1",
    "ToyTrainer.score:after:1",
    "Journal.keep_scores:before:1",
    "Journal.keep_scores:after:1",
    "GrpcTransport.report_scores:after:1",
    "ToyTrainer.train:before:1",
    "ToyTrainer.train:after:1",
    "tensor_files.save_as:before:1",
    "Journal.keep_update:after:1",
    "GrpcTransport.push:before:1",
    "chunk_encoding.part_to_bytes:after:2",
    "GrpcTransport.push:after:1",
    "Journal.release_update:before:1",
    "Journal.release_update:after:1",
]
SITE_ENDING = [
    "ToyTrainer.local_models:after:1",
    "GrpcTransport.publish:after:1",
    "Journal.keep_published:after:1",
    "Journal.keep_declared:after:1",
    "GrpcTransport.declare_models:after:1",
    "ToyTrainer.evaluate:after:1",
    "Journal.keep_rows:after:1",
    "Journal.finish:before:1",
]
REPORTING = (
    ["GrpcTransport.submit_rows:after:1"],
    ["Journal.keep_reported:after:1"],
)  # either: the second submits no more


class Random:
    """Kills one program or another at random times until there were enough kills."""

    def __init__(self, seed: int, kills: int, *, every_s: float):
        self._rng, self.left, self._every_s = random.Random(seed), kills, every_s
        self._next = time.monotonic() + self._rng.expovariate(1 / every_s)

    def __call__(self, programs: dict) -> None:
        if self.left and programs and time.monotonic() >= self._next:
            programs[self._rng.choice(sorted(programs))].kill()
            self.left -= 1
            self._next = time.monotonic() + self._rng.expovariate(1 / self._every_s)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200, help="minimum number of kills in total")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--every", type=float, default=0.7, help="mean number of seconds between random kills"
    )
    flags = parser.parse_args()
    cost.tell(f"{flags.kills} kills", flags.kills * (flags.every + _RESTART_S))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        kits = provisioning.provision(folder / "kits", "localhost", ("C1", "C2"), port=0)
        options = {"num_rounds": ROUNDS, "bulk": BULK, "seconds": 600}
        store, _ = federate(folder / "alone", kits, **options)
        expected, total, runs = results(store, ROUNDS), 0, 0

        def run(what: str, **kills) -> None:
            nonlocal total, runs
            runs += 1  # a folder per run, also for a run without a kill
            began = time.monotonic()
            store, deaths = federate(folder / f"run_{runs}_{what}", kits, **options, **kills)
            assert results(store, ROUNDS) == expected, (
                f"{what}: other bits than the run without kills"
            )
            assert not list((store / "spool").iterdir())
            total += deaths
            print(
                f"{what}: {deaths} kills, same bits, {time.monotonic() - began:.0f} s; "
                f"{total} kills so far",
                flush=True,
            )

        run("server_named", server_kills=SERVER_POINTS + SERVER_ENDING)
        run(
            "sites_named",
            site_kills={
                "C1": SITE_POINTS + SITE_ENDING[:-1] + REPORTING[0],
                "C2": SITE_ENDING[:-1] + REPORTING[1] + SITE_ENDING[-1:],
            },
        )
        run(
            "all_named",
            server_kills=SERVER_POINTS[::3] + SERVER_ENDING[::2],
            site_kills={"C1": SITE_POINTS[::4], "C2": SITE_POINTS[2::4]},
        )
        while total < flags.kills:
            run("random", meanwhile=Random(flags.seed + runs, 25, every_s=flags.every))
    print(f"{total} kills, every run the same bits")


if __name__ == "__main__":
    main()

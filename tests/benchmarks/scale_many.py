"""How the server's work per site grows with the number of sites, without network and training.

    .venv/py3.11/bin/python -m tests.benchmarks.scale_many --sites=10,100,1000

The product's coordinator, store and log serve that many sites in one process, each in turn: log in,
ask for the task, upload, and ask again. A model of 11 values makes everything but the work per
site negligible. Printed are processor milliseconds per site and round, of a question for the task
alone, of one by a site that waits in a thread (each asks again when another one has sent), of a
login, and of the end of a round; and beside the first what `scale_model.py` predicts from the first
number of sites. 10,000 sites and one round take some ten minutes of a processor;

    .venv/py3.11/bin/python -m tests.benchmarks.scale_many --sites=1000,3000,10000 --sample=200

measures at the end of a round only, when the work for a site is greatest, in a minute or two.
"""

from __future__ import annotations

import argparse
import gc
import os
import pathlib
import resource
import statistics
import tempfile
import threading
import time

from federated.audit.log import AuditLog
from federated.rounds.rounds import Update
from federated.security.credentials import CredentialBook, hashed
from federated.server.config import ServerConfig
from federated.server.coordinator import Coordinator
from federated.simulation import InProcessTransport
from federated.storage.store import Store
from federated.tensors import tensor_files
from tests.benchmarks import machine, scale_model
from tests.federated import toy

_EXAMPLES = 10
_WAITING, _CHANGES = 200, 20  # threads that wait, and changes that wake them


def _enter(store: Store, sites: list[str], update: pathlib.Path, sha256: str) -> None:
    """Enters sites that are known, and whose updates of round 1 have arrived."""
    made = [Update(site, 1, _EXAMPLES, sha256) for site in sites]
    for one in made:
        os.link(update, store.update_path(one))
    with store._transaction() as held:
        held.executemany(
            "INSERT INTO sites (name, num_examples) VALUES (?, ?)",
            [(one.site, one.num_examples) for one in made],
        )
        held.executemany(
            "INSERT INTO updates VALUES (1, ?, ?, ?, '{}', 0.0, 1, 0.5)",
            [(one.site, one.num_examples, sha256) for one in made],
        )


def serve(sites: int, rounds: int, sample: int) -> dict[str, float]:
    """Returns milliseconds of the processor for each kind of work with this many sites."""
    names, spent = [f"S{number:05d}" for number in range(sites)], time.process_time
    config = ServerConfig(num_rounds=rounds, min_num_clients=sites, max_num_clients=sites)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        store = Store(folder / "store")
        sha256 = tensor_files.save(folder / "update", toy.INITIAL)
        initial = toy.write_initial(folder / "initial.safetensors")
        store.open_run(initial, policy=config.policy, local_epochs=1)
        book = CredentialBook(dict.fromkeys(names, hashed("secret")))
        log = AuditLog(folder / "store" / "events.jsonl")
        active = names[-sample:]
        _enter(store, names[: -len(active)], folder / "update", sha256)
        lead = Coordinator(store, config, book, log, vocabulary=toy.VOCABULARY)
        ports = {site: InProcessTransport(lead, site, "secret", wait_s=0.0) for site in active}
        began = spent()
        for port in ports.values():
            port.login(toy.PLAN, _EXAMPLES)
        logins, sending, asking, closing = spent() - began, [], [], []
        for number in range(1, rounds + 1):
            began = spent()
            for port in ports.values():
                port.next_task()
                port.report_scores(number - 1, {"dice": 0.5})
                port.push(
                    folder / "update",
                    sha256,
                    round_number=number,
                    num_examples=_EXAMPLES,
                    metrics={},
                )
            sending.append(spent() - began)
            asked = active[:: max(1, len(active) // 20)]
            began = spent()
            for site in asked:
                ports[site].next_task()
            asking.append((spent() - began) / len(asked))
            began = spent()
            lead.advance()
            closing.append(spent() - began)
        waking = _waking(lead, active[:_WAITING])
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        size = (folder / "store" / "events.jsonl").stat().st_size
        lead.close()
    gc.collect()
    return {
        "site and round": statistics.median(sending) / len(active) * 1e3,
        "question": statistics.median(asking) * 1e3,
        "question while waiting": waking * 1e3,
        "login": logins / len(active) * 1e3,
        "end of a round": statistics.median(closing) * 1e3,
        "peak MiB": memory,
        "log kB": size / 1e3 / rounds / len(active),
    }


def _waking(lead: Coordinator, sites: list[str]) -> float:
    """Returns processor seconds for each waiting site that asks again after a change."""
    over, run = threading.Event(), lead._run
    lead.orders.pause()
    threads = [
        threading.Thread(
            target=lead.next_task,
            args=(site,),
            kwargs={"wait_s": 600.0, "asking": lambda: not over.is_set()},
        )
        for site in sites
    ]
    for thread in threads:
        thread.start()

    def until_all_wait() -> None:
        while len(run.changed._waiters) < len(sites):  # type: ignore[attr-defined]
            time.sleep(0.01)

    until_all_wait()
    began = time.process_time()
    for _ in range(_CHANGES):
        with run.changing():
            run.store.pause(True)
            run.note_change()
        until_all_wait()
    spent = time.process_time() - began
    over.set()
    lead.wake()
    for thread in threads:
        thread.join()
    return spent / _CHANGES / len(sites)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sites", default="10,100,1000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--sample",
        type=int,
        default=100_000,
        help="that many sites take part; the updates of the others have arrived. Only one round",
    )
    flags = parser.parse_args()
    print(machine.describe(), flush=True)
    first: tuple[int, float] | None = None
    for sites in map(int, flags.sites.split(",")):
        found = serve(sites, 1 if flags.sample < sites else flags.rounds, flags.sample)
        first = first or (sites, found["site and round"])
        predicted = first[1] + (sites - first[0]) * scale_model.MEASURED.pair_s * 1e3
        told = ", ".join(f"{what} {value:.3g}" for what, value in found.items())
        print(f"{sites} sites: {told}; site and round predicted {predicted:.3g}", flush=True)


if __name__ == "__main__":
    main()

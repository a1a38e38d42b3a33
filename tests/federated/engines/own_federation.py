"""Our own server and sites C1 and C2, each a separate process, over mutual TLS.

python -m tests.federated.engines.own_federation server <store> <kit> <initial> <rounds>
python -m tests.federated.engines.own_federation site <journal> <kit> <port>
"""

from __future__ import annotations

import json
import sys

from federated import ServerConfig, connect, run_site, serve
from tests.federated import toy
from tests.federated.engines.seeded import SeededTrainer


def lead(processes, kits, initial, *, num_rounds):
    """Runs a federation to its end; returns the folder of the global models."""
    store = processes.folder / "store"
    program = (sys.executable, "-m", "tests.federated.engines.own_federation")
    server = processes.start(
        "server", *program, "server", store, kits / "server", initial, num_rounds
    )
    processes.wait((store / "address.json").exists)
    port = json.loads((store / "address.json").read_text())["port"]
    for site in ("C1", "C2"):
        processes.start(site, *program, "site", processes.folder / site, kits / site, port)
    processes.wait(lambda: server.poll() is not None)
    assert server.returncode == 0, processes.logs()
    return store / "global"


def main(role, folder, kit, third, num_rounds="3"):
    if role == "server":
        config = ServerConfig(
            num_rounds=int(num_rounds), cross_site_evaluation=False, host="127.0.0.1", port=0
        )
        serve(config, folder, kit, third, vocabulary=toy.VOCABULARY)
    else:
        transport = connect(kit, host="localhost", port=int(third))
        run_site(SeededTrainer(transport.site), transport, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])

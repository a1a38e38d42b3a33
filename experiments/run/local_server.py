"""Starts the server of a federation whose sites are all on this machine."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from experiments.run.processes import Program, ProgramGroup
from runkit import atomic

_START_TIMEOUT_S = 120


def start(
    group: ProgramGroup,
    kits: pathlib.Path,
    store: pathlib.Path,
    sites: int,
    flags: Sequence[str],
    *,
    log: str | None = None,
) -> tuple[Program, str]:
    """Starts a server on a free port, waits until it listens, and returns it.

    Args:
      kits: folder of the federation's kits.
      store: the server's folder.
      sites: number of sites, all of which take part in every round.
      flags: further flags of experiments.serve.
      log: as for `ProgramGroup.start`.
    Returns:
      The server, and the flag by which experiments.join finds it.
    """
    address = store / "address.json"
    address.unlink(missing_ok=True)  # of an earlier start
    own = (
        f"--kit={kits / 'server'}",
        f"--store={store}",
        "--port=0",
        f"--min_num_clients={sites}",
        f"--max_num_clients={sites}",
    )
    server = group.start("server", "experiments.serve", [*flags, *own], log=log)
    group.wait_for(address.exists, server, "starting", _START_TIMEOUT_S)
    return server, f"--server=localhost:{atomic.read_json(address)['port']}"

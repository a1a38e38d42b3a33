"""The server in a separate process, for soak tests and benchmarks.

This module imports the product only in that process, because a benchmark's peers do not have it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any


@contextlib.contextmanager
def running(
    target: Callable[..., object], *arguments: Any
) -> Iterator[tuple[multiprocessing.Process, int]]:
    """Runs `target` in a new process; yields the process and the port that it reports.

    Args:
      target: called with the arguments and with a queue into which it puts its port.
    """
    context = multiprocessing.get_context("spawn")
    ports = context.Queue()
    process = context.Process(target=target, args=(*arguments, ports), daemon=True)
    process.start()
    try:
        yield process, ports.get(timeout=120)
    finally:
        process.kill()
        process.join()


def serving(
    folder: str | pathlib.Path, **settings: Any
) -> contextlib.AbstractContextManager[tuple[multiprocessing.Process, int]]:
    """Runs the server of a folder that contains `kits/server` and `initial.safetensors`.

    The store is `store` in the same folder.

    Args:
      settings: settings of `ServerConfig`. By default the server listens on a free port of this
        machine and does not evaluate models at other sites.
    """
    return running(serve, str(folder), settings)


def serve(folder: str, settings: Mapping[str, Any], ports) -> None:
    """Serves in this process and reports the port; see `serving`."""
    from federated.server import config as server_config
    from federated.server import serve as program
    from tests.federated import toy

    root = pathlib.Path(folder)
    here = {"host": "127.0.0.1", "port": 0, "cross_site_evaluation": False}
    program.serve(
        server_config.ServerConfig(**{**here, **settings}),
        root / "store",
        root / "kits" / "server",
        root / "initial.safetensors",
        vocabulary=toy.VOCABULARY,
        on_ready=ports.put,
    )

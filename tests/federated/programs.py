"""Programs of a federation that are restarted whenever they are killed, and their results."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable

from tests import forked, waiting
from tests.federated import toy


class Program:
    """A program that is restarted whenever it is killed, with the next kill of its list."""

    def __init__(self, log, *arguments, kills=(), environment=None):
        self._log, self._arguments, self._kills, self._environment = (
            log,
            arguments,
            list(kills),
            environment or {},
        )
        self.deaths = 0
        self._start()

    def _start(self):
        kill = self._kills[: 1 if self._kills else 0]
        self.process = forked.start(
            "tests.federated.toy_process",
            [*self._arguments, *kill],
            out=self._log,
            errors=self._log,
            environment={**os.environ, "GRPC_VERBOSITY": "NONE", **self._environment},
        )

    def watch(self):
        """Returns whether the program has ended by itself; restarts it if it was killed."""
        code = self.process.poll()
        if code is None:
            return False
        if code == -signal.SIGKILL:
            self.deaths += 1
            self._kills = self._kills[1:]
            self._start()
            return False
        assert code == 0, self.log_text()
        return True

    @property
    def kills_left(self):
        return self._kills

    def kill(self):
        """Kills it wherever it is; `watch` restarts it."""
        if self.process.poll() is None:
            self.process.kill()

    def log_text(self):
        return self._log.read_text()[-3000:]

    def terminate(self):
        self.process.terminate()
        return self.process.wait(30)


def until(condition, *programs, seconds=60):
    """Waits for a condition that one of the programs makes true."""
    waiting.until(
        condition,
        *(program.process for program in programs),
        told=lambda: "\n".join(program.log_text() for program in programs),
        seconds=seconds,
    )


def federate(
    folder,
    kits,
    *,
    server_kills=(),
    site_kills=None,
    num_rounds=3,
    bulk=0,
    aggregation="fedavg",
    models=(),
    seconds=120,
    meanwhile: Callable[[dict], None] = lambda programs: None,
):
    """Runs a server and two sites to their end; returns (store folder, number of deaths).

    Args:
      server_kills, site_kills: points at which a program kills itself, one per start; every one
          must be reached.
      bulk: values of a further tensor, for updates of several chunks.
      aggregation: the server's rule.
      models: files that the server gives its sites to evaluate, with `num_rounds` 0.
      meanwhile: called repeatedly with the running programs.
    """
    folder.mkdir(exist_ok=True)
    store = folder / "store"
    initial = toy.write_initial(folder / "initial.safetensors", arrays=toy.initial(bulk))
    about = {
        "TOY_ROUNDS": str(num_rounds),
        "TOY_BULK": str(bulk),
        "TOY_AGGREGATION": aggregation,
        "TOY_MODELS": os.pathsep.join(map(str, models)),
    }
    programs = {
        "server": Program(
            folder / "server.log",
            "server",
            store,
            kits / "server",
            initial,
            kills=server_kills,
            environment=about,
        )
    }
    deadline = time.monotonic() + seconds
    try:
        until((store / "address.json").exists, programs["server"])
        port = json.loads((store / "address.json").read_text())["port"]
        for site in ("C1", "C2"):
            kills = (site_kills or {}).get(site, ())
            programs[site] = Program(
                folder / f"{site}.log",
                "site",
                folder / site,
                kits / site,
                port,
                kills=kills,
                environment=about,
            )
        running = set(programs)
        while running:
            meanwhile({name: programs[name] for name in sorted(running)})
            running -= {name for name in running if programs[name].watch()}
            assert time.monotonic() < deadline, "\n".join(
                programs[name].log_text() for name in running
            )
            waiting.look_again(*(programs[name].process for name in running))
        for name, program in programs.items():
            assert not program.kills_left, f"{name} never came to {program.kills_left[0]}"
        return store, sum(program.deaths for program in programs.values())
    finally:
        for program in programs.values():
            if program.process.poll() is None:
                program.process.kill()
                program.process.wait()


def results(store, num_rounds=3):
    """Returns all results of a run, byte by byte."""
    names = [
        *(f"global/round_{number:03d}.safetensors" for number in range(num_rounds + 1)),
        "best.safetensors",
        "selection.json",
        "rows.jsonl",
    ]
    return {
        name: (store / name).read_bytes()
        for name in [*names, "models/C1_baseline.safetensors", "models/C2_baseline.safetensors"]
    }

"""The same small run on our own service, NVFLARE and Flower: two sites with one trainer, over TLS.

Each server and each site is a separate process.

    python -m tests.benchmarks.engines --nvflare_python=.venv/nvflare/bin/python
    --flower_python=.venv/flower/bin/python --repetitions=2

Each environment holds this product's base installation, pytest and its engine (extras [nvflare] and
[flower]). ROUNDS (8) and VALUES (1000000 float32 values) change the run. The trainer only draws
random numbers, which takes hundredths of a second, so the time of a round is that of the engine.
The first two rounds are not counted. "whole run" begins with the first process.
"""

from __future__ import annotations

import argparse
import itertools
import os
import pathlib
import statistics
import sys
import tempfile
import time

from tests.benchmarks import side_by_side
from tests.benchmarks.side_by_side import Candidate

ROUNDS = int(os.environ.get("ROUNDS", "8"))
VALUES = int(os.environ.get("VALUES", "1000000"))


def _measure(engine: str) -> dict[str, float]:
    from federated.security import provisioning
    from tests.federated.engines.processes import Processes

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        os.environ["SEEDED_BULK"] = str(VALUES)
        os.environ["SEEDED_TIMES"] = str(folder / "times")
        from tests.federated.engines import seeded

        kits = provisioning.provision(folder / "kits", "localhost", ("C1", "C2"), port=0)
        initial = seeded.write_initial(folder / "initial.safetensors")
        processes = Processes(folder / "engine")
        processes.folder.mkdir()
        begun = time.time()
        try:
            if engine == "nvflare":
                from tests.federated.engines import nvflare_federation

                nvflare_federation.lead(processes, initial, num_rounds=ROUNDS)
            elif engine == "flower":
                from tests.federated.engines import flower_federation

                flower_federation.lead(processes, kits, initial, num_rounds=ROUNDS)
            else:
                from tests.federated.engines import own_federation

                own_federation.lead(processes, kits, initial, num_rounds=ROUNDS)
        finally:
            processes.stop()
        moments = [float(line) for line in (folder / "times").read_text().split()]
    assert len(moments) == ROUNDS
    steps = [after - before for before, after in itertools.pairwise(moments)]
    return {"seconds a round": statistics.median(steps[1:]), "whole run": time.time() - begun}


def own() -> dict[str, float]:
    return _measure("own")


def nvflare() -> dict[str, float]:
    return _measure("nvflare")


def flower() -> dict[str, float]:
    return _measure("flower")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nvflare_python", help="interpreter of NVFLARE's environment")
    parser.add_argument("--flower_python", help="interpreter of Flower's environment")
    parser.add_argument("--repetitions", type=int, default=3)
    flags = parser.parse_args()
    pythons = {
        "own": sys.executable,
        "nvflare": flags.nvflare_python,
        "flower": flags.flower_python,
    }
    candidates = [
        Candidate(name, f"tests.benchmarks.engines:{name}", python=python)
        for name, python in pythons.items()
        if python
    ]
    figures = side_by_side.measure(candidates, repetitions=flags.repetitions, warm_up=0)
    print(f"{VALUES} values, {ROUNDS} rounds")
    for figure in ("seconds a round", "whole run"):
        print(side_by_side.table(figures, figure=figure, reference="own"), flush=True)


if __name__ == "__main__":
    main()

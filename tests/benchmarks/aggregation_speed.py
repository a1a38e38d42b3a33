"""How long a server takes to aggregate a round under each rule, from files to files.

    .venv/py3.11/bin/python -m tests.benchmarks.aggregation_speed
    SITES=3,32 VALUES=10000000 ...    sites, float32 values of the model
    BEFORE=/tmp/before ...            also the weighted mean of the source tree in that folder

Updates lie in the page cache and are hashed as they are read; nothing is synced. The second round
is measured, so that a rule with a state reads one.
"""

from __future__ import annotations

import os
import pathlib
import sys
import tempfile
import time

from tests.benchmarks import peak_memory, side_by_side
from tests.benchmarks.side_by_side import Candidate

VALUES = int(os.environ.get("VALUES", "10000000"))


def write(folder: pathlib.Path, sites: int, values: int = VALUES) -> None:
    """Writes a global model and the updates of all sites."""
    import numpy as np

    from federated.tensors import tensor_files

    rng = np.random.default_rng(0)
    model = rng.normal(size=values).astype(np.float32)
    tensor_files.save(folder / "global", {"w": model})
    for number in range(sites):
        change = rng.normal(size=values).astype(np.float32) * np.float32(1e-3)
        tensor_files.save(folder / f"S{number:02d}", {"w": model + change})


def aggregate(folder: str, sites: int, rule: str, tree: str = "") -> dict[str, float]:
    """Aggregates two rounds; times the second one, and measures by how many MiB the peak of both is
    above the memory before them.
    """
    sys.path[:0] = [tree] if tree else []
    from federated.aggregation import rules, spooled_updates
    from federated.aggregation.spooled_updates import StoredFile, Targets
    from federated.rounds.rounds import Update
    from federated.tensors import tensor_files

    if tree and not spooled_updates.__file__.startswith(tree):
        raise RuntimeError(f"{spooled_updates.__file__} is not of {tree}")
    root, applied = pathlib.Path(folder), rules.parse(rule)

    def digest(path: pathlib.Path) -> str:
        with tensor_files.TensorFile(path) as file:
            return tensor_files.file_digest(file)

    updates = {
        path: Update(path.name, 1, 10 + number, digest(path))
        for number, path in enumerate(sorted(root.glob("S*"))[:sites])
    }
    model = StoredFile(root / "global", digest(root / "global"))
    with tensor_files.TensorFile(model.path) as file:
        specs = file.specs
    state, seconds, processor_seconds = None, 0.0, 0.0
    before_mib = peak_memory.reset()
    with tempfile.TemporaryDirectory(dir=root) as name:
        for number in (1, 2):
            targets = Targets(pathlib.Path(name) / f"m{number}", pathlib.Path(name) / f"s{number}")
            began, processor_began = time.perf_counter(), time.process_time()
            _, kept = spooled_updates.aggregate_spooled(
                applied, updates, targets, specs, {}, model=model, state=state
            )
            seconds = time.perf_counter() - began
            processor_seconds = time.process_time() - processor_began  # of all threads
            state = StoredFile(targets.state, kept.sha256) if kept else None
    return {
        "seconds": seconds,
        "processor_seconds": processor_seconds,
        "growth_mib": peak_memory.peak_mib() - before_mib,
    }


def main() -> None:
    from federated.aggregation import rules

    flags = side_by_side.arguments(__doc__)
    for sites in map(int, os.environ.get("SITES", "3,32").split(",")):
        with tempfile.TemporaryDirectory() as folder:
            write(pathlib.Path(folder), sites)
            about = {"folder": folder, "sites": sites}
            function = "tests.benchmarks.aggregation_speed:aggregate"
            candidates = [
                Candidate(name, function, arguments={**about, "rule": name}) for name in rules.RULES
            ]
            if tree := os.environ.get("BEFORE"):
                arguments = {**about, "rule": "fedavg", "tree": tree}
                candidates.insert(0, Candidate("fedavg before", function, arguments=arguments))
            figures = side_by_side.measure(candidates, repetitions=flags.repetitions)
        print(f"{sites} sites, {VALUES} values")
        for figure in ("seconds", "processor_seconds"):
            table = side_by_side.table(figures, figure=figure, reference="fedavg")
            print(f"{table}\n", flush=True)


if __name__ == "__main__":
    main()

"""Measures what docs/gpu.md reports of a GPU, beside PyTorch and MONAI on the same GPU.

    .venv/py3.12/bin/python -m tests.benchmarks.gpu_speed --peers_python=.venv/peers/bin/python

It prints a table for each batch of training steps (both precisions, deterministic or not, XLA with
what it keeps between processes), the demo's network, a whole mask, the share of the time that a
training at the paper's profile waits for its patches, the agreement of logits, and last which goals
are reached. The network is the paper's (32 filters, patches of 96^3, Dice and cross-entropy, Adam);
PyTorch's is that of pytorch_c2fnas.py. Each row is a process of its own, so that one does not pay
for the memory of another. A step's time is the median of those after the first four, a mask's that
of those after the first. Peak memory is what each framework's allocator held at most; the largest
difference in `agreement` is that of logits.

Without a GPU it says so and measures nothing. `--dry_run` goes through everything on the processor
with tiny sizes, to find mistakes before a GPU is paid for; its figures mean nothing. A row whose
package is missing is left out with the reason. `--limit_s` ends a row that hangs, `--only` and
`--batches` choose rows. `--output` keeps all figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from runkit import markdown_tables
from tests.benchmarks import gpu_targets
from tests.benchmarks.gpu_rows import FUNCTIONS, PEERS, STARTED
from tests.benchmarks.gpu_targets import Row

FULL = {"filters": 32, "size": 96, "volume": [360, 360, 200], "window": 160}
TINY = {"filters": 2, "size": 16, "volume": [24, 20, 18], "window": 16}

MIXED = {"precision": "mixed_float16"}
FAST = {"deterministic": False}
STEP_ROWS = [
    Row("ours, deterministic (the default)", "product"),
    Row("ours, deterministic, started again", "product"),
    Row("ours, not deterministic", "product", FAST),
    Row("ours, mixed_float16", "product", MIXED),
    Row("ours, mixed_float16, not deterministic", "product", {**MIXED, **FAST}),
    Row("ours, xla", "product", {"xla": True}, keeps="float32"),
    Row("ours, xla, started again", "product", {"xla": True}, keeps="float32"),
    Row("ours, xla, not deterministic", "product", {"xla": True, **FAST}),
    Row("ours, xla, mixed_float16", "product", {"xla": True, **MIXED}, keeps="half"),
    Row("ours, mixed_bfloat16", "product", {"precision": "mixed_bfloat16"}, batches=(2,)),
    Row("ours, deterministic, without TF32", "product", {"tf32": False}, batches=(2,)),
    Row("ours, with VAE branch", "product", {"vae": "reduced"}, batches=(2,)),
    Row("ours, on two logical GPUs", "product", {"replicas": 2}, batches=(2,)),
    Row("PyTorch, float32 (TF32), contiguous", "pytorch"),
    Row("PyTorch, float32 (TF32), channels last", "pytorch", {"layout": "channels_last_3d"}),
    Row("PyTorch, float16 autocast, contiguous", "pytorch", {"amp": "fp16"}),
    Row(
        "PyTorch, float16 autocast, channels last",
        "pytorch",
        {"amp": "fp16", "layout": "channels_last_3d"},
    ),
]
DEMO_ROWS = [
    Row("a site with tumours", "demo", {"distil": False}),
    Row("a site without, distil", "demo", {"distil": True}),
]
MASK_ROWS = [Row("ours", "mask"), Row("MONAI, PyTorch's network", "mask_monai")]
FEEDING_ROWS = [Row("ours, paper's profile", "feeding")]
AGREEMENT_ROWS = [Row("ours, agreement", "agreement", {"filters": 8, "size": 64})]
STEP_COLUMNS = {
    "step_s": "step, s",
    "patches_per_s": "patches/s",
    "forward_s": "forward, result on the host, s",
    "peak_gib": "peak, GiB",
    "estimated_gib": "estimated, GiB",
    "first_step_s": "first step, s",
    "second_step_s": "start to second step, s",
}
DEMO_COLUMNS = {name: STEP_COLUMNS[name] for name in ("step_s", "patches_per_s", "second_step_s")}
FEEDING_COLUMNS = {
    "data_wait_share": "share of waiting",
    "synthesize_s": "4 scans made, s",
    "prepare_s": "prepared, s",
}
MASK_COLUMNS = {
    "seconds": "mask, s",
    "first_s": "first mask, s",
    "peak_gib": "peak, GiB",
    "estimated_gib": "estimated, GiB",
}
AGREEMENT_COLUMNS = {
    "again": "twice",
    "tf32_from_float32": "TF32 from float32",
    "gpu_from_cpu": "GPU from processor, float32",
    "largest_logit": "largest logit",
    "voxels_of_another_class_with_tf32": "voxels of another class with TF32",
}


def kept_by_xla(folder: pathlib.Path) -> dict[str, str]:
    """Returns variables for XLA: deterministic kernels, and what it keeps between processes.

    The first process writes which kernels it chose, later ones read it; compiled programs are kept
    by TensorFlow. A TensorFlow that does not know a flag ends the row with that reason.
    """
    chosen = folder / "autotune.textproto"
    way = "load_autotune_results_from" if chosen.exists() else "dump_autotune_results_to"
    return {
        "XLA_FLAGS": f"--xla_gpu_exclude_nondeterministic_ops --xla_gpu_{way}={chosen}",
        "TF_XLA_FLAGS": f"--tf_xla_persistent_cache_directory={folder / 'programs'}",
    }


def measured(
    function: str,
    arguments: Mapping[str, Any],
    python: str,
    limit_s: float,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Returns the figures of one row, or {"skipped": reason}."""
    command = [python, "-m", "tests.benchmarks.gpu_speed", "--row", function]
    try:
        done = subprocess.run(
            [*command, json.dumps(arguments)],
            capture_output=True,
            text=True,
            timeout=limit_s,
            env={**os.environ, **(environment or {}), STARTED: str(time.time())},
        )
    except subprocess.TimeoutExpired:
        return {"skipped": f"not done after {limit_s:g} s"}
    except OSError as error:
        return {"skipped": f"{python}: {error.strerror}"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {"skipped": reason[:200]}
    return json.loads(lines[-1])


def table(
    heading: str, rows: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str]
) -> list[str]:
    """Returns a Markdown table; the rows that were left out follow with their reasons."""
    measured = [
        [name, *(_shown(figures.get(column)) for column in columns)]
        for name, figures in rows.items()
        if "skipped" not in figures
    ]
    return markdown_tables.lines([heading, *columns.values()], measured) + [
        f"left out: {name}: {figures['skipped']}"
        for name, figures in rows.items()
        if "skipped" in figures
    ]


def _shown(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.3g}"


class Bench:
    """Measures rows with what the command line chose, and keeps the figures of all of them.

    Attributes:
      found: heading -> name of a row -> its figures.
    """

    def __init__(self, given: argparse.Namespace, folder: pathlib.Path):
        self._given, self._folder = given, folder
        self._sizes = TINY if given.dry_run else FULL
        self.found: dict[str, dict[str, dict[str, Any]]] = {}

    def print(
        self, heading: str, rows: Sequence[Row], columns: Mapping[str, str], **more: Any
    ) -> None:
        """Measures the chosen rows and prints their table."""
        chosen = [row for row in rows if self._given.only in row.name]
        if not chosen:
            return
        self.found[heading] = {row.name: self._measured(row, more) for row in chosen}
        print("\n" + "\n".join(table(heading, self.found[heading], columns)), flush=True)

    def _measured(self, row: Row, more: Mapping[str, Any]) -> dict[str, Any]:
        kept = self._folder / f"{row.keeps}{more.get('batch', '')}"
        kept.mkdir(exist_ok=True)
        own = row.arguments
        if self._given.dry_run:
            own = {name: value for name, value in own.items() if name not in self._sizes}
        return measured(
            row.function,
            {**self._sizes, **more, **own},
            self._given.peers_python if row.function in PEERS else sys.executable,
            self._given.limit_s,
            kept_by_xla(kept) if row.keeps and not self._given.dry_run else None,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers_python", default=sys.executable)
    parser.add_argument("--batches", default="2,8", help="patches per step, separated by commas")
    parser.add_argument("--only", default="", help="only rows whose name holds this text")
    parser.add_argument("--limit_s", type=float, default=300.0, help="limit of each row")
    parser.add_argument("--output", help="file for all figures, as JSON")
    parser.add_argument("--dry_run", action="store_true", help="tiny sizes, on the processor too")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.row:
        print(json.dumps(FUNCTIONS[given.row[0]](**json.loads(given.row[1]))))
        return 0
    from c2fnas import gpus

    found = gpus.found()
    if not found and not given.dry_run:
        print("skipped: TensorFlow finds no GPU here; --dry_run tries the rows out without one")
        return 0
    print("; ".join(gpus.described()))
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(given, pathlib.Path(folder))
        for batch in map(int, given.batches.split(",")):
            rows = [row for row in STEP_ROWS if not row.batches or batch in row.batches]
            bench.print(f"batch {batch}", rows, STEP_COLUMNS, batch=batch)
        bench.print("demo", DEMO_ROWS, DEMO_COLUMNS)
        bench.print("mask", MASK_ROWS, MASK_COLUMNS)
        bench.print("feeding", FEEDING_ROWS, FEEDING_COLUMNS)
        bench.print("largest difference", AGREEMENT_ROWS, AGREEMENT_COLUMNS)
    print("\n" + "\n".join(gpu_targets.table(gpu_targets.goals(bench.found, STEP_ROWS))))
    if given.output:
        pathlib.Path(given.output).write_text(json.dumps(bench.found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

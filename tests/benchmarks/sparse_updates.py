"""Measures how many bytes a filtered update takes, and how fast it is packed and restored.

    .venv/py3.11/bin/python -m tests.benchmarks.sparse_updates --megabytes=64

The model has values of the size of a network's (standard deviation 0.05), and the update changes
each of them by noise of the size of an Adam step (0.001). This is the worst case for a compressor,
because all values and all changes differ. Bytes are those of the chunks as they are sent; the whole
update takes 100 %.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
import time

import numpy as np

from federated.privacy import percentile
from federated.tensors import codec, tensor_files
from federated.tensors.weights import CHUNK_BYTES

PERCENTILES = (0, 50, 75, 90, 99)


def measured(folder: pathlib.Path, values: int, given: float, transport: str) -> list[str]:
    """Returns a line of the table."""
    rng = np.random.default_rng(1)
    before = (0.05 * rng.standard_normal(values)).astype(np.float32)
    change = 1e-3 * rng.standard_normal(values)
    shared = percentile.largest(change, given) if given else np.ones(values, bool)
    after = np.where(shared, (before + change).astype(np.float32), before)
    tensor_files.save(folder / "before.safetensors", {"w": before})
    tensor_files.save(folder / "after.safetensors", {"w": after})
    with (
        tensor_files.TensorFile(folder / "before.safetensors") as model,
        tensor_files.TensorFile(folder / "after.safetensors") as update,
    ):
        began = time.perf_counter()
        sent = list(codec.chunks(update, transport=transport, before=model))
        packed_s = time.perf_counter() - began
        began = time.perf_counter()
        for chunk in sent:
            start = chunk.index * CHUNK_BYTES
            size = min(CHUNK_BYTES, update.nbytes - start)
            restored = codec.decoded(
                chunk, size, lambda at=start, count=size: model.read_range(at, count)
            )
            if bytes(restored) != update.read_range(start, size):
                raise AssertionError(f"chunk {chunk.index} is not what was packed")
        restored_s = time.perf_counter() - began
        share = sum(len(chunk.data) for chunk in sent) / update.nbytes
        megabytes = update.nbytes / 1e6
    return [
        f"{given:g}",
        transport,
        f"{100 * share:.1f} %",
        f"{megabytes / packed_s:.0f} MB/s",
        f"{megabytes / restored_s:.0f} MB/s",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=64)
    flags = parser.parse_args()
    print("percentile  transport  bytes    packed     restored")
    with tempfile.TemporaryDirectory() as folder:
        for transport in ("raw", "deflate"):
            for given in PERCENTILES:
                line = measured(pathlib.Path(folder), flags.megabytes * 250_000, given, transport)
                print("  ".join(line), flush=True)


if __name__ == "__main__":
    main()

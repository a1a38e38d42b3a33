"""Times forward pass and training step of C2FNAS beside the same network in PyTorch, on a CPU.

    .venv/py3.11/bin/python -m tests.benchmarks.network_speed --peers_python=.venv/peers/bin/python

The setting is 8 filters, patches of 64^3 voxels, batch 2, no VAE branch, Dice and cross-entropy,
Adam, float32. PyTorch's network is built in its own environment from the same table of cells and
gets the weights made here; its logits must agree to 1e-4 before anything is timed. It runs in both
memory formats, and the faster one is the reference. Memory is the highest resident size during the
steps, less the resident size with model, optimizer and batch in place.
"""

from __future__ import annotations

import pathlib
import statistics
import tempfile
import time

FILTERS, SIZE, BATCH = 8, 64, 2
STEPS = 5  # timed in each process, after two that are not timed
RATE = 1e-4


def prepare(folder: str) -> dict[str, float]:
    """Writes weights, batch and the product's logits to `folder`/shared.npz."""
    import numpy as np

    from c2fnas import genotype, named_weights, network

    built = network.build(
        genotype.load("c2fnas").with_size(filters=FILTERS),
        patch_size=(SIZE,) * 3,
        vae=None,
        seed=1,
    )
    rng = np.random.default_rng(0)
    arrays = named_weights.read(built)
    for name, array in arrays.items():
        # Other values than those at the start, so that a forgotten weight shows. A beta near 1
        # leaves most voxels above the ReLU's 0. With a beta around 0 the network is chaotic: 36
        # norms amplify the last bit of either framework to 1e-3.
        if name.endswith(("gamma", "beta", "bias")):
            arrays[name] = (
                array
                + rng.uniform(-0.3, 0.3, array.shape).astype(np.float32)
                + float(name.endswith("beta"))
            )
    named_weights.assign(built, arrays)
    # Smooth, as organs are: on noise, 36 norms amplify the last bit of either framework beyond
    # the tolerance.
    x, y, z = np.meshgrid(*[np.linspace(0, 1, SIZE)] * 3, indexing="ij")
    waves = [
        np.sin(7 * x + 3 * y + turn) * np.cos(5 * z - 2 * x) * 0.8
        + 0.2 * np.cos(23 * x * y + 11 * z)
        for turn in range(BATCH)
    ]
    image = np.stack(waves)[..., np.newaxis].astype(np.float16)
    label = (image[..., 0] > 0.3).astype(np.uint8) + (image[..., 0] > 0.7)
    logits = built.segmenter(image.astype(np.float32)).numpy()
    np.savez(pathlib.Path(folder) / "shared.npz", image=image, label=label, logits=logits, **arrays)
    return {}


def ours(folder: str, *, threads: int = 2) -> dict[str, float]:
    """Times the compiled step and forward pass here, with batches as a training gets them."""
    import numpy as np
    import tensorflow as tf

    from c2fnas import genotype, named_weights, network, training
    from c2fnas.threads import set_up
    from tests.benchmarks.steps import training_config

    set_up(1, threads, samples=BATCH)
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    shared = dict(np.load(pathlib.Path(folder) / "shared.npz"))
    batch = {
        "image": shared.pop("image"),
        "label": shared.pop("label"),
        "sample_seed": np.zeros((BATCH, 2), np.int32),
    }
    expected = shared.pop("logits")
    with strategy.scope():
        built = network.build(
            genotype.load("c2fnas").with_size(filters=FILTERS), patch_size=(SIZE,) * 3, vae=None
        )
    named_weights.assign(built, shared)
    config = training_config(batch_size=BATCH, total_steps=100, learning_rate=RATE)
    trainer = training.Trainer(built, config, strategy)

    seconds: list[float] = []
    forward = trainer.logits_fn()
    image = batch["image"].astype(np.float32)
    memory = _Memory()
    error = float(np.abs(forward(image) - expected).max())
    if error > 1e-4:
        raise ValueError(f"the product's logits changed by {error:.2g}")
    forward_seconds = _timed(lambda: forward(image))
    forward_mib = memory.above()
    data = tf.data.Dataset.from_tensors(batch).repeat()
    memory = _Memory()
    before = time.perf_counter()

    def on_step(step, values):
        nonlocal before
        now = time.perf_counter()
        seconds.append(now - before)
        before = now

    parts = trainer.train(lambda start, stop: data.take(stop - start), STEPS + 2, on_step=on_step)
    return {
        "forward_s": forward_seconds,
        "step_s": statistics.median(seconds[2:]),
        "forward_mib": forward_mib,
        "step_mib": memory.above(),
        "loss": parts["total"],
    }


def pytorch(folder: str, *, memory_format: str, threads: int = 2) -> dict[str, float]:
    """Times PyTorch's forward pass and training step with the same network."""
    import numpy as np
    import torch
    from torch.nn import functional as F

    from tests.benchmarks.pytorch_c2fnas import C2FNAS

    torch.set_num_threads(threads)
    layout = getattr(torch, memory_format)
    shared = dict(np.load(pathlib.Path(folder) / "shared.npz"))

    def to_torch(voxels):
        return torch.from_numpy(np.moveaxis(voxels, -1, 1).astype(np.float32).copy())

    image = to_torch(shared.pop("image")).contiguous(memory_format=layout)
    label = torch.from_numpy(shared.pop("label").astype(np.int64))
    expected = to_torch(shared.pop("logits"))
    model = C2FNAS(FILTERS)
    model.load_arrays(shared)
    model = model.to(memory_format=layout)
    adam = torch.optim.Adam(model.parameters(), lr=RATE, eps=1e-7)

    def forward():
        with torch.inference_mode():
            return model(image)

    memory = _Memory()
    error = float((forward() - expected).abs().max())
    if error > 1e-4:
        raise ValueError(f"PyTorch's logits differ by {error:.2g}: not the same network")
    forward_seconds = _timed(forward)
    forward_mib = memory.above()
    truth = F.one_hot(label, 3).movedim(-1, 1).float()
    memory = _Memory()
    losses = []

    def step():
        logits = model(image)
        probabilities = torch.softmax(logits, 1)
        overlap = (probabilities * truth).sum((2, 3, 4))
        total = probabilities.sum((2, 3, 4)) + truth.sum((2, 3, 4))
        loss = 1 - ((2 * overlap + 1e-5) / (total + 1e-5)).mean() + F.cross_entropy(logits, label)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))

    seconds = _timed(step)
    return {
        "forward_s": forward_seconds,
        "step_s": seconds,
        "forward_mib": forward_mib,
        "step_mib": memory.above(),
        "loss": statistics.mean(losses),
    }


def _timed(work) -> float:
    seconds = []
    for _ in range(STEPS + 2):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


class _Memory:
    """Measures by how much the resident size has risen at most since this was made. Linux only."""

    def __init__(self):
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        self._start = self._status("VmRSS")

    def above(self) -> float:
        return self._status("VmHWM") - self._start

    @staticmethod
    def _status(name: str) -> float:
        for line in pathlib.Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) / 1024
        raise ValueError(f"the kernel reports no {name}")


def main() -> None:
    from tests.benchmarks.side_by_side import Candidate, arguments, measure, table

    flags = arguments(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        module = "tests.benchmarks.network_speed"
        candidates = [Candidate("ours", f"{module}:ours", arguments={"folder": folder})]
        if flags.peers_python:
            candidates += [
                Candidate(
                    f"PyTorch, {layout}",
                    f"{module}:pytorch",
                    flags.peers_python,
                    {"folder": folder, "memory_format": layout},
                )
                for layout in ("contiguous_format", "channels_last_3d")
            ]
        figures = measure(candidates, repetitions=flags.repetitions)
    reference = min(
        (c.name for c in candidates[1:]),
        key=lambda name: statistics.median(figures[name]["step_s"]),
        default="ours",
    )
    for figure in ("step_s", "forward_s", "step_mib", "forward_mib", "loss"):
        print(table(figures, figure=figure, reference=reference), end="\n\n")


if __name__ == "__main__":
    main()

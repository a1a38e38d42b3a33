"""Times a training step and a whole mask on a GPU, beside PyTorch and MONAI on the same GPU.

    .venv/py3.12/bin/python -m tests.benchmarks.gpu_speed --peers_python=.venv/peers/bin/python

The network is the paper's (32 filters, patches of 96^3, Dice and cross-entropy, Adam); PyTorch's is
that of pytorch_c2fnas.py. Each row is a process of its own, so that one does not pay for the memory
of another. A step's time is the median of those after the first four, a mask's that of those after
the first. Peak memory is what each framework's allocator held at most; the largest difference in
`agreement` is that of logits.

Without a GPU it says so and measures nothing. `--dry_run` goes through everything on the processor
with tiny sizes, to find mistakes before a GPU is paid for; its figures mean nothing. A row whose
package is missing is left out with the reason. `--limit_s` ends a row that hangs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

WARM_UP, STEPS = 4, 10
WINDOWS_A_CALL = 4  # of MONAI
FULL = {"filters": 32, "size": 96, "volume": [360, 360, 200], "window": 160}
TINY = {"filters": 2, "size": 16, "volume": [24, 20, 18], "window": 16}

# name of a row, function, arguments
STEP_ROWS: list[tuple[str, str, dict[str, Any]]] = [
    ("ours, deterministic (the default)", "product", {}),
    ("ours, deterministic, without TF32", "product", {"tf32": False}),
    ("ours, not deterministic", "product", {"deterministic": False}),
    ("ours, xla", "product", {"xla": True}),
    ("ours, xla, not deterministic", "product", {"xla": True, "deterministic": False}),
    ("ours, mixed_float16", "product", {"precision": "mixed_float16"}),
    ("ours, mixed_bfloat16", "product", {"precision": "mixed_bfloat16"}),
    ("ours, with VAE branch", "product", {"vae": "reduced"}),
    ("ours, on two logical GPUs", "product", {"replicas": 2}),
    ("PyTorch, float32 (TF32), contiguous", "pytorch", {}),
    ("PyTorch, float32 (TF32), channels last", "pytorch", {"layout": "channels_last_3d"}),
    ("PyTorch, float16 autocast, contiguous", "pytorch", {"amp": "fp16"}),
    (
        "PyTorch, float16 autocast, channels last",
        "pytorch",
        {"amp": "fp16", "layout": "channels_last_3d"},
    ),
]
MASK_ROWS: list[tuple[str, str, dict[str, Any]]] = [
    ("ours", "mask", {}),
    ("MONAI, PyTorch's network", "mask_monai", {}),
]
STEP_COLUMNS = {
    "step_s": "step, s",
    "patches_per_s": "patches/s",
    "forward_s": "forward, result on the host, s",
    "peak_gib": "peak, GiB",
    "estimated_gib": "estimated, GiB",
    "first_step_s": "first step, s",
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


def batch_of_waves(size: int, batch: int) -> tuple[Any, Any]:
    """Returns a smooth image float16 [b, x, y, z, 1] and a label uint8 [b, x, y, z]."""
    import numpy as np

    x, y, z = np.meshgrid(*[np.linspace(0, 1, size)] * 3, indexing="ij")
    waves = [
        np.sin(7 * x + 3 * y + turn) * np.cos(5 * z - 2 * x) * 0.8
        + 0.2 * np.cos(23 * x * y + 11 * z)
        for turn in range(batch)
    ]
    image = np.stack(waves)[..., np.newaxis].astype(np.float16)
    return image, (image[..., 0] > 0.3).astype(np.uint8) + (image[..., 0] > 0.7)


def product(
    *,
    filters: int,
    size: int,
    batch: int,
    precision: str = "float32",
    vae: str | None = None,
    xla: bool = False,
    deterministic: bool = True,
    tf32: bool = True,
    replicas: int = 1,
    **_: Any,
) -> dict[str, float]:
    """Times training steps of the product."""
    import numpy as np
    import tensorflow as tf

    from c2fnas import genotype, gpus, memory, network, threads, training
    from experiments.models import devices

    cards = tf.config.list_physical_devices("GPU")
    if replicas > 1:
        kind = cards[0] if cards else tf.config.list_physical_devices("CPU")[0]
        limit = 15_000 if cards else None
        tf.config.set_logical_device_configuration(
            kind, [tf.config.LogicalDeviceConfiguration(memory_limit=limit)] * replicas
        )
        tf.config.experimental.enable_tensor_float_32_execution(tf32)
    else:
        gpus.set_up(0, tf32)
    threads.set_up(1, 8, deterministic, samples=batch)
    kind = "GPU" if cards else "CPU"
    strategy = devices.mirrored([f"{kind}:{number}" for number in range(replicas)])
    image, label = batch_of_waves(size, batch)
    with strategy.scope():
        built = network.build(
            genotype.load("c2fnas").with_size(filters=filters),
            patch_size=(size,) * 3,
            vae=vae,
            precision=precision,
            seed=1,
        )
    config = training.TrainingConfig(
        batch_size=batch,
        total_steps=100,
        learning_rate=1e-4,
        final_learning_rate=1e-5,
        vae_rate=1.0,
        clip_norm=0.0,
        non_finite="stop",
        seed=1,
    )
    trainer = training.Trainer(built, config, strategy, xla=xla and bool(cards))
    seeds = np.zeros((batch, 2), np.int32)
    data = tf.data.Dataset.from_tensors({"image": image, "label": label, "sample_seed": seeds})
    times = [time.perf_counter()]
    trainer.train(
        lambda first, last: data.repeat().take(last - first),
        WARM_UP + STEPS,
        on_step=lambda step, values: times.append(time.perf_counter()),
    )
    peak = _peak_gib(tf, replicas) if cards else float("nan")
    forward, logits = [], trainer.logits_fn()
    for _repetition in range(6):
        start = time.perf_counter()
        logits(image.astype(np.float32))
        forward.append(time.perf_counter() - start)
    estimate = memory.training_step(built, batch // replicas).total / 2**30
    return {**_of_steps(times, forward, batch), "peak_gib": peak, "estimated_gib": estimate}


def pytorch(
    *,
    filters: int,
    size: int,
    batch: int,
    amp: str | None = None,
    layout: str = "contiguous_format",
    **_: Any,
) -> dict[str, float]:
    """Times training steps of the same network in PyTorch."""
    import numpy as np
    import torch
    from torch.nn import functional

    from tests.benchmarks.pytorch_c2fnas import C2FNAS

    torch.backends.cudnn.benchmark = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = True
    on = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    image, label = batch_of_waves(size, batch)
    voxels = torch.from_numpy(np.moveaxis(image, -1, 1).astype(np.float32).copy()).to(on)
    voxels = voxels.contiguous(memory_format=getattr(torch, layout))
    labels = torch.from_numpy(label.astype(np.int64)).to(on)
    model = C2FNAS(filters).to(on).to(memory_format=getattr(torch, layout))
    adam = torch.optim.Adam(model.parameters(), lr=1e-4, eps=1e-7, fused=on.type == "cuda")
    truth = functional.one_hot(labels, 3).movedim(-1, 1).float()
    half = amp == "fp16" and on.type == "cuda"
    scaler = torch.amp.GradScaler(on.type, enabled=half)
    times, forward = [time.perf_counter()], []
    for _step in range(WARM_UP + STEPS):
        with torch.autocast(on.type, torch.float16, enabled=half):
            logits = model(voxels)
        logits = logits.float()
        probabilities = torch.softmax(logits, 1)
        overlap = (probabilities * truth).sum((2, 3, 4))
        total = probabilities.sum((2, 3, 4)) + truth.sum((2, 3, 4))
        dice = 1 - ((2 * overlap + 1e-5) / (total + 1e-5)).mean()
        loss = dice + functional.cross_entropy(logits, labels)
        adam.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(adam)
        scaler.update()
        float(loss.detach())
        if on.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter())
    peak = torch.cuda.max_memory_allocated() / 2**30 if on.type == "cuda" else float("nan")
    with torch.inference_mode(), torch.autocast(on.type, torch.float16, enabled=half):
        for _repetition in range(6):
            start = time.perf_counter()
            model(voxels).float().cpu()
            forward.append(time.perf_counter() - start)
    return {**_of_steps(times, forward, batch), "peak_gib": peak}


def mask(*, filters: int, volume: Sequence[int], window: int, **_: Any) -> dict[str, float]:
    """Times a whole mask by the product's sliding window, a quarter of overlap."""
    import numpy as np
    import tensorflow as tf

    from c2fnas import genotype, gpus, inference, memory, network, sliding_window, threads

    gpus.set_up()
    threads.set_up(1, 16, samples=1)
    built = network.build(
        genotype.load("c2fnas").with_size(filters=filters),
        patch_size=(window,) * 3,
        vae=None,
        seed=1,
    )
    voxels = np.random.default_rng(0).uniform(-1, 1, volume).astype(np.float32)
    config = sliding_window.WindowConfig(size=(window,) * 3, overlap=0.25, blending="constant")
    logits, seconds = inference.logits_fn(built), []
    for _repetition in range(4):
        start = time.perf_counter()
        inference.segment(voxels, logits, config)
        seconds.append(time.perf_counter() - start)
    return {
        "seconds": statistics.median(seconds[1:]),
        "first_s": seconds[0],
        "peak_gib": _peak_gib(tf, 1) if gpus.is_used() else float("nan"),
        "estimated_gib": memory.window(built, (window,) * 3) / 2**30,
    }


def mask_monai(*, filters: int, volume: Sequence[int], window: int, **_: Any) -> dict[str, float]:
    """Times the same by MONAI's sliding window with PyTorch's network."""
    import numpy as np
    import torch
    from monai.inferers import sliding_window_inference

    from tests.benchmarks.pytorch_c2fnas import C2FNAS

    torch.backends.cudnn.benchmark = torch.backends.cudnn.allow_tf32 = True
    on = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = C2FNAS(filters).to(on).eval()
    array = np.random.default_rng(0).uniform(-1, 1, volume).astype(np.float32)
    voxels, seconds = torch.from_numpy(array)[None, None], []
    for _repetition in range(4):
        start = time.perf_counter()
        with torch.inference_mode():
            logits = sliding_window_inference(
                voxels.to(on), (window,) * 3, WINDOWS_A_CALL, model, overlap=0.25, mode="constant"
            )
            logits.argmax(1).to(torch.uint8).cpu()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 2**30 if on.type == "cuda" else float("nan")
    return {"seconds": statistics.median(seconds[1:]), "first_s": seconds[0], "peak_gib": peak}


def agreement(*, filters: int, size: int, **_: Any) -> dict[str, float]:
    """Compares the logits of one network: GPU twice, with and without TF32, GPU and processor."""
    import numpy as np
    import tensorflow as tf

    from c2fnas import genotype, gpus, named_weights, network, threads

    gpus.set_up()
    threads.set_up(1, 8, samples=2)
    gpu = "GPU:0" if gpus.is_used() else "CPU:0"
    voxels = batch_of_waves(size, 2)[0].astype(np.float32)
    built = network.build(
        genotype.load("c2fnas").with_size(filters=filters),
        patch_size=(size,) * 3,
        vae=None,
        seed=1,
    )
    rng, arrays = np.random.default_rng(0), named_weights.read(built)
    for name, array in arrays.items():
        if name.endswith(("gamma", "beta", "bias")):
            moved = array + rng.uniform(-0.3, 0.3, array.shape).astype(np.float32)
            arrays[name] = moved + float(name.endswith("beta"))
    named_weights.assign(built, arrays)

    def on(device: str) -> Any:
        with tf.device(device):
            return built.segmenter(voxels).numpy()

    first, again = on(gpu), on(gpu)
    tf.config.experimental.enable_tensor_float_32_execution(False)
    exact, processor = on(gpu), on("CPU:0")
    return {
        "again": float(np.abs(first - again).max()),
        "tf32_from_float32": float(np.abs(first - exact).max()),
        "gpu_from_cpu": float(np.abs(exact - processor).max()),
        "largest_logit": float(np.abs(processor).max()),
        "voxels_of_another_class_with_tf32": float(
            (first.argmax(-1) != processor.argmax(-1)).mean()
        ),
    }


def _peak_gib(tf: Any, replicas: int) -> float:
    peaks = [
        tf.config.experimental.get_memory_info(f"GPU:{number}")["peak"]
        for number in range(replicas)
    ]
    return max(peaks) / 2**30


def _of_steps(times: Sequence[float], forward: Sequence[float], batch: int) -> dict[str, float]:
    steps = [end - begin for begin, end in itertools.pairwise(times)]
    step = statistics.median(steps[WARM_UP:])
    return {
        "step_s": step,
        "first_step_s": steps[0],
        "patches_per_s": batch / step,
        "forward_s": statistics.median(forward[1:]),
    }


FUNCTIONS = {
    function.__name__: function for function in (product, pytorch, mask, mask_monai, agreement)
}
_PEERS = ("pytorch", "mask_monai")


def measured(function: str, arguments: Mapping[str, Any], python: str, limit_s: float) -> dict:
    """Returns the figures of one row, or {"skipped": reason}."""
    command = [python, "-m", "tests.benchmarks.gpu_speed", "--row", function]
    try:
        done = subprocess.run(
            [*command, json.dumps(arguments)], capture_output=True, text=True, timeout=limit_s
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
    lines = [f"| {heading} | {' | '.join(columns.values())} |", "|---|" + "---|" * len(columns)]
    for name, figures in rows.items():
        if "skipped" not in figures:
            cells = [_shown(figures.get(column)) for column in columns]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines + [
        f"left out: {name}: {figures['skipped']}"
        for name, figures in rows.items()
        if "skipped" in figures
    ]


def _shown(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.3g}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers_python", default=sys.executable)
    parser.add_argument("--batches", default="2,8", help="patches per step, separated by commas")
    parser.add_argument("--only", default="", help="only rows whose name holds this text")
    parser.add_argument("--limit_s", type=float, default=300.0, help="limit of each row")
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
    sizes = TINY if given.dry_run else FULL

    def results(rows: Sequence[tuple[str, str, dict[str, Any]]], **more: Any) -> dict[str, Any]:
        return {
            name: measured(
                function,
                {**sizes, **more, **own},
                given.peers_python if function in _PEERS else sys.executable,
                given.limit_s,
            )
            for name, function, own in rows
            if given.only in name
        }

    for batch in map(int, given.batches.split(",")):
        lines = table(f"batch {batch}", results(STEP_ROWS, batch=batch), STEP_COLUMNS)
        print("\n" + "\n".join(lines), flush=True)
    volume = " x ".join(map(str, sizes["volume"]))
    print("\n" + "\n".join(table(f"mask of {volume}", results(MASK_ROWS), MASK_COLUMNS)))
    if given.only in "agreement":
        small = {**sizes, "filters": min(8, sizes["filters"]), "size": min(64, sizes["size"])}
        rows = {"ours": measured("agreement", small, sys.executable, given.limit_s)}
        print("\n" + "\n".join(table("largest difference", rows, AGREEMENT_COLUMNS)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

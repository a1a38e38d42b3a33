"""What each row of gpu_speed.py measures, one function each, in a process of its own."""

from __future__ import annotations

import itertools
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

WARM_UP, STEPS = 4, 10
WINDOWS_A_CALL = 4  # of MONAI
STARTED = "GPU_SPEED_STARTED"  # variable with the time at which a row's process was started


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

    from c2fnas import genotype, gpu_memory, gpus, network, threads, training
    from experiments.models import strategies

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
    strategy = strategies.mirrored([f"{kind}:{number}" for number in range(replicas)])
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
    times, second = _steps_of(trainer, image, label)
    peak = _peak_gib(tf, replicas) if cards else float("nan")
    forward, logits = [], trainer.logits_fn()
    for _repetition in range(6):
        start = time.perf_counter()
        logits(image.astype(np.float32))
        forward.append(time.perf_counter() - start)
    estimate = gpu_memory.training_step(built, batch // replicas).total / 2**30
    measured = {"peak_gib": peak, "estimated_gib": estimate, "second_step_s": second}
    return {**_of_steps(times, forward, batch), **measured}


def _steps_of(trainer: Any, image: Any, label: Any) -> tuple[list[float], float]:
    """Takes steps; returns their ends, and the seconds from the process' start to the second."""
    import numpy as np
    import tensorflow as tf

    seeds = np.zeros((len(image), 2), np.int32)
    data = tf.data.Dataset.from_tensors({"image": image, "label": label, "sample_seed": seeds})
    times, clock = [time.perf_counter()], []

    def on_step(step: int, values: Mapping[str, float]) -> None:
        times.append(time.perf_counter())
        clock.append(time.time())

    trainer.train(
        lambda first, last: data.repeat().take(last - first), WARM_UP + STEPS, on_step=on_step
    )
    return times, clock[1] - float(os.environ.get(STARTED, "nan"))


def demo(*, filters: int, size: int, distil: bool, **_: Any) -> dict[str, float]:
    """Times steps of the demo's network, of the site with tumours or of that without them."""
    from c2fnas import gpus, threads
    from c2fnas.missing_labels import NONE, MissingLabels
    from experiments import flags as experiment_flags
    from experiments.models import builders, strategies

    experiment_flags.define_experiment()
    changes = [] if filters >= 8 else [f"--filters={filters}", f"--patch_size={size},{size},{size}"]
    config, _text = experiment_flags.parse_experiment(
        ["--flagfile=experiments/flagfiles/demo.flags", *changes]
    )
    gpus.set_up()
    threads.set_up(1, 8, samples=config.batch_size)
    missing = (
        MissingLabels(classes=(2,), treatment=config.missing_labels, evidence=True)
        if distil
        else NONE
    )
    trainer = builders.build_trainer(
        config, strategies.mirrored(), total_steps=100, missing=missing
    )
    trainer.set_received(trainer.weights())
    image, label = batch_of_waves(config.patch_size[0], config.batch_size)
    times, second = _steps_of(trainer, image, label % 2 if distil else label)
    return {**_of_steps(times, [0.0, 0.0], config.batch_size), "second_step_s": second}


def feeding(*, filters: int, **_: Any) -> dict[str, float]:
    """Trains on prepared synthetic scans; returns the share of the time spent waiting for them."""
    real = filters >= 8
    flags = ["--flagfile=experiments/flagfiles/paper.flags"] if real else [
        "--flagfile=experiments/flagfiles/demo.flags", "--filters=2", "--patch_size=16,16,16",
        "--spacing_mm=8,8,8", "--missing_labels=background", "--inference_window=16,16,16",
    ]  # fmt: skip
    flags += ["--num_rounds=2", "--local_epochs=1", "--validation_every=2"]
    flags += [f"--patches_per_case={80 if real else 4}"]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        cohort, site = folder / "cohort", folder / "site"
        initial = folder / "initial.safetensors"
        made = _program("synthesize", "--site=C2", "--cases=4", "--workers=0", f"--output={cohort}")
        prepared = _program(
            "prepare", *flags, f"--manifest={cohort / 'manifest.json'}", "--site=C2",
            f"--site_folder={site}", "--split=2,1,1", "--workers=0",
        )  # fmt: skip
        _program("init_model", *flags, f"--output={initial}")
        trained = _program(
            "train_local", *flags, f"--site_folder={site}", f"--initial_model={initial}"
        )
    waits = re.findall(r"data_wait_share=([0-9.]+)", trained[1])
    return {
        "data_wait_share": float(waits[-1]),
        "synthesize_s": made[0],
        "prepare_s": prepared[0],
    }


def _program(name: str, *arguments: str) -> tuple[float, str]:
    """Runs a program of the product; returns its seconds and its log."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", *arguments], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{name}: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    return time.perf_counter() - start, done.stderr


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

    from c2fnas import genotype, gpu_memory, gpus, inference, network, sliding_window, threads

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
        "estimated_gib": gpu_memory.window(built, (window,) * 3) / 2**30,
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
    function.__name__: function
    for function in (product, pytorch, mask, mask_monai, agreement, demo, feeding)
}
PEERS = ("pytorch", "mask_monai")

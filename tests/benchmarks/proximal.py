"""Times a training step with FedProx's proximal term, beside the same step without it.

At the demo's size: 8 filters, patches of 48^3 voxels, batch 2. Both trainings take their steps in
turn in one process, and the ratio is that of processor time, so that other programs on the machine
matter little.

    .venv/py3.11/bin/python -m tests.benchmarks.proximal
"""

from __future__ import annotations

import argparse
import statistics
import time

_LEFT_OUT = 2  # the first steps, which compile


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=16, help="steps of each training")
    parser.add_argument("--threads", type=int, default=2, help="TensorFlow threads")
    flags = parser.parse_args()
    import numpy as np
    import tensorflow as tf

    from c2fnas import genotype, network, training
    from c2fnas.threads import set_up
    from tests.benchmarks.steps import training_config

    set_up(1, flags.threads, samples=2)
    gene = genotype.load("c2fnas").with_size(filters=8, classes=3)
    trainers = {}
    for weight in (0.0, 0.01):
        built = network.build(gene, patch_size=(48, 48, 48))
        total = flags.steps + _LEFT_OUT
        config = training_config(batch_size=2, total_steps=total, proximal_weight=weight)
        trainers[weight] = training.Trainer(built, config, tf.distribute.get_strategy())
        trainers[weight].set_received(trainers[weight].weights())
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.uniform(-1, 1, (2, 48, 48, 48, 1)).astype(np.float16),
        "label": rng.integers(0, 2, (2, 48, 48, 48), dtype=np.uint8),
        "sample_seed": np.zeros((2, 2), np.int32),
    }
    data = tf.data.Dataset.from_tensors(batch)
    seconds: dict[float, list[tuple[float, float]]] = {weight: [] for weight in trainers}
    for step in range(1, flags.steps + _LEFT_OUT + 1):
        for weight, trainer in trainers.items():
            begin = time.perf_counter(), time.process_time()
            trainer.train(lambda start, stop: data, step)
            taken = time.perf_counter() - begin[0], time.process_time() - begin[1]
            seconds[weight].append(taken)
    kept = {weight: values[_LEFT_OUT:] for weight, values in seconds.items()}
    for weight, values in kept.items():
        wall, cpu = (statistics.median(column) for column in zip(*values, strict=True))
        print(f"proximal_weight={weight:g}: {wall:.3f} s, {cpu:.3f} s of processor time per step")
    for name, column in (("wall clock", 0), ("processor time", 1)):
        pairs = zip(*(kept[weight] for weight in (0.01, 0.0)), strict=True)
        ratios = sorted(term[column] / plain[column] for term, plain in pairs)
        low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        middle = statistics.median(ratios)
        print(f"ratio by {name}: {middle:.3f} (quartiles {low:.3f} - {high:.3f})")


if __name__ == "__main__":
    main()

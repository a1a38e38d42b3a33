"""Compares a supernet's step with a step of the published network of the same width.

    .venv/py3.11/bin/python -m tests.benchmarks.search_step

Both networks are in one process and take turns, so a machine that slows down slows both. A step of
the supernet draws its path, as a search does. The published genotype's own path shows what the
supernet costs on top of the same arithmetic: choosing, and weights of other paths. Paths drawn
uniformly show what a search pays: it applies conv3d less often than the published genotype does.
The functions are traced once each, however many paths are taken; the benchmark checks that. On a
machine that others use too, compare the CPU times.
"""

from __future__ import annotations

import argparse
import statistics
import time

FILTERS, PATCH, BATCH = 8, 48, 2

Times = list[tuple[float, float]]  # of each step: seconds on the wall clock, and of all cores


def measure(
    *, filters: int, patch: int, batch: int, turns: int, threads: int
) -> tuple[dict[str, Times], float, int]:
    """Measures steps of each kind.

    Returns:
      The times of a step of each kind, the seconds that drawing and setting a path takes, and how
      often the supernet's step was traced.
    """
    import numpy as np
    import tensorflow as tf

    from c2fnas import genotype, network, training
    from c2fnas.search import supernet
    from c2fnas.search.operation_space import OperationSpace
    from c2fnas.search.paths import path_at
    from c2fnas.search.supernet_trainer import SupernetTrainer
    from c2fnas.threads import set_up
    from tests.benchmarks.steps import training_config

    set_up(1, threads, samples=batch)
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    published = genotype.load("c2fnas").with_size(filters=filters)
    space = OperationSpace(published)
    config = training_config(batch_size=batch, total_steps=10**6)
    with strategy.scope():
        alone = training.Trainer(
            network.build(published, patch_size=(patch,) * 3), config, strategy
        )
        shared = SupernetTrainer(supernet.build(space, patch_size=(patch,) * 3), config, strategy)
    rng = np.random.default_rng(0)
    one = {
        "image": rng.uniform(-1, 1, (batch, *(patch,) * 3, 1)).astype(np.float16),
        "label": rng.integers(0, 2, (batch, *(patch,) * 3), dtype=np.uint8),
        "sample_seed": np.zeros((batch, 2), np.int32),
    }
    data = tf.data.Dataset.from_tensors(one).repeat()

    def take(trainer, gene=None) -> tuple[float, float]:
        begin, used = time.perf_counter(), time.process_time()
        if gene is None:
            trainer.train(lambda first, last: data.take(last - first), trainer.step + 1)
        else:  # as SupernetTrainer.train, with this path instead of the step's own
            shared.supernet.choose(gene)
            training.Trainer.train(
                trainer, lambda first, last: data.take(last - first), trainer.step + 1
            )
        return time.perf_counter() - begin, time.process_time() - used

    kinds = {
        "published network": lambda: take(alone),
        "its path of the supernet": lambda: take(shared, space.gene_of(published)),
        "paths drawn uniformly": lambda: take(shared),
    }
    times: dict[str, Times] = {kind: [] for kind in kinds}
    for turn in range(-2, turns):
        for kind, step in kinds.items():
            found = step()
            if turn >= 0:
                times[kind].append(found)
    begin = time.perf_counter()
    for number in range(1000):
        shared.supernet.choose(path_at(space, 1, 0, number))
    drawing = (time.perf_counter() - begin) / 1000
    traces = shared._train_step._compiled_gradients.experimental_get_tracing_count()
    return times, drawing, traces


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--filters", type=int, default=FILTERS)
    parser.add_argument("--patch", type=int, default=PATCH, help="voxels along each axis")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--turns", type=int, default=15, help="counted steps of each kind")
    parser.add_argument("--threads", type=int, default=2)
    times, drawing, traces = measure(**vars(parser.parse_args()))
    print("| step | median s | ratio | CPU s | ratio |\n|---|---|---|---|---|")
    base = [statistics.median(column) for column in zip(*times["published network"], strict=True)]
    for kind, found in times.items():
        wall, used = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"| {kind} | {wall:.4g} | {wall / base[0]:.3g} | {used:.4g} | {used / base[1]:.3g} |")
    print(f"drawing and setting a path: {drawing:.2g} s; traces of the supernet's step: {traces}")
    if traces != 1:
        raise ValueError(f"the supernet's step was traced {traces} times; expected once")


if __name__ == "__main__":
    main()

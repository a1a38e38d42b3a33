"""Times formulations of instance norm and trilinear doubling, forward and with their gradient.

    .venv/py3.11/bin/python -m tests.benchmarks.block_candidates

All candidates run in turn in one process, on this stack and machine. The program prints medians,
and the error of the forward pass against NumPy in float64. Sizes are those of C2FNAS with 8
filters, patches of 64^3 voxels and batch 2.
"""

from __future__ import annotations

import statistics
import time

REPETITIONS = 15
NORM_SHAPES = [(2, 64, 64, 64, 8), (2, 32, 32, 32, 16), (2, 16, 16, 16, 32), (2, 8, 8, 8, 64)]
DOUBLE_SHAPES = [(2, 32, 32, 32, 16), (2, 16, 16, 16, 32), (2, 8, 8, 8, 64)]


def norms(channels: int):
    import numpy as np
    import tensorflow as tf

    from c2fnas import keras_stack, normalisation

    gamma, beta = (
        tf.constant(np.linspace(0.5, 2, channels), tf.float32),
        tf.constant(np.linspace(-1, 1, channels), tf.float32),
    )
    library = keras_stack.instance_norm("library", "library")
    library.build((None, None, None, None, channels))
    library.gamma.assign(gamma)
    library.beta.assign(beta)

    def moments(x):
        mean, variance = tf.nn.moments(x, [1, 2, 3], keepdims=True)
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, keras_stack.EPSILON)

    def expected(x):
        mean, variance = x.mean((1, 2, 3), keepdims=True), x.var((1, 2, 3), keepdims=True)
        return (x - mean) / np.sqrt(variance + keras_stack.EPSILON) * gamma.numpy() + beta.numpy()

    candidates = {
        "rows (ours)": lambda x: normalisation.instance_normalise(
            x, gamma, beta, epsilon=keras_stack.EPSILON
        ),
        "fused batch norm a sample": lambda x: normalisation._fused(
            x, gamma, beta, keras_stack.EPSILON
        ),
        "tf.nn.moments": moments,
        "the library's layer": library,
    }
    return candidates, expected


def doublings():
    import numpy as np
    import tensorflow as tf

    from c2fnas import doubling

    def by_axis(one_axis):
        def run(x):
            for axis in (3, 2, 1):
                x = one_axis(x, axis)
            return x

        return run

    def neighbours(x, axis):
        first = tf.gather(x, [0], axis=axis)
        last = tf.gather(x, [x.shape[axis] - 1], axis=axis)
        size = x.shape[axis]
        before = tf.concat([first, tf.gather(x, range(size - 1), axis=axis)], axis)
        after = tf.concat([tf.gather(x, range(1, size), axis=axis), last], axis)
        return before, after

    def stacked(x, axis):
        before, after = neighbours(x, axis)
        shape = list(x.shape)
        shape[axis] *= 2
        return tf.reshape(
            tf.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1), shape
        )

    def gathered(x, axis):
        row = np.arange(2 * x.shape[axis])
        other = np.clip(row // 2 + 2 * (row % 2) - 1, 0, x.shape[axis] - 1)
        return 0.75 * tf.gather(x, row // 2, axis=axis) + 0.25 * tf.gather(x, other, axis=axis)

    def images(x):
        b, nx, ny, nz, c = x.shape
        plane = tf.image.resize(tf.reshape(x, [b, nx, ny, nz * c]), [2 * nx, 2 * ny])
        return doubling.double_axis(tf.reshape(plane, [b, 2 * nx, 2 * ny, nz, c]), 3)

    def expected(x):
        for axis in (1, 2, 3):
            row = np.arange(2 * x.shape[axis])
            other = np.clip(row // 2 + 2 * (row % 2) - 1, 0, x.shape[axis] - 1)
            x = 0.75 * np.take(x, row // 2, axis) + 0.25 * np.take(x, other, axis)
        return x

    candidates = {
        "small matrices (ours)": doubling.double,
        "shifted and stacked": by_axis(stacked),
        "gathered": by_axis(gathered),
        "tf.image.resize in plane": images,
    }
    return candidates, expected


def compare(title: str, shape, candidates, expected) -> None:
    import numpy as np
    import tensorflow as tf

    x = tf.constant(np.random.default_rng(0).normal(0.5, 1.0, shape), tf.float32)
    truth = expected(x.numpy().astype(np.float64))
    upstream = tf.constant(np.random.default_rng(1).normal(size=truth.shape), tf.float32)
    compiled = {}
    for name, candidate in candidates.items():

        def with_gradient(x, candidate=candidate):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = candidate(x)
            return tape.gradient(y, x, upstream)

        forward = tf.function(lambda x, candidate=candidate: candidate(x), autograph=False)
        compiled[name] = (
            forward,
            tf.function(with_gradient, autograph=False),
            float(np.abs(forward(x).numpy() - truth).max()),
        )
    times = {name: ([], []) for name in compiled}
    for repetition in range(REPETITIONS + 2):
        for name, (forward, both, _) in compiled.items():
            start = time.perf_counter()
            forward(x)
            middle = time.perf_counter()
            both(x)
            if repetition >= 2:
                times[name][0].append(middle - start)
                times[name][1].append(time.perf_counter() - middle)
    best = min(statistics.median(both) for _, both in times.values())
    print(
        f"\n| {title} {shape} | forward ms | with gradient ms | "
        "/ best | error |\n|---|---|---|---|---|"
    )
    for name, (forward, both) in times.items():
        a, b = statistics.median(forward), statistics.median(both)
        print(
            f"| {name} | {1e3 * a:.2f} | {1e3 * b:.2f} | {b / best:.2f} | {compiled[name][2]:.1e} |"
        )


def main() -> None:
    from tests.benchmarks import machine, side_by_side

    side_by_side.no_arguments(__doc__)
    from c2fnas import threads  # only now: it takes seconds
    from runkit import release

    print(machine.describe())
    threads.set_up(1, 2)
    print(release.stack())
    for shape in NORM_SHAPES:
        compare("instance norm", shape, *norms(shape[-1]))
    for shape in DOUBLE_SHAPES:
        compare("doubling", shape, *doublings())


if __name__ == "__main__":
    main()

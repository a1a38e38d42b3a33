"""Counts the operations of a training step's graph as it is built for a GPU; nothing is computed.

    .venv/py3.11/bin/python -m tests.benchmarks.step_operations --batch=2

Starting operations bounds a step of this network on a fast GPU, so their number is watched here and
by tests/c2fnas/test_step_operations.py. Constants, identities and reshapes, which start nothing on
the GPU, are left out. Needs no GPU: the graph is built as if there were one.
"""

from __future__ import annotations

import argparse
import collections
from unittest import mock

FREE = {
    "Const",
    "Identity",
    "IdentityN",
    "NoOp",
    "Placeholder",
    "PreventGradient",
    "ReadVariableOp",
    "Reshape",
    "Shape",
    "StopGradient",
}


def counted(network, batch: int) -> dict[str, collections.Counter]:
    """Returns the operations of the two halves of a step by their kind, for one device.

    Args:
      network: a `c2fnas.network.Network`.
      batch: patches of the step.
    """
    import tensorflow as tf

    from c2fnas import adam, gpus
    from c2fnas.losses import LossConfig
    from c2fnas.train_step import make_train_step

    strategy = tf.distribute.get_strategy()
    optimizer = adam.optimizer(1e-4, network.variables)
    shape = (batch, *network.patch_size)
    image = tf.TensorSpec((*shape, 1), tf.float16)
    patches = {
        "image": image,
        "label": tf.TensorSpec(shape, tf.uint8),
        "sample_seed": tf.TensorSpec((batch, 2), tf.int32),
    }
    with mock.patch.object(gpus, "is_used", lambda: True):
        step = make_train_step(network, optimizer, strategy, LossConfig(), batch)
        gradients = step._compiled_gradients.get_concrete_function(patches, tf.TensorSpec(()))
        summed = [tf.TensorSpec(v.shape) for v in network.variables.values()]
        apply = step._compiled_apply.get_concrete_function(summed)
    return {"gradients": _kinds(gradients.graph), "update": _kinds(apply.graph)}


def _kinds(graph) -> collections.Counter:
    return collections.Counter(
        operation.type for operation in graph.get_operations() if operation.type not in FREE
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--filters", type=int, default=32)
    parser.add_argument("--size", type=int, default=96, help="patches of size^3 voxels")
    parser.add_argument("--precision", default="float32")
    arguments = parser.parse_args()

    from c2fnas import genotype, memory
    from c2fnas import network as networks

    network = networks.build(
        genotype.load("c2fnas").with_size(filters=arguments.filters),
        patch_size=(arguments.size,) * 3,
        vae=None,
        precision=arguments.precision,
    )
    for half, kinds in counted(network, arguments.batch).items():
        print(f"{half}: {sum(kinds.values())} operations")
        print("  " + ", ".join(f"{kind} {count}" for kind, count in kinds.most_common(20)))
    step = memory.training_step(network, arguments.batch).total
    window = memory.window(network, (160,) * 3)
    print(f"estimated: a step {step / 2**30:.2f} GiB, a window of 160^3 {window / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()

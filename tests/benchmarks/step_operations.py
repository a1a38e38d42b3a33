"""Counts the operations of a training step's graph as it is built for a GPU; nothing is computed.

    .venv/py3.11/bin/python -m tests.benchmarks.step_operations --batch=2

Starting operations bounds a step of this network on a fast GPU, so their number is watched here and
by tests/c2fnas/test_step_operations.py. Constants, identities, reshapes, and reading and setting a
variable, which start nothing on the GPU, are left out. Needs no GPU: the graph is built as if there
were one. The second number of each half is what TensorFlow's own passes leave of it before it runs:
they compute what is constant once and drop what nobody reads.
"""

from __future__ import annotations

import argparse
import collections
from unittest import mock

FREE = {
    "AssignVariableOp",
    "Const",
    "Identity",
    "IdentityN",
    "NoOp",
    "Placeholder",
    "PreventGradient",
    "ReadVariableOp",
    "Reshape",
    "Shape",
    "ShapeN",
    "StopGradient",
}


def counted(network, batch: int) -> dict[str, collections.Counter]:
    """Returns the operations of the two halves of a step by their kind, for one device.

    Args:
      network: a `c2fnas.network.Network`.
      batch: patches of the step.
    """
    return {half: _kinds(graph.as_graph_def()) for half, graph in graphs(network, batch).items()}


def graphs(network, batch: int) -> dict:
    """Returns the graphs of the two halves of a step; arguments as of `counted`."""
    import tensorflow as tf

    from c2fnas import adam, gpus, weight_vector
    from c2fnas.losses import LossConfig
    from c2fnas.train_step import TrainStep

    strategy = tf.distribute.get_strategy()
    shape = (batch, *network.patch_size)
    image = tf.TensorSpec((*shape, 1), tf.float16)
    patches = {
        "image": image,
        "label": tf.TensorSpec(shape, tf.uint8),
        "sample_seed": tf.TensorSpec((batch, 2), tf.int32),
    }
    with mock.patch.object(gpus, "is_used", lambda: True):
        vectors = weight_vector.vectors(network)
        optimizer = adam.optimizer(1e-4, network.variables, vectors=vectors)
        step = TrainStep(network, optimizer, strategy, LossConfig(), batch, vectors=vectors)
        gradients = step._compiled_gradients.get_concrete_function(patches, tf.TensorSpec(()))
        summed = [tf.TensorSpec([sum(vector.sizes)]) for vector in vectors]
        apply = step._compiled_apply.get_concrete_function(summed)
    return {"gradients": gradients.graph, "update": apply.graph}


def simplified(graph) -> collections.Counter:
    """Returns the operations that are left of a graph after TensorFlow's passes for any device."""
    import tensorflow as tf
    from tensorflow.core.protobuf import config_pb2
    from tensorflow.python.grappler import tf_optimizer

    nodes = graph.as_graph_def(add_shapes=True)
    whole = tf.compat.v1.train.export_meta_graph(graph_def=nodes, graph=graph)
    changing = [
        op.name for op in graph.get_operations() if op.type.startswith(("Assign", "Resour"))
    ]
    wanted = whole.collection_def["train_op"].node_list.value
    wanted.extend([*changing, *(output.name for output in graph.outputs)])
    settings = config_pb2.ConfigProto()
    passes = settings.graph_options.rewrite_options
    passes.min_graph_nodes = -1
    passes.optimizers.extend(["constfold", "shape", "arithmetic", "dependency", "constfold"])
    return _kinds(tf_optimizer.OptimizeGraph(settings, whole))


def _kinds(nodes) -> collections.Counter:
    return collections.Counter(node.op for node in nodes.node if node.op not in FREE)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--filters", type=int, default=32)
    parser.add_argument("--size", type=int, default=96, help="patches of size^3 voxels")
    parser.add_argument("--precision", default="float32")
    arguments = parser.parse_args()

    from c2fnas import genotype, gpu_memory
    from c2fnas import network as networks

    network = networks.build(
        genotype.load("c2fnas").with_size(filters=arguments.filters),
        patch_size=(arguments.size,) * 3,
        vae=None,
        precision=arguments.precision,
    )
    for half, graph in graphs(network, arguments.batch).items():
        built, left = _kinds(graph.as_graph_def()), simplified(graph)
        print(f"{half}: {sum(built.values())} operations, {sum(left.values())} simplified")
        print("  " + ", ".join(f"{kind} {count}" for kind, count in left.most_common(20)))
    step = gpu_memory.training_step(network, arguments.batch).total
    window = gpu_memory.window(network, (160,) * 3)
    print(f"estimated: a step {step / 2**30:.2f} GiB, a window of 160^3 {window / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()

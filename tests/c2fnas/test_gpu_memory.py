"""Estimates of memory, beside TensorFlow's own graph and beside what was measured on a GPU."""

import functools

import numpy as np
import pytest

from c2fnas import genotype, gpu_memory, network
from tests.benchmarks import step_operations
from tests.c2fnas import tiny

_built = functools.cache(tiny.build)  # which no test here changes


def kept_by_the_graph(built, batch):
    """Returns the bytes that the backward pass reads of the forward pass, in the graph of a GPU."""
    operations = step_operations.graphs(built, batch)["gradients"].get_operations()
    first = next(n for n, one in enumerate(operations) if "gradient_tape" in one.name)

    def source(tensor):  # operations that hand on the memory of their input
        while tensor.op.type in ("Reshape", "Identity", "IdentityN"):
            tensor = tensor.op.inputs[tensor.value_index if tensor.op.type == "IdentityN" else 0]
        return tensor

    of_image: set[str] = set()
    for one in operations[:first]:
        is_image = one.type == "Placeholder" and one.outputs[0].shape.rank == 5
        if is_image or any(tensor.op.name in of_image for tensor in one.inputs):
            of_image.add(one.name)
    kept = {
        source(tensor).ref()
        for one in operations[first:]
        if one.type not in ("Shape", "ShapeN")
        for tensor in one.inputs
        if tensor.op.name in of_image
    }
    tensors = [one.deref() for one in kept]
    return sum(
        int(np.prod(one.shape)) * one.dtype.size
        for one in tensors
        if one.shape.is_fully_defined() and one.op.name in of_image
    )


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_a_step_keeps_what_the_graphs_backward_pass_reads(precision):
    built = tiny.build(vae=None, precision=precision, patch_size=(32, 32, 32))
    batch, classes, filters, voxels = 2, 3, built.genotype.filters, 32**3
    expected = kept_by_the_graph(built, batch)
    width = 4 if precision == "float32" else 2
    # beside what is kept: four volumes of the loss, and the norm of the full resolution with its
    # gradient, each also channels first in float32
    others = 4 * classes * voxels * 4 + (4 if width == 4 else 2) * filters * voxels * width
    kept = gpu_memory.training_step(built, batch).activations - batch * others
    kept += batch * classes * voxels * 4  # the probabilities, one of the loss's volumes
    assert kept == pytest.approx(expected, rel=0.07)  # labels and the like are left out


# Of docs/gpu.md: precision, VAE branch, and the peaks of two patches of 96^3 in GiB: deterministic,
# not deterministic, by XLA.
MEASURED = [
    ("float32", None, (5.1, 5.5, 4.8)),
    ("mixed_float16", None, (2.6,)),
    ("float32", "reduced", (5.7,)),
]


@pytest.mark.parametrize(("precision", "vae", "peaks"), MEASURED)
def test_the_estimate_is_near_what_was_measured(precision, vae, peaks):
    built = network.build(
        genotype.load("c2fnas").with_size(filters=32),
        patch_size=(96, 96, 96),
        vae=vae,
        precision=precision,
    )
    estimated = gpu_memory.training_step(built, 2).total / 2**30
    for peak in peaks:
        assert estimated == pytest.approx(peak, rel=0.15)
    if (precision, vae) == ("float32", None):  # a window of 160^3
        assert gpu_memory.window(built, (160, 160, 160)) / 2**30 == pytest.approx(2.0, rel=0.1)


def test_activations_grow_with_the_patch_and_hold_the_largest_by_hand():
    networks = [
        _built(vae=None, precision="float32", patch_size=size)
        for size in (tiny.PATCH, tuple(2 * n for n in tiny.PATCH))
    ]
    small, large = (gpu_memory.training_step(network, 1) for network in networks)
    assert (
        7 * small.activations < large.activations <= 8 * small.activations
    )  # padded volumes grow by less than 8
    assert large.weights == small.weights
    # The end's convolution and ReLU at full resolution, and four volumes for the norm's gradient,
    # with 4 bytes per value.
    x, y, z = tiny.PATCH
    assert small.activations > 5 * 4 * networks[0].genotype.filters * x * y * z
    assert gpu_memory.training_step(networks[0], 3).activations == 3 * small.activations


def test_half_precision_halves_the_activations_but_for_what_stays_float32():
    whole, half = (
        gpu_memory.training_step(_built(vae=None, precision=precision, patch_size=tiny.PATCH), 1)
        for precision in ("float32", "mixed_float16")
    )
    assert half.weights == whole.weights
    # The norm's gradient takes a quarter: half the bytes, and no copies with channels first.
    assert 0.35 * whole.activations < half.activations < 0.6 * whole.activations


def test_a_window_keeps_what_later_layers_read_and_grows_with_its_voxels():
    network = _built(vae=None, precision="float32", patch_size=tiny.PATCH)
    weights = 4 * sum(int(np.prod(v.shape)) for v in network.variables.values())
    x, y, z = tiny.PATCH
    one = gpu_memory.window(network, tiny.PATCH) - weights
    # The norm at full resolution holds its input and its output, each also with channels first.
    assert 4 * 4 * network.genotype.filters * x * y * z <= one
    assert one < gpu_memory.training_step(network, 1).activations / 2
    assert gpu_memory.window(network, (2 * x, y, z), 3) - weights == 6 * one
    with_branch = tiny.build()
    extra = 4 * sum(int(np.prod(v.shape)) for v in with_branch.variables.values()) - weights
    assert gpu_memory.window(with_branch, tiny.PATCH) - extra <= 1.2 * gpu_memory.window(
        network, tiny.PATCH
    )

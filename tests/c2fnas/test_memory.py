import numpy as np

from c2fnas import memory
from tests.c2fnas import tiny


def test_activations_grow_with_the_patch_and_hold_the_largest_by_hand():
    networks = [
        tiny.build(vae=None, patch_size=size)
        for size in (tiny.PATCH, tuple(2 * n for n in tiny.PATCH))
    ]
    small, large = (memory.training_step(network, 1) for network in networks)
    assert (
        7 * small.activations < large.activations <= 8 * small.activations
    )  # padded volumes grow by less than 8
    assert large.weights == small.weights
    # The end's convolution, norm and ReLU at full resolution, and the largest output twice more,
    # with 4 bytes per value.
    x, y, z = tiny.PATCH
    assert small.activations > 5 * 4 * networks[0].genotype.filters * x * y * z
    assert memory.training_step(networks[0], 3).activations == 3 * small.activations


def test_half_precision_halves_the_activations_but_for_what_stays_float32():
    whole, half = (
        memory.training_step(tiny.build(vae=None, precision=precision), 1)
        for precision in ("float32", "mixed_float16")
    )
    assert half.weights == whole.weights
    assert 0.5 * whole.activations < half.activations < 0.7 * whole.activations


def test_a_window_keeps_what_later_layers_read_and_grows_with_its_voxels():
    network = tiny.build(vae=None)
    weights = 4 * sum(int(np.prod(v.shape)) for v in network.variables.values())
    x, y, z = tiny.PATCH
    one = memory.window(network, tiny.PATCH) - weights
    # A convolution at full resolution holds its input and its output; all outputs of all layers
    # are what a training step keeps.
    assert one >= 2 * 4 * network.genotype.filters * x * y * z
    assert one < memory.training_step(network, 1).activations / 2
    assert memory.window(network, (2 * x, y, z), 3) - weights == 6 * one
    with_branch = tiny.build()
    extra = 4 * sum(int(np.prod(v.shape)) for v in with_branch.variables.values()) - weights
    assert memory.window(with_branch, tiny.PATCH) - extra <= 1.2 * memory.window(
        network, tiny.PATCH
    )

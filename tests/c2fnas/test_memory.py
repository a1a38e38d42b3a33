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

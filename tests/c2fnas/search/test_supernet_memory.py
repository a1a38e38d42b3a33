import numpy as np

from c2fnas import memory, network
from c2fnas.genotype import CellGene, Genotype
from c2fnas.search import supernet, supernet_memory
from c2fnas.search.operation_space import OperationSpace

BASE = Genotype("tiny", (CellGene((0,), 1, "conv2d"), CellGene((1,), 1, "conv2d")), filters=2)


def test_all_weights_and_the_activations_of_the_path_that_keeps_the_most():
    space = OperationSpace(BASE)
    built = supernet.build(space, patch_size=(8, 8, 4), vae=None)
    found = supernet_memory.training_step(built, 3)
    weights = sum(int(np.prod(variable.shape)) for variable in built.variables.values())
    assert found.weights == 4 * 4 * weights
    p3d = network.build(space.genotype((2, 2)), patch_size=(8, 8, 4), vae=None)
    assert found.activations == memory.training_step(p3d, 3).activations
    in_plane = network.build(space.genotype((0, 0)), patch_size=(8, 8, 4), vae=None)
    assert found.activations > memory.training_step(in_plane, 3).activations

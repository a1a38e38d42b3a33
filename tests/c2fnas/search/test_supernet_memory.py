import numpy as np

from c2fnas import gpu_memory, network
from c2fnas.genotype import OPERATIONS, CellGene, Genotype
from c2fnas.search import supernet, supernet_memory
from c2fnas.search.operation_space import OperationSpace

BASE = Genotype("tiny", (CellGene((0,), 1, "conv2d"), CellGene((1,), 1, "conv2d")), filters=2)


def test_all_weights_and_the_activations_of_the_path_that_keeps_the_most(monkeypatch):
    space, paths, build = OperationSpace(BASE), [], network.build
    built = supernet.build(space, patch_size=(8, 8, 4), vae=None)
    monkeypatch.setattr(network, "build", lambda *a, **k: paths.append(build(*a, **k)) or paths[0])
    found = supernet_memory.training_step(built, 3)
    weights = sum(int(np.prod(variable.shape)) for variable in built.variables.values())
    assert found.weights == 4 * 4 * weights
    (path,) = paths
    assert path.genotype == space.genotype((2, 2)) and path.patch_size == (8, 8, 4)
    assert len(OPERATIONS["p3d"]) > max(len(OPERATIONS[op]) for op in ("conv2d", "conv3d"))
    assert found.activations == gpu_memory.training_step(path, 3).activations

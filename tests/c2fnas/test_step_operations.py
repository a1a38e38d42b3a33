"""The graph of a step for a GPU: certain parts are one operation, whatever the batch."""

import pytest

from tests.benchmarks import step_operations
from tests.c2fnas import tiny


@pytest.fixture(scope="module")
def counts():
    network = tiny.build(tiny.SHALLOW, vae=None)
    return network, {batch: step_operations.counted(network, batch) for batch in (2, 4)}


def test_norms_take_one_operation_for_all_samples(counts):
    network, found = counts
    norms = sum(name.endswith("/gamma") for name in network.variables)
    for kinds in found.values():
        assert kinds["gradients"]["FusedBatchNormV3"] == norms
        assert kinds["gradients"]["FusedBatchNormGradV3"] == norms
        assert not kinds["gradients"]["Split"]
    # Nothing else grows with the batch either. Zeros that nobody reads are constants if they are
    # small, and filled otherwise.
    for kinds in found.values():
        del kinds["gradients"]["Fill"]
    assert found[2]["gradients"] == found[4]["gradients"]


def test_what_belongs_to_all_weights_is_done_once(counts):
    _, found = counts
    gradients, update = found[2]["gradients"], found[2]["update"]
    assert gradients["L2Loss"] == 1 and gradients["Tile"] <= 3  # not two for each norm
    assert update["ResourceApplyAdam"] == 1
    assert update["Pow"] == 2  # the powers of Adam's two betas
    assert sum(update.values()) <= 10


def test_half_precision_casts_all_weights_at_once():
    network = tiny.build(tiny.SHALLOW, vae=None, precision="mixed_float16")
    graphs = step_operations.graphs(network, 2)
    left = step_operations.simplified(graphs["gradients"])
    assert left["Cast"] <= 12  # not two for each weight
    assert left["Conv3D"] > 10 and left["L2Loss"] == 1
    assert sum(step_operations.simplified(graphs["update"]).values()) <= 10

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
    # Nothing else grows with the batch either.
    assert found[2]["gradients"] == found[4]["gradients"]


def test_the_gradients_norm_is_one_sum_and_the_update_one_operation_per_weight(counts):
    network, found = counts
    assert found[2]["gradients"]["L2Loss"] == 1
    update = found[2]["update"]
    assert update["ResourceApplyAdam"] == len(network.variables)
    assert update["Pow"] == 2  # the powers of Adam's two betas, once for all weights
    assert sum(update.values()) <= len(network.variables) + 12

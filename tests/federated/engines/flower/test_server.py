import types

import numpy as np
import pytest

pytest.importorskip("flwr", reason="Flower is not installed; it is the extra [flower]")

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord

from federated.engines.flower.server import NamedMean, server_app
from tests.federated import toy


class Reply:
    """A site's reply as a strategy sees it."""

    def __init__(self, site, *, reason=None):
        self.error = types.SimpleNamespace(reason=reason)
        self.metadata = types.SimpleNamespace(src_node_id=7)
        self.content = {
            "arrays": ArrayRecord({"scale": Array(np.array(2.0, np.float32))}),
            "metrics": MetricRecord({"num-examples": 10, "dice": 0.5}),
            "config": ConfigRecord({"site": site}),
        }

    def has_error(self):
        return self.error.reason is not None


def test_a_round_without_every_site_ends_the_run():
    strategy = NamedMean(min_train_nodes=2)
    arrays, metrics = strategy.aggregate_train(1, [Reply("C1"), Reply("C2")])
    assert arrays["scale"].numpy() == 2.0 and dict(metrics) == {"dice": 0.5}
    with pytest.raises(RuntimeError, match=r"round 3: node 7 failed \(disk full\)"):
        strategy.aggregate_train(3, [Reply("C1"), Reply("C2", reason="disk full")])
    with pytest.raises(RuntimeError, match=r"1 sites replied \(C1\), 2 are needed"):
        strategy.aggregate_train(3, [Reply("C1"), Reply("C1")])


def test_a_plan_that_keeps_arrays_at_a_site_ends_the_app_before_a_site_is_asked(tmp_path):
    plan = {**toy.PLAN, "sharing": {"keep": ["head/*"]}}
    initial = toy.write_initial(tmp_path / "initial.safetensors", plan=plan)
    app = server_app(initial, tmp_path / "out", num_rounds=1, num_sites=2)
    with pytest.raises(ValueError, match="has rules of sharing"):
        app(grid=None, context=None)  # a grid that was asked for anything would fail otherwise
    assert not (tmp_path / "out").exists()

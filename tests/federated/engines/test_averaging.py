import numpy as np
import pytest

from federated import errors
from federated.engines.averaging import averaged, mean_metrics


def test_mean_by_hand():
    updates = {
        "C2": ({"w": np.array([5.0, 1.0], np.float32), "scale": np.array(8.0, np.float32)}, 10),
        "C1": ({"w": np.array([1.0, 5.0], np.float32), "scale": np.array(4.0, np.float32)}, 30),
    }
    mean = averaged(updates)
    np.testing.assert_array_equal(mean["w"], [2.0, 4.0])  # (30*1 + 10*5)/40, (30*5 + 10*1)/40
    assert mean["scale"] == 5.0
    assert isinstance(mean["scale"], np.ndarray) and mean["scale"].shape == ()
    assert {array.dtype for array in mean.values()} == {np.dtype(np.float32)}


def test_sums_in_float64_in_the_order_of_names():
    # In float32, 2**24 + 1 is 2**24, and the mean would be 2**24 / 3 - 2**24 / 3 = 0.
    values = {"C1": 2.0**24, "C2": 1.0, "C3": -(2.0**24)}
    updates = {site: ({"w": np.array([x], np.float32)}, 1) for site, x in values.items()}
    backwards = dict(reversed(updates.items()))
    assert averaged(updates)["w"] == averaged(backwards)["w"] == np.float32(1 / 3)


def test_updates_that_differ_are_refused():
    updates = {"C1": ({"w": np.zeros(2)}, 1), "C2": ({"w": np.zeros(3)}, 1)}
    with pytest.raises(errors.IncompatibleWeights, match=r"'C2'.*w"):
        averaged(updates)
    with pytest.raises(ValueError, match="no update"):
        averaged({})


@pytest.mark.parametrize("examples", [0, -5])
def test_a_site_without_training_cases_is_refused(examples):
    updates = {"C1": ({"w": np.ones(2)}, 10), "C2": ({"w": np.ones(2)}, examples)}
    with pytest.raises(ValueError, match=f"'C2' has num_examples {examples}; expected at least 1"):
        averaged(updates)


def test_metrics_that_every_site_reports_are_weighted_by_cases():
    metrics = {"C2": {"dice": 0.5, "train_loss": 3.0}, "C1": {"dice": 0.9, "only_here": 1.0}}
    # (10*0.5 + 30*0.9) / 40
    assert mean_metrics(metrics, {"C1": 30, "C2": 10}) == {"dice": pytest.approx(0.8)}

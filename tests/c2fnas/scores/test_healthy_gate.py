import numpy as np
import pytest

from c2fnas.scores import healthy_gate
from c2fnas.scores.healthy_gate import HealthyGate


@pytest.mark.parametrize(
    ("patients", "rank"),
    [
        (3, None),
        (4, 4),
        (5, 5),
        (6, 6),
        (8, 8),
        (9, 8),
        (14, 12),
        (19, 16),
        (84, 68),
    ],  # the least k with 1 - k/(n + 1) <= 1/5
)
def test_the_threshold_is_an_order_statistic(patients, rank):
    scores = np.random.default_rng(1).permutation(patients) + 1.0
    gate = healthy_gate.fit(scores)
    assert (gate and gate.threshold) == rank
    if gate:
        assert (
            gate.expected_share == pytest.approx(1 - rank / (patients + 1))
            and gate.expected_share <= 0.2
        )


def test_a_score_at_the_threshold_is_stopped_and_one_above_is_not():
    gate = healthy_gate.fit([0.0, 3.0, 1.0, 2.0])
    assert gate.stops(3.0) and gate.stops(0.0) and not gate.stops(3.0001)


@pytest.mark.parametrize("draw", ["normal", "exponential", "lumped"])
def test_the_promise_holds_whatever_the_distribution(draw):
    rng, runs = np.random.default_rng(2), 4000
    for patients in (6, 9, 20):
        drawn = {
            "normal": rng.normal(5, 2, (runs, patients + 1)),
            "exponential": rng.exponential(3, (runs, patients + 1)),
            "lumped": np.where(rng.random((runs, patients + 1)) < 0.7, 0.0, 9.0),
        }[draw]
        drawn = np.maximum(drawn, 0.0)
        share = np.mean([not healthy_gate.fit(line[1:]).stops(line[0]) for line in drawn])
        gate = healthy_gate.fit(drawn[0, 1:])
        assert share <= gate.expected_share + 3 * np.sqrt(0.2 * 0.8 / runs)
        if draw != "lumped":
            assert share == pytest.approx(gate.expected_share, abs=3 * np.sqrt(0.2 * 0.8 / runs))


def test_a_gate_reads_back_and_one_of_another_release_is_refused_by_name():
    gate = HealthyGate(threshold=2.5, patients=6)
    assert HealthyGate.from_json(gate.to_json()) == gate
    for changes, message in (
        ({"version": 2}, "version 1 of 'log_odds_1ml'; use the release"),
        ({"rule": "volume"}, "'volume'"),
        ({"threshold": "2.5"}, "threshold is '2.5'; expected a finite number"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"patients": 3}, "cannot have been fitted"),
        ({"share": 0.0}, "cannot have been fitted"),
    ):
        with pytest.raises(ValueError, match=message):
            HealthyGate.from_json({**gate.to_json(), **changes})
    with pytest.raises(ValueError, match="lacks threshold"):
        HealthyGate.from_json(
            {key: value for key, value in gate.to_json().items() if key != "threshold"}
        )


def test_a_tumour_that_is_taken_out_leaves_the_rest_of_the_mask():
    mask = np.array([0, 1, 2, 1, 2], np.uint8)
    without = healthy_gate.without_tumour(mask)
    assert (
        without.tolist() == [0, 1, 0, 1, 0]
        and without.dtype == np.uint8
        and mask.tolist() == [0, 1, 2, 1, 2]
    )

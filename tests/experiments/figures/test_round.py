"""A recorded round as a figure."""

import pytest

from experiments import figures


def test_a_recorded_round_is_drawn_message_by_message():
    events = [
        {"time": 10.0, "event": "round_opened", "round": 1},
        {"time": 11.0, "event": "pulled", "site": "C1", "model": "round_000", "bytes": 2**20},
        {"time": 12.0, "event": "pulled", "site": "C2", "model": "round_000", "bytes": 2**20},
        {"time": 15.0, "event": "scored", "site": "C1", "model": 0, "scores": {"dice": 0.25}},
        {"time": 30.0, "event": "pushed", "site": "C1", "round": 1, "bytes": 3 * 2**20},
        {"time": 31.0, "event": "aggregated", "round": 1, "sites": {"C1": 18, "C2": 20}},
        {"time": 40.0, "event": "pulled", "site": "C1", "model": "round_001", "bytes": 2**20},
    ]
    words = [text.get_text() for text in figures.round_figure(events).axes[0].texts]
    assert {
        "C1",
        "C2",
        "server",
        "global model, 1.0 MiB",
        "its score, Dice 0.25",
        "weights after training, 3.0 MiB",
        "20.0 s",
    } <= set(words)
    assert (
        "mean of the weights; cases: C1 18, C2 20" in words
        and words.count("global model, 1.0 MiB") == 2
    )
    with pytest.raises(ValueError, match="round 7 is not in the log; it has 1"):
        figures.round_figure(events, 7)

"""The timeline of a federation, from the server's events."""

import numpy as np
from matplotlib.colors import to_rgb

from experiments import figures
from tests.experiments.figures.rendered import pixels


def test_without_events_the_timeline_is_an_empty_picture():
    assert pixels(figures.federation_timeline([])).shape[1] > 100


def test_the_timeline_is_derived_from_the_servers_events():
    steps = [
        (0, "login", {}),
        (10, "pulled", {"model": "round_000", "seconds": 2}),
        (40, "scored", {"model": 0}),
        (100, "pushed", {"round": 1, "seconds": 3}),
        (130, "pulled", {"model": "round_001", "seconds": 1}),
        (200, "login", {}),
        (240, "pulled", {"model": "FL_global", "seconds": 0.0}),
        (300, "rows", {"rows": 4}),
    ]
    events = [
        {"time": 1000.0 + t, "event": name, "site": "C1", **fields} for t, name, fields in steps
    ]
    events += [
        {"time": 1000.0, "event": "round_opened", "round": 1},
        {"time": 1104.0, "event": "aggregated", "round": 1},
        {"event": "odd"},
    ]
    figure = figures.federation_timeline(events)
    colours = {to_rgb(colour): name for name, colour in figures.ACTIVITY_COLOURS.items()}
    bars = [
        (colours[bar.get_facecolor()[:3]], bar.get_x() * 60, (bar.get_x() + bar.get_width()) * 60)
        for c in figure.axes[0].containers
        for bar in c
    ]
    expected = [
        ("waits", 0, 8),
        ("sends or receives", 8, 10),
        ("scores", 10, 40),
        ("trains", 40, 97),
        ("sends or receives", 97, 100),
        ("waits", 100, 129),
        ("sends or receives", 129, 130),
        ("waits", 200, 240),
        ("evaluates", 240, 300),
    ]
    assert [bar[0] for bar in bars] == [bar[0] for bar in expected]
    np.testing.assert_allclose([bar[1:] for bar in bars], [bar[1:] for bar in expected], atol=1e-6)
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["server", "C1"]

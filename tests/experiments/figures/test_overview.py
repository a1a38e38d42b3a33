"""The overview: its texts are there and do not overlap."""

import itertools

from experiments import figures


def test_the_texts_of_the_overview_do_not_overlap():
    figure = figures.overview()
    figure.canvas.draw()
    boxes = [(text.get_text(), text.get_window_extent()) for text in figure.axes[0].texts]
    assert {"Hospital C1", "Hospital C2", "Server", "FL_global", "Table 1"} <= {
        text for text, _ in boxes
    }
    overlaps = [
        (a, b)
        for (a, box), (b, other) in itertools.combinations(boxes, 2)
        if box.overlaps(other) and not {a, b} & set("12345")
    ]
    assert overlaps == []

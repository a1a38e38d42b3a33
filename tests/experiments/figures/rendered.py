"""A figure as rendered pixels, and the positions of things in it."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb


def pixels(figure):
    """The rendered picture, float [rows, columns, 3] in 0 to 1."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255.0


def panel(picture, figure, index):
    """The part of the picture that the figure's axes of that index cover."""
    left, bottom, right, top = figure.axes[index].get_position().extents
    height, width = picture.shape[:2]
    return picture[
        round((1 - top) * height) : round((1 - bottom) * height),
        round(left * width) : round(right * width),
    ]


def centre_of(part, colour, tolerance=0.25):
    """Mean (row, column) of the pixels near a colour, as shares of the panel; None if none are."""
    where = np.argwhere(np.abs(part - to_rgb(colour)).max(axis=-1) < tolerance)
    return tuple(where.mean(axis=0) / part.shape[:2]) if len(where) else None

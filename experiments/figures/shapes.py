"""Boxes and arrows that the drawings share."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from experiments.figures.style import INK


def box(
    axes: Axes, x: float, y: float, width: float, height: float, *, rounding: float, **look: Any
) -> None:
    """Draws a box with rounded corners; x, y is its lower left corner."""
    style = f"round,pad=0,rounding_size={rounding}"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, **look))


def arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    *,
    head: float,
    gap: float,
    **look: Any,
) -> None:
    """Draws an arrow with a filled head.

    Args:
      head: size of the head, in points.
      gap: distance that it keeps from `start` and `end`, in points.
    """
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=head,
            color=INK,
            shrinkA=gap,
            shrinkB=gap,
            **look,
        )
    )

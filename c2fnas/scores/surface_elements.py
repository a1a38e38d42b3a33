"""The area of a mask's surface in each of the 256 neighbourhoods of eight voxels.

The surface runs through the midpoints of the edges whose two voxels differ. Two rules settle the
ambiguous neighbourhoods. Corners of the mask that touch only diagonally across a face are kept
apart; if more than four corners belong to the mask, those outside are kept apart instead, so that a
mask and its complement have the same surface. A polygon is cut into the triangles with the largest
area in a unit cube. With these rules the areas equal those of DeepMind's `surface-distance` for
every neighbourhood and spacing.

Source: Lorensen and Cline 1987 (marching cubes); Nikolov et al. 2021 (surface elements for the
surface Dice).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

_CORNERS = tuple(itertools.product((0, 1), repeat=3))
Edge = frozenset[int]  # the numbers of two corners


def areas(spacing_mm: Sequence[float]) -> np.ndarray:
    """Returns float64 [256]: the surface area in mm2 of each neighbourhood.

    Bit k of a neighbourhood's number says whether the corner (k // 4, k // 2 % 2, k % 2) belongs to
    the mask.
    """
    x, y, z = (float(length) for length in spacing_mm)
    return np.linalg.norm(_normals() * np.array([y * z, x * z, x * y]), axis=-1).sum(axis=-1)


@functools.cache
def _normals() -> np.ndarray:
    """Returns float64 [256, 4, 3]: the normals of the triangles of each neighbourhood.

    In a unit cube; the length of a normal is the area of its triangle.
    """
    normals = np.zeros((256, 4, 3))
    for code in range(1, 255):
        inside = [corner for corner in range(8) if code >> corner & 1]
        kept_apart = set(inside) if len(inside) <= 4 else set(range(8)) - set(inside)
        triangles = [normal for loop in _loops(kept_apart) for normal in _largest(loop)]
        normals[code, : len(triangles)] = triangles
    return normals


def _loops(inside: set[int]) -> Iterator[list[Edge]]:
    """Yields the polygons that separate the corners inside from the others.

    Each is a list of the cube's edges that it crosses, in turn.
    """
    links: dict[Edge, list[Edge]] = {}
    for axis, side in itertools.product(range(3), (0, 1)):
        face = [corner for corner, place in enumerate(_CORNERS) if place[axis] == side]
        cut = [
            Edge(pair)
            for pair in itertools.combinations(face, 2)
            if _is_edge(*pair) and len(inside & set(pair)) == 1
        ]
        if len(cut) == 4:  # two diagonal corners: each is cut off separately
            pairs = [
                [edge for edge in cut if corner in edge] for corner in face if corner in inside
            ]
        else:
            pairs = [cut] if cut else []
        for one, other in pairs:
            links.setdefault(one, []).append(other)
            links.setdefault(other, []).append(one)
    while links:
        loop = [next(iter(links))]
        while following := [edge for edge in links.pop(loop[-1]) if edge in links]:
            loop.append(following[0])
        yield loop


def _is_edge(one: int, other: int) -> bool:
    return sum(a != b for a, b in zip(_CORNERS[one], _CORNERS[other], strict=True)) == 1


def _largest(loop: list[Edge]) -> np.ndarray:
    """Returns float64 [n - 2, 3]: the normals of the triangles into which a polygon is cut.

    Of all ways to cut a polygon of n corners, it takes the one with the largest area.
    """
    points = np.array([np.mean([_CORNERS[corner] for corner in edge], axis=0) for edge in loop])
    normals = (
        np.array(
            [np.cross(points[b] - points[a], points[c] - points[a]) / 2 for a, b, c in triangles]
        )
        for triangles in _triangulations(0, len(points) - 1)
    )
    return max(
        normals, key=lambda triangles: round(float(np.linalg.norm(triangles, axis=1).sum()), 9)
    )


def _triangulations(first: int, last: int) -> Iterator[list[tuple[int, int, int]]]:
    """Yields the ways to cut the polygon first, first + 1, ..., last into triangles."""
    if last - first < 2:
        yield []
    for tip in range(first + 1, last):
        for before in _triangulations(first, tip):
            for after in _triangulations(tip, last):
                yield [*before, (first, tip, last), *after]

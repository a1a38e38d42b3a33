"""The area of a mask's surface in each of the 256 neighbourhoods of eight voxels, by marching
cubes.

The surface runs through the midpoints of the edges whose two voxels differ. Two rules decide what a
neighbourhood leaves open: corners of the mask that meet at a face only diagonally are kept apart
(in a neighbourhood with more than four of them, the corners outside are, so that a mask and its
complement have one surface), and of the ways to cut a polygon into triangles the one with the
largest area in a unit cube is taken. With them the areas are those of DeepMind's `surface-distance`
for every neighbourhood and spacing.

Source: Lorensen and Cline 1987 (marching cubes); Nikolov et al. 2021 (surface elements for the
surface Dice).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

_CORNERS = tuple(itertools.product((0, 1), repeat=3))
Edge = frozenset  # of the numbers of two corners


def areas(spacing_mm: Sequence[float]) -> np.ndarray:
    """Returns float64 [256], mm2: the surface area by neighbourhood; bit k of its number is the
    corner (k // 4, k // 2 % 2, k % 2).
    """
    x, y, z = (float(length) for length in spacing_mm)
    return np.linalg.norm(_normals() * np.array([y * z, x * z, x * y]), axis=-1).sum(axis=-1)


@functools.cache
def _normals() -> np.ndarray:
    """Returns float64 [256, 4, 3]: the normals of each neighbourhood's triangles in a unit cube, as
    long as their areas.
    """
    normals = np.zeros((256, 4, 3))
    for code in range(1, 255):
        inside = [corner for corner in range(8) if code >> corner & 1]
        kept_apart = set(inside) if len(inside) <= 4 else set(range(8)) - set(inside)
        triangles = [normal for loop in _loops(kept_apart) for normal in _largest(loop)]
        normals[code, : len(triangles)] = triangles
    return normals


def _loops(inside: set[int]) -> Iterator[list[Edge]]:
    """Yields the polygons that part the corners inside from the others, each as the cube's edges it
    runs through in turn.
    """
    links: dict[Edge, list[Edge]] = {}
    for axis, side in itertools.product(range(3), (0, 1)):
        face = [corner for corner, place in enumerate(_CORNERS) if place[axis] == side]
        cut = [
            Edge(pair)
            for pair in itertools.combinations(face, 2)
            if _is_edge(*pair) and len(inside & set(pair)) == 1
        ]
        if len(cut) == 4:  # two corners across: each is cut off by itself
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
    """Returns the normals [n - 2, 3] of the triangles that cut a polygon of n corners so that their
    area is largest.
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

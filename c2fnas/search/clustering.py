"""Groups of similar topologies, from which a search draws its first candidates.

C2FNAS assumes that similar topologies score alike, so one candidate of each group covers the space
with few trainings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from c2fnas.search.draws import Draws


def clusters(distances: np.ndarray, count: int) -> list[list[int]]:
    """Returns groups of similar items by average linkage.

    Args:
      distances: condensed, see `distance.pairwise`.
      count: number of groups.
    Returns:
      `count` lists of item numbers, each ascending, in the order of their first numbers.
    Raises:
      ValueError: if there are fewer items than groups.
    """
    things = squareform(distances).shape[0]
    if not 1 <= count <= things:
        raise ValueError(f"count is {count}; expected 1 to {things}, the number of topologies")
    if things == 1:
        return [[0]]
    # fcluster would join groups of equal height and return fewer.
    labels = hierarchy.cut_tree(hierarchy.linkage(distances, "average"), n_clusters=count)[:, 0]
    groups: dict[int, list[int]] = {}
    for number, label in enumerate(labels.tolist()):
        groups.setdefault(label, []).append(number)
    return list(groups.values())


def one_of_each(groups: Sequence[Sequence[int]], seed: int) -> list[int]:
    """Returns one member of each group, drawn uniformly; a function of the seed."""
    draws = Draws(seed, "one of each cluster")
    return [group[draws.below(len(group))] for group in groups]

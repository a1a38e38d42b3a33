"""Which path of the supernet a training step takes."""

from __future__ import annotations

from c2fnas.search.draws import Draws
from c2fnas.search.gene_space import Gene, GeneSpace


def path_at(space: GeneSpace, seed: int, round_number: int, step: int) -> Gene:
    """Returns the path of a step; every valid path is equally likely.

    It depends only on its arguments. A resumed training therefore takes the same paths, and sites
    that train one supernet together agree on them without exchanging messages.

    Args:
      space: the paths.
      seed: seed of the search.
      round_number: round of a federated training, from 1; 0 for a training without rounds.
      step: number of the step, from 0.
    Raises:
      ValueError: as `GeneSpace.sample`.
    Source: uniform sampling of Guo et al. 2019 (arXiv 1904.00420).
    """
    return space.sample(Draws(seed, "path", round_number, step))

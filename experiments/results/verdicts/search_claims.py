"""The claims about an architecture search, and the rules that decide them.

A claim is either a comparison of two networks, each trained from scratch with several seeds, or it
is about the rank correlation of a supernet. Comparisons use the test cases, which no score of a
search has used, because a winner looks better than it is on the cases by which it was chosen. d is
the first network minus the second, on the same cases and with the same seeds, in points of Dice.

  greater        the 95 % interval of the mean of d above 0; contradicted below
  less           the interval below 0; contradicted above
  tau_above, x   the interval of Kendall's tau above x; contradicted below
  tau_below, x   the interval of Kendall's tau below x; contradicted above

Both outcomes also need p < 0.05 after Holm over all measured claims; everything else is undecided.
A comparison with fewer than three seeds, and a correlation over fewer than eight paths or three
seeds, is not measured. All of this was written before any result was known.
"""

from __future__ import annotations

import dataclasses

COMPARED = ("greater", "less")
CORRELATED = ("tau_above", "tau_below")

# The networks that are compared. The first four and the arms of a search are chosen by validation.
PUBLISHED = "published"  # the genotype `c2fnas`
IN_PLANE, VOLUMETRIC = "all_2d", "all_3d"  # its topology with one operation in all cells
TOPOLOGY, TOPOLOGY_RANDOM = "topology_evolution", "topology_random"
OPERATIONS, OPERATIONS_RANDOM = "operations_evolution", "operations_random"
NETWORKS = {
    PUBLISHED: "the published genotype",
    IN_PLANE: "its topology with 2D operations in all cells",
    VOLUMETRIC: "its topology with 3D operations in all cells",
    TOPOLOGY: "the best topology that evolution found",
    TOPOLOGY_RANDOM: "the best topology of the random arm",
    OPERATIONS: "the best operations that evolution found",
    OPERATIONS_RANDOM: "the best operations of the random arm",
}

# Measure -> the sites whose cases it takes, with their sign, and what is averaged. "score" is the
# mean over the classes that a case's label shows.
SCORE, C2_PANCREAS, C2_MINUS_C1 = "score", "C2_pancreas", "C2_minus_C1_pancreas"
SEARCH_MEASURES = {
    SCORE: "mean Dice of all test cases",
    C2_PANCREAS: "pancreas Dice of C2's test cases",
    C2_MINUS_C1: "pancreas Dice, d of C2's test cases minus d of C1's",
}

LEAST_SEEDS, LEAST_PATHS = 3, 8
NOISE_SEEDS = 6


@dataclasses.dataclass(frozen=True)
class SearchClaim:
    """A claim and the rule that decides it.

    Attributes:
      rule: one of `COMPARED` or `CORRELATED`.
      first, second: for a comparison, keys of `NETWORKS`.
      measure: for a comparison, a key of `SEARCH_MEASURES`.
      limit: for a correlation, the limit of tau.
      source: where the claim comes from.
    """

    key: str
    claim: str
    rule: str
    source: str
    first: str = ""
    second: str = ""
    measure: str = SCORE
    limit: float = 0.0


SEARCH_CLAIMS = (
    SearchClaim(
        "topology_beats_random",
        "Evolution over clustered topologies finds a better one than random search does with the "
        "same number of trainings.",
        "greater",
        "Yu et al. 2020, section 3.2; random search is the baseline of Li and Talwalkar 2019",
        TOPOLOGY,
        TOPOLOGY_RANDOM,
    ),
    SearchClaim(
        "operations_beat_random",
        "Evolution over the paths of a supernet finds better operations than random search does "
        "with the same number of scored paths.",
        "greater",
        "Guo et al. 2019; random search is the baseline of Li and Talwalkar 2019",
        OPERATIONS,
        OPERATIONS_RANDOM,
    ),
    SearchClaim(
        "search_beats_published",
        "The network that both stages found is better than the published genotype, trained with "
        "the same budget.",
        "greater",
        "ours",
        OPERATIONS,
        PUBLISHED,
    ),
    SearchClaim(
        "supernet_ranks",
        "The supernet's scores rank paths as trainings of each path alone do: Kendall's tau is "
        "above 0.",
        "tau_above",
        "Guo et al. 2019",
    ),
    SearchClaim(
        "supernet_ranks_weakly",
        "This agreement is weak: Kendall's tau is below 0.5.",
        "tau_below",
        "Yu et al. 2019, Evaluating the search phase of neural architecture search",
        limit=0.5,
    ),
    SearchClaim(
        "in_plane_on_thick_slices",
        "On C2, whose slices are 5 mm thick, 2D operations are better than 3D operations.",
        "greater",
        "ours",
        IN_PLANE,
        VOLUMETRIC,
        C2_PANCREAS,
    ),
    SearchClaim(
        "in_plane_for_the_slices",
        "Whatever 2D operations gain over 3D operations, they gain more on C2 than on C1, whose "
        "slices are thin.",
        "greater",
        "ours",
        IN_PLANE,
        VOLUMETRIC,
        C2_MINUS_C1,
    ),
)

"""Evolution over the genes of a space: a pure function of the seed and of the recorded scores.

    state = evolution.start(space, settings, seed=1)
    while (candidate := evolution.waiting(state)) is not None:
        state = evolution.record(state, space, candidate.gene, score_of(candidate.gene))
    winner = evolution.best(state)[0]

A generation is scored candidate by candidate. The best `parents` of all generations so far then
produce the next one: some candidates by mutation, some by crossover, the rest at random. No gene is
proposed twice. The state can be written as JSON after every score and read again.
Source: Guo et al. 2019 (arXiv 1904.00420), algorithm 1, with its defaults.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

from c2fnas.search.draws import Draws
from c2fnas.search.gene_space import Gene, GeneSpace
from runkit import settings
from runkit.settings import SHARE, at_least, setting

FORMAT = 1  # raise it when earlier releases can no longer read a state
Origin = Literal["given", "random", "mutation", "crossover"]

_ATTEMPTS = 1000  # attempts at each new gene, before another kind replaces it


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvolutionSettings:
    """How an evolution proceeds. The defaults are those of Guo et al. 2019."""

    population: int = setting(
        50, "Candidates of each generation of the evolution.", condition=at_least(1)
    )
    generations: int = setting(
        20,
        "Generations of the evolution, including the random first one. --population times "
        "--generations candidates are scored.",
        condition=at_least(1),
    )
    parents: int = setting(
        10,
        "Number of the best candidates so far from which the next generation descends.",
        condition=at_least(1),
    )
    mutations: int = setting(
        25, "Candidates of a generation that are mutations of a parent.", condition=at_least(0)
    )
    crossovers: int = setting(
        25,
        "Candidates of a generation that mix two parents; those beyond mutations and crossovers "
        "are random.",
        condition=at_least(0),
    )
    mutation_probability: float = setting(
        0.1, "Probability that a mutation redraws a cell's choice.", condition=SHARE
    )

    def __post_init__(self) -> None:
        settings.check(self)
        if self.mutations + self.crossovers > self.population:
            raise ValueError(
                f"mutations is {self.mutations} and crossovers {self.crossovers}; expected at most "
                f"{self.population} together, the population"
            )

    @property
    def budget(self) -> int:
        """The number of candidates that are scored."""
        return self.population * self.generations


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A gene that was proposed.

    Attributes:
      gene: the gene that is scored.
      generation: number of its generation, from 0.
      origin: how it was proposed.
      parents: the one or two genes it descends from.
      score: higher is better; None until it is recorded.
      details: further numbers that were recorded with the score.
    """

    gene: Gene
    generation: int
    origin: Origin
    parents: tuple[Gene, ...] = ()
    score: float | None = None
    details: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class EvolutionState:
    """The state of an evolution.

    Attributes:
      settings, seed: as given to `start`.
      candidates: all proposed candidates, in order; those without a score come last.
    """

    settings: EvolutionSettings
    seed: int
    candidates: tuple[Candidate, ...]

    @property
    def generation(self) -> int:
        """The number of the newest generation, from 0."""
        return self.candidates[-1].generation

    @property
    def scored(self) -> tuple[Candidate, ...]:
        return tuple(candidate for candidate in self.candidates if candidate.score is not None)


def start(
    space: GeneSpace, settings: EvolutionSettings, *, seed: int, given: Sequence[Gene] = ()
) -> EvolutionState:
    """Returns an evolution with its first generation.

    Args:
      space: the space of genes.
      settings: sizes and probabilities.
      seed: seed of every choice.
      given: the first genes of the first generation, e.g. one from each cluster; the rest of it is
        random.
    Raises:
      ValueError: if a given gene is not in the space or is given twice, or if there are more of
        them than the population.
    """
    first = [space.checked(gene) for gene in given]
    if len(set(first)) < len(first) or len(first) > settings.population:
        raise ValueError(
            f"{len(first)} genes are given, {len(set(first))} of them different; expected at most "
            f"{settings.population}, the population, each once"
        )
    proposals = [Candidate(gene, 0, "given") for gene in first]
    proposals += _random(space, settings.population - len(first), 0, seed, known=set(first))
    return EvolutionState(settings, seed, tuple(proposals))


def random_search(space: GeneSpace, settings: EvolutionSettings, *, seed: int) -> EvolutionState:
    """Returns a random search that scores as many candidates as the evolution would.

    It is an evolution with a single generation, so `waiting`, `record` and `best` work as usual.
    Give it another seed than the evolution, or both start with the same genes.
    """
    return start(
        space,
        dataclasses.replace(
            settings, population=settings.budget, generations=1, mutations=0, crossovers=0
        ),
        seed=seed,
    )


def waiting(state: EvolutionState) -> Candidate | None:
    """Returns the next candidate to score; None at the end of the evolution."""
    for candidate in state.candidates:
        if candidate.score is None:
            return candidate
    return None


def record(
    state: EvolutionState,
    space: GeneSpace,
    gene: Gene,
    score: float,
    details: Mapping[str, float] | None = None,
) -> EvolutionState:
    """Returns the state with a candidate's score and, if a generation is complete, the next one.

    If the space is nearly used up, a generation is smaller; if nothing new is found, the evolution
    ends.

    Args:
      state: a state in which the gene waits for a score.
      space: the same space at every call.
      gene: the gene that was scored.
      score: higher is better.
      details: further numbers to keep with it.
    Raises:
      ValueError: if the gene is not waiting for a score, or the score is not finite.
    """
    if not math.isfinite(score):
        raise ValueError(f"the score of gene {list(gene)} is {score}; expected a finite number")
    places = [
        place
        for place, candidate in enumerate(state.candidates)
        if candidate.gene == tuple(gene) and candidate.score is None
    ]
    if not places:
        raise ValueError(
            f"gene {list(gene)} is not waiting for a score; score what `waiting` returns"
        )
    candidates = list(state.candidates)
    candidates[places[0]] = dataclasses.replace(
        candidates[places[0]], score=float(score), details=dict(details or {})
    )
    state = dataclasses.replace(state, candidates=tuple(candidates))
    if waiting(state) is None and state.generation + 1 < state.settings.generations:
        state = dataclasses.replace(
            state, candidates=(*state.candidates, *_next_generation(state, space))
        )
    return state


def best(state: EvolutionState, count: int = 1) -> list[Candidate]:
    """Returns the candidates with the highest scores; in a tie, the one proposed first."""
    return sorted(state.scored, key=lambda candidate: -(candidate.score or 0.0))[:count]


def to_json(state: EvolutionState) -> dict[str, Any]:
    """Returns JSON values from which `from_json` makes the same state."""
    return {
        "format": FORMAT,
        "settings": dataclasses.asdict(state.settings),
        "seed": state.seed,
        "candidates": [
            {
                "gene": list(candidate.gene),
                "generation": candidate.generation,
                "origin": candidate.origin,
                "parents": [list(parent) for parent in candidate.parents],
                "score": candidate.score,
                "details": dict(candidate.details),
            }
            for candidate in state.candidates
        ],
    }


def from_json(value: Mapping[str, Any]) -> EvolutionState:
    """Returns the state that `to_json` has written.

    Raises:
      ValueError: if the value is not such a state; the message names the problem.
    """
    if value.get("format") != FORMAT:
        raise ValueError(
            f"an evolution's state has format {value.get('format')!r}; this release reads {FORMAT}"
        )
    try:
        candidates = tuple(
            Candidate(
                gene=tuple(entry["gene"]),
                generation=int(entry["generation"]),
                origin=entry["origin"],
                parents=tuple(tuple(parent) for parent in entry["parents"]),
                score=None if entry["score"] is None else float(entry["score"]),
                details=dict(entry["details"]),
            )
            for entry in value["candidates"]
        )
        state = EvolutionState(EvolutionSettings(**value["settings"]), value["seed"], candidates)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not the state of an evolution: {error!r}") from error
    if not candidates or any(c.origin not in get_args(Origin) for c in candidates):
        raise ValueError(
            "not the state of an evolution: it has no candidates, or one of unknown origin"
        )
    return state


def mutated(space: GeneSpace, gene: Gene, probability: float, draws: Draws) -> Gene:
    """Returns a gene with each place redrawn with a probability; it may not be valid."""
    return tuple(
        draws.below(count) if draws.chance(probability) else choice
        for choice, count in zip(gene, space.choices, strict=True)
    )


def crossed(one: Gene, other: Gene, draws: Draws) -> Gene:
    """Returns a gene that takes each place from either parent; it may not be valid."""
    return tuple(pair[draws.below(2)] for pair in zip(one, other, strict=True))


def _next_generation(state: EvolutionState, space: GeneSpace) -> list[Candidate]:
    chosen, number = state.settings, state.generation + 1
    parents = [candidate.gene for candidate in best(state, chosen.parents)]
    known = {candidate.gene for candidate in state.candidates}
    draws = Draws(state.seed, "evolution", number)

    def mutation() -> tuple[Gene, tuple[Gene, ...]]:
        parent = parents[draws.below(len(parents))]
        return mutated(space, parent, chosen.mutation_probability, draws), (parent,)

    def crossover() -> tuple[Gene, tuple[Gene, ...]]:
        first, second = (parents[draws.below(len(parents))] for _ in range(2))
        return crossed(first, second, draws), (first, second)

    proposals = [
        *_new(space, mutation, chosen.mutations, number, "mutation", known),
        *_new(space, crossover, chosen.crossovers, number, "crossover", known),
    ]
    rest = chosen.population - len(proposals)
    return proposals + _random(space, rest, number, state.seed, known=known)


def _random(
    space: GeneSpace, count: int, number: int, seed: int, *, known: set[Gene]
) -> list[Candidate]:
    draws = Draws(seed, "random candidates", number)
    found = list(_new(space, lambda: (space.sample(draws), ()), count, number, "random", known))
    if len(found) < count:  # almost every gene is known: random draws would miss the last ones
        for gene in itertools.product(*map(range, space.choices)):
            if len(found) == count:
                break
            if gene not in known and space.is_valid(gene):
                known.add(gene)
                found.append(Candidate(gene, number, "random"))
    return found


def _new(
    space: GeneSpace,
    propose: Callable[[], tuple[Gene, tuple[Gene, ...]]],
    count: int,
    number: int,
    origin: Origin,
    known: set[Gene],
) -> Iterator[Candidate]:
    """Yields up to `count` valid candidates that are not known yet, and adds them to `known`."""
    for _ in range(count):
        for _ in range(_ATTEMPTS):
            gene, parents = propose()
            if gene not in known and space.is_valid(gene):
                known.add(gene)
                yield Candidate(gene, number, origin, parents)
                break
        else:
            return

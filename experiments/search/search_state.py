"""The state file of a search: the candidates proposed and scored in each arm.

It is replaced as a whole after every score, so a search that is stopped at any point resumes at the
same candidate and ends with the same result.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from c2fnas.genotype import Genotype
from c2fnas.search import evolution
from c2fnas.search.evolution import Candidate, EvolutionState
from c2fnas.search.gene_space import Gene
from experiments.reports.search_page import StageResult
from experiments.results.search_table import EVOLUTION, ScoredCandidate
from runkit import atomic, formats, nested, randomness

FORMAT = 1  # raise it when earlier releases can no longer read a state
FILE_NAME = "search.json"


@dataclasses.dataclass(frozen=True)
class SearchState:
    """The state of a search.

    Attributes:
      stage: "topology" or "operations".
      settings: all settings that decide its numbers, as JSON values.
      arms: name of an arm -> its candidates.
    """

    stage: str
    settings: Mapping[str, Any]
    arms: Mapping[str, EvolutionState]

    def with_arm(self, name: str, arm: EvolutionState) -> SearchState:
        return dataclasses.replace(self, arms={**self.arms, name: arm})

    def waiting(self) -> Iterator[tuple[str, Candidate]]:
        """Yields the arm and the candidate to score next, then the others that wait for a score.

        The arms alternate, so that even an unfinished search compares like with like.
        """
        turns = sorted(self.arms, key=lambda name: (len(self.arms[name].scored), name))
        for name in turns:
            for candidate in self.arms[name].candidates:
                if candidate.score is None:
                    yield name, candidate

    @property
    def finished(self) -> bool:
        return next(self.waiting(), None) is None

    def known(self, gene: Gene) -> Candidate | None:
        """Returns a scored candidate of any arm with this gene, None if there is none."""
        for arm in self.arms.values():
            for candidate in arm.scored:
                if candidate.gene == gene:
                    return candidate
        return None

    @property
    def scored(self) -> int:
        return sum(len(arm.scored) for arm in self.arms.values())

    @property
    def budget(self) -> int:
        """The number of candidates to score in all arms."""
        return sum(arm.settings.budget for arm in self.arms.values())


def random_arm_seed(seed: int) -> int:
    """Returns the seed of a search's random arm, whose first genes thus differ from evolution's."""
    return int.from_bytes(randomness.digest(seed, "random arm")[:4], "big")


def write(folder: pathlib.Path, state: SearchState) -> None:
    """Writes the state file of a search."""
    atomic.write_json(
        folder / FILE_NAME,
        {
            "format": FORMAT,
            "stage": state.stage,
            "settings": dict(state.settings),
            "arms": {name: evolution.to_json(arm) for name, arm in state.arms.items()},
        },
    )


def read(folder: pathlib.Path) -> SearchState | None:
    """Returns the state of a search, None if the folder has none.

    Raises:
      ValueError: naming the file, if it is not a search's state or comes from a newer release.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return None
    content = formats.read_json(path, FORMAT)
    try:
        arms = {name: evolution.from_json(arm) for name, arm in content["arms"].items()}
        if not arms or not isinstance(content["settings"], dict):
            raise ValueError("it has no arms, or no settings")
        return SearchState(content["stage"], content["settings"], arms)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: is not the state of a search ({error!r}); give another folder"
        ) from error


def resumed(folder: pathlib.Path, first: SearchState, *, writes: Sequence[str] = ()) -> SearchState:
    """Returns the state in a folder, or `first` if there is none yet.

    Args:
      writes: names of the files and folders that the program will write into the folder.
    Raises:
      ValueError: naming every difference, if the folder holds a search with other settings; or if
        it holds no search, but a file or folder with one of these names.
    """
    found = read(folder)
    if found is None:
        require_free(folder, writes)
        return first
    differing = differences(found.settings, first.settings)
    if found.stage != first.stage:
        differing.insert(0, f"stage {found.stage}, now {first.stage}")
    if differing:
        raise ValueError(
            f"{folder / FILE_NAME}: holds a search with other settings: {'; '.join(differing)}; "
            "give another --output, or delete this folder"
        )
    return found


def require_free(folder: pathlib.Path, names: Sequence[str]) -> None:
    """Raises ValueError naming the first of these files or folders that already exists."""
    for name in names:
        if (folder / name).exists():
            raise ValueError(
                f"--output is {folder}, where {name} exists but does not belong to a search that "
                "can be resumed; give another folder"
            )


def write_winners(
    state: SearchState,
    genotype_of: Callable[[Gene], Genotype],
    folder: pathlib.Path,
    names: tuple[str, str],
    *,
    scored_on: str = "",
) -> Iterator[str]:
    """Writes the best genotype of each arm; yields a line about each.

    Args:
      names: of the files for evolution's best and for that of the random arm.
      scored_on: words that follow the score in the line.
    """
    for name, arm in state.arms.items():
        (best,) = evolution.best(arm)
        genotype = genotype_of(best.gene)
        file = folder / names[name != EVOLUTION]
        atomic.write_json(file, genotype.to_json())
        yield (
            f"{name}: {genotype.name}, score {best.score:.4f}{scored_on}, {len(arm.scored)} "
            f"scored; {file}"
        )


def differences(held: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Returns one phrase per setting in which two nested mappings differ."""
    return [f"{path} {one}, now {two}" for path, one, two in nested.differences(held, given)]


def result(
    state: SearchState,
    genotype_of: Callable[[Gene], Genotype],
    patch_size: Sequence[int],
    *,
    shared_seconds: float = 0.0,
) -> StageResult:
    """Returns the results of a search that a page shows.

    Args:
      state: the search, with a detail `macs` for each score, and `seconds` and `dice_<site>` where
        measured.
      genotype_of: returns the genotype of a gene.
      patch_size: patch size of the training, in voxels.
      shared_seconds: time to train what all candidates share.
    """
    candidates = [
        ScoredCandidate(
            arm=name,
            number=number,
            generation=one.generation,
            origin=one.origin,
            name=genotype_of(one.gene).name,
            score=one.score,
            macs=one.details["macs"],
            seconds=one.details.get("seconds", 0.0),
            by_site={
                key.removeprefix("dice_"): value
                for key, value in one.details.items()
                if key.startswith("dice_")
            },
        )
        for name, arm in state.arms.items()
        for number, one in enumerate(arm.candidates, start=1)
        if one.score is not None
    ]
    winners = {
        name: genotype_of(evolution.best(arm)[0].gene)
        for name, arm in state.arms.items()
        if arm.scored
    }
    return StageResult(
        state.stage, candidates, state.budget, winners, tuple(patch_size), shared_seconds
    )

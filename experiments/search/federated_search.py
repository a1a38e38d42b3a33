"""The fine stage across sites: evolution over paths, scored by the rows that the sites return."""

from __future__ import annotations

import dataclasses
import pathlib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from c2fnas.search import evolution
from c2fnas.search.evolution import EvolutionSettings
from c2fnas.search.operation_space import OperationSpace
from experiments.models import given_paths
from experiments.results import fingerprints, path_names, shared_choice, table1_values
from experiments.results.case_rows import CaseRow, latest, value
from experiments.results.search_table import EVOLUTION, RANDOM
from experiments.search import search_state
from experiments.search.search_state import SearchState, random_arm_seed
from runkit import events
from runkit.classes import FOREGROUND

STAGE, ROWS, LOG = "operations", "rows.jsonl", "events.jsonl"
WINNERS = ("operations.json", "operations_random.json")
PAGE = "search.html"
CASES = "cases_"  # prefix of a site's name in the details of a candidate
WHICH = "which_cases"  # detail of a candidate: a number that stands for the cases of all sites


def digest(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a file; raises ValueError naming a missing one."""
    if not path.is_file():
        raise ValueError(f"--trained is {path}, which does not exist; give a global model's file")
    return fingerprints.of_file(path)


def first_state(
    space: OperationSpace,
    settings: EvolutionSettings,
    *,
    seed: int,
    about: Mapping[str, Any],
) -> SearchState:
    """Returns a search with its first candidates: evolution, and as many paths drawn at random.

    Args:
      space: the space of paths.
      settings: settings of the evolution.
      seed: seed of every choice.
      about: further settings that decide the numbers, as JSON values.
    """
    arms = {
        EVOLUTION: evolution.start(space, settings, seed=seed),
        RANDOM: evolution.random_search(space, settings, seed=random_arm_seed(seed)),
    }
    chosen = {"search": {**dataclasses.asdict(settings), "seed": seed}, **about}
    return SearchState(STAGE, chosen, arms)


def pooled_search(folder: pathlib.Path, space: OperationSpace) -> SearchState:
    """Returns a search over the same paths on pooled data, to show beside this one.

    Raises:
      ValueError: naming the folder, if it holds no search, or a search of something else.
    """
    state = search_state.read(folder)
    if state is None:
        raise ValueError(
            f"--pooled is {folder}, which holds no {search_state.FILE_NAME}; give the folder of "
            "experiments.search_operations"
        )
    experiment = state.settings.get("experiment")
    searched = experiment.get("genotype") if isinstance(experiment, dict) else None
    if state.stage != STAGE or searched != space.base.to_json():
        raise ValueError(
            f"--pooled is {folder}, which holds a search of {state.stage} of another genotype or "
            "width; give that of experiments.search_operations with the same --genotype and "
            "--filters"
        )
    return state


def batch(state: SearchState) -> list[tuple[int, ...]]:
    """Returns the paths of the next evaluation, without repeats: one generation of both arms.

    Both arms advance together, so that even an unfinished search compares like with like.
    """
    random, found = state.arms[RANDOM], dict[tuple[int, ...], None]()
    waiting = [one for one in state.arms[EVOLUTION].candidates if one.score is None]
    found.update((one.gene, None) for one in waiting)
    left = [one for one in random.candidates if one.score is None]
    share = state.arms[EVOLUTION].settings.population if waiting else len(left)
    found.update((one.gene, None) for one in left[:share])
    return list(found)


def place(state: SearchState, folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Returns the list of the next evaluation and the folder of its server's store."""
    number = state.arms[EVOLUTION].generation + 1
    name = f"generation_{number:02d}"
    if evolution.waiting(state.arms[EVOLUTION]) is None:
        name = "rest"  # the remaining paths of the random arm
    return folder / f"{name}.json", folder / name


def next_list(
    state: SearchState, folder: pathlib.Path, trained: pathlib.Path
) -> tuple[pathlib.Path, pathlib.Path] | None:
    """Writes the list of the next evaluation; returns the list and its store, None at the end."""
    paths = batch(state)
    if not paths:
        return None
    file, store = place(state, folder)
    given_paths.write_list(file, trained, paths)
    return file, store


def take_rows(
    space: OperationSpace, state: SearchState, folder: pathlib.Path, patch_size: Sequence[int]
) -> SearchState:
    """Returns the state with the scores of the pending evaluation, if its rows are there.

    Raises:
      ValueError: if the evaluation is not finished, or if its paths were scored on other cases than
        each other's or an earlier evaluation's.
    """
    asked = batch(state)
    _, store = place(state, folder)
    if not asked or not (store / ROWS).is_file():
        return state
    if not finished(store):  # sites send their rows one after another
        raise ValueError(
            f"{store}: the evaluation is not finished; let the server and all sites finish, then "
            "run this program again"
        )
    rows = table1_values.rows_as_sent(store / ROWS, any_site=True)
    found = scores(rows)
    missing = [path_names.name_of(gene) for gene in asked if path_names.name_of(gene) not in found]
    if missing:
        raise ValueError(
            f"{store / ROWS}: has no rows of {', '.join(missing[:3])}; the server was started with "
            f"another list than {store}.json: delete {store} and start it with that list"
        )
    which = _which_cases(rows)
    recorded = {
        path_names.name_of(gene): {
            **cases_scored(found[path_names.name_of(gene)]),
            WHICH: which[path_names.name_of(gene)],
        }
        for gene in asked
    }
    now = next(iter(recorded.values()))
    before = [
        {name: n for name, n in one.details.items() if name.startswith(CASES) or name == WHICH}
        for arm in state.arms.values()
        for one in arm.scored
    ]
    for other in (*before, *recorded.values()):
        if not _same_cases(other, now):
            raise ValueError(
                f"{store / ROWS}: paths were scored on different cases, {_words(other)} and "
                f"{_words(now)}, so their scores cannot be compared; delete {store} and "
                "let the same sites score this generation again, with the same prepared cases"
            )
    for gene in asked:
        sites = found[path_names.name_of(gene)]
        score = float(np.mean([one for own in sites.values() for one in own]))
        details = {
            "macs": float(space.genotype(gene).macs(patch_size)),
            **{f"dice_{site}": float(np.mean(own)) for site, own in sorted(sites.items())},
            **recorded[path_names.name_of(gene)],
        }
        for name, arm in state.arms.items():
            if any(c.gene == gene and c.score is None for c in arm.candidates):
                state = state.with_arm(name, evolution.record(arm, space, gene, score, details))
    return state


def finished(store: pathlib.Path) -> bool:
    """Returns whether the log of a server's store says that the run has ended."""
    return any(
        record["event"] == "finished" or record.get("carried", {}).get("finished", False)
        for record in events.EventLog(store / LOG).read()
    )


def cases_scored(sites: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Returns `cases_<site>`, the number of cases on which each site scored a path."""
    return {f"{CASES}{site}": float(len(own)) for site, own in sorted(sites.items())}


def scored_on(state: SearchState) -> str:
    """Returns words such as " on validation cases, 6 of C1, 4 of C2"; "" before the first score.

    A search cannot know which sites should have taken part in its first evaluation, so it names
    those that did.
    """
    for arm in state.arms.values():
        for one in arm.scored:
            cases = {name: n for name, n in one.details.items() if name.startswith(CASES)}
            if cases:
                return f" on validation cases, {_words(cases)}"
    return ""


def _words(cases: Mapping[str, float]) -> str:
    counts = [(name, n) for name, n in cases.items() if name != WHICH]
    return ", ".join(f"{n:.0f} of {name.removeprefix(CASES)}" for name, n in counts)


def _same_cases(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Returns whether two records name the same cases, as far as both have them.

    Earlier releases recorded how many cases each site had, or nothing.
    """
    if not one or not other:
        return True
    unknown = {WHICH} - (one.keys() & other.keys())
    return all(one.get(key) == other.get(key) for key in (one.keys() | other.keys()) - unknown)


def _which_cases(rows: Iterable[CaseRow]) -> dict[str, float]:
    """Returns path -> a number that differs if it was scored on other cases."""
    cases: dict[str, set[tuple[str, int]]] = {}
    for row in rows:
        if row["grid"] == shared_choice.GRID:
            cases.setdefault(row["model"], set()).add((row["site"], row["case"]))
    return {
        model: float(zlib.crc32(repr(sorted(own)).encode("utf-8"))) for model, own in cases.items()
    }


def scores(rows: Sequence[CaseRow]) -> dict[str, dict[str, list[float]]]:
    """Returns path -> site -> score of each validation case.

    As everywhere in a search, the score of a case is the mean Dice of the classes that its label
    shows.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for (model, site, _), row in sorted(latest(rows, shared_choice.GRID).items()):
        shown = [
            value(row, f"dice_{name}") or 0.0
            for name in FOREGROUND.values()
            if (value(row, f"truth_ml_{name}") or 0.0) > 0
        ]
        own = found.setdefault(model, {}).setdefault(site, [])
        own.append(float(np.mean(shown)) if shown else 0.0)
    return found


def write_winner(space: OperationSpace, state: SearchState, folder: pathlib.Path) -> Iterator[str]:
    """Writes the best genotype of each arm; yields a line about each."""
    on = scored_on(state)
    yield from search_state.write_winners(state, space.genotype, folder, WINNERS, scored_on=on)
    yield f"As a page: {folder / PAGE}; state: {folder / search_state.FILE_NAME}"

"""The evidence on a search: the trainings that it needs, and what they show.

Each training trains one ordinary genotype alone, with a seed that the search did not use. A
finished training is a file, named by its network and seed, so an interrupted program resumes after
it. A network with two names (because both arms found it) is trained once.

The comparisons, their number of trainings and their rules are written down before the first
training. A folder with another plan is refused, and there are no verdicts before the last training,
so nobody can keep adding trainings until a verdict suits them.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from c2fnas.genotype import Genotype
from experiments.results.statistics import rank_correlation
from experiments.results.verdicts import search_verdicts
from experiments.results.verdicts.search_claims import (
    IN_PLANE,
    NETWORKS,
    OPERATIONS,
    OPERATIONS_RANDOM,
    PUBLISHED,
    SEARCH_CLAIMS,
    VOLUMETRIC,
)
from experiments.results.verdicts.search_verdicts import SearchedCase, mean_score
from experiments.search import search_state
from experiments.search.evidence_settings import EvidenceSettings
from experiments.search.shared_work import SharedWork
from runkit import atomic, formats

FORMAT = 1  # version of evidence.json and of a training's file
TRAININGS, CANDIDATES = "trainings", "candidates"
SETTINGS, DOCUMENT, PAGE = "settings.json", "evidence.json", "evidence.html"
SPLITS = ("validation", "test")


@dataclasses.dataclass(frozen=True)
class AloneTraining:
    """One training: a network by its name in the evidence, its genotype and the seed."""

    network: str
    genotype: Genotype
    seed: int

    @property
    def key(self) -> str:
        """The name of its file, which is the same for two names of one network."""
        return f"{fingerprint(self.genotype)[:16]}_{self.seed}"


@dataclasses.dataclass(frozen=True)
class ScoredPath:
    """A path of the supernet as a genotype, and its score in the supernet."""

    genotype: Genotype
    score: float


def write_paths(path: str | os.PathLike, paths: Iterable[ScoredPath]) -> None:
    """Writes paths of a supernet, preferably a uniform sample of all, with their scores in it."""
    listed = [{"genotype": one.genotype.to_json(), "score": one.score} for one in paths]
    atomic.write_json(path, {"format": FORMAT, "paths": listed})


def read_paths(path: str | os.PathLike, filters: int, *, least: int = 0) -> list[ScoredPath]:
    """Reads the file that `write_paths` wrote; the genotypes get this number of filters.

    Raises:
      ValueError: naming the file, if it is not such a file, holds fewer than `least` paths, or
        paths that are equal or do not belong to one supernet.
    """
    if not pathlib.Path(path).is_file():
        raise ValueError(
            f"--paths is {path}, which does not exist; give the file that "
            "experiments.search_operations wrote"
        )
    content = atomic.read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("paths"), list):
        raise ValueError(
            f"{path}: holds no paths of a supernet; give the file that "
            "experiments.search_operations wrote"
        )
    formats.refuse_newer(path, content.get("format"), FORMAT)
    if len(content["paths"]) < least:
        raise ValueError(
            f"{path}: holds {len(content['paths'])} paths and --rank_paths is {least}; lower "
            "it, or search with a larger --population or more --generations"
        )
    found: dict[str, ScoredPath] = {}
    for number, one in enumerate(content["paths"], start=1):
        try:
            scored = ScoredPath(
                Genotype.from_json(one["genotype"]).with_size(filters=filters), float(one["score"])
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: path {number} has no genotype or no score ({error!r}); give the file "
                "that experiments.search_operations wrote"
            ) from error
        if not math.isfinite(scored.score):
            raise ValueError(f"{path}: the score of path {number} is {scored.score}")
        if found.setdefault(fingerprint(scored.genotype), scored) is not scored:
            raise ValueError(
                f"{path}: path {number} repeats an earlier one; expected different paths"
            )
    if len({topology(one.genotype) for one in found.values()}) > 1:
        raise ValueError(f"{path}: holds paths of several topologies; expected those of a supernet")
    return list(found.values())


def require_one_supernet(found: Mapping[str, Genotype], paths: Sequence[ScoredPath]) -> None:
    """Raises ValueError if paths and the operations that a search found have other topologies.

    The claims about operations and about the ranking of paths are about one supernet.
    """
    own = {name: topology(found[name]) for name in (OPERATIONS, OPERATIONS_RANDOM) if name in found}
    own |= {"--paths": topology(paths[0].genotype)} if paths else {}
    for name, one in own.items():
        first = next(iter(own))
        if one != own[first]:
            raise ValueError(
                f"{first} and {name} have different topologies; give what one run of "
                "experiments.search_operations wrote"
            )


def topology(genotype: Genotype) -> str:
    """Returns the fingerprint of a genotype's topology, without its operations."""
    return fingerprint(with_one_operation(genotype, "conv3d"))


def fingerprint(genotype: Genotype) -> str:
    """Returns a genotype's fingerprint without its name."""
    return dataclasses.replace(genotype, name="searched").fingerprint()


def with_one_operation(genotype: Genotype, op: str) -> Genotype:
    """Returns the same topology with one operation in all cells."""
    cells = tuple(dataclasses.replace(cell, op=op) for cell in genotype.cells)
    return dataclasses.replace(genotype, name=f"{genotype.name}_all_{op}", cells=cells)


def networks(published: Genotype, found: Mapping[str, Genotype]) -> dict[str, Genotype]:
    """Returns the networks to compare, in the order of `NETWORKS`.

    Args:
      published: the genotype that a search is compared with.
      found: name in `NETWORKS` -> the genotype that an arm of a search found.
    Raises:
      ValueError: for an unknown name.
    """
    known = {
        PUBLISHED: published,
        IN_PLANE: with_one_operation(published, "conv2d"),
        VOLUMETRIC: with_one_operation(published, "conv3d"),
        **found,
    }
    if unknown := sorted(known.keys() - NETWORKS.keys()):
        raise ValueError(f"{unknown[0]} is not in any claim; known are {', '.join(NETWORKS)}")
    return {name: known[name] for name in NETWORKS if name in known}


def training_seeds(seed: int, count: int) -> range:
    """Returns the seeds of a network's trainings: those that follow the experiment's.

    The search trained all of its candidates with the experiment's seed, so a winner may owe its
    rank to initial weights and patches that happened to suit it.
    """
    return range(seed + 1, seed + 1 + count)


def planned(
    compared: Mapping[str, Genotype],
    paths: Sequence[ScoredPath],
    chosen: EvidenceSettings,
    *,
    seed: int,
) -> list[AloneTraining]:
    """Returns all trainings, one seed after the other, so that an unfinished series is balanced.

    Args:
      compared: see `networks`.
      paths: paths scored in the supernet; the first `rank_paths` are taken.
      seed: seed of the experiment; see `training_seeds`.
    """
    found: dict[str, AloneTraining] = {}
    ranked = paths[: chosen.rank_paths]
    most_seeds = max(chosen.compared_seeds, chosen.noise_seeds, chosen.rank_seeds)
    for number, own in enumerate(training_seeds(seed, most_seeds)):
        for name, genotype in compared.items():
            most = max(chosen.compared_seeds, chosen.noise_seeds * (name == PUBLISHED))
            if number < most:
                one = AloneTraining(name, genotype, own)
                found.setdefault(one.key, one)
        if number < chosen.rank_seeds:
            for path in ranked:
                one = AloneTraining(path.genotype.name, path.genotype, own)
                found.setdefault(one.key, one)
    return list(found.values())


# Trains and scores one network, given its label: the rows of each split, and the seconds it took.
Train = Callable[[AloneTraining, str], tuple[Mapping[str, list[SearchedCase]], float]]


def run(
    trainings: Sequence[AloneTraining],
    folder: pathlib.Path,
    train: Train,
    *,
    after_each: Callable[[], None] = lambda: None,
    most_trainings: int = 0,
) -> None:
    """Runs the trainings that have no file yet and that no other process is running.

    Args:
      folder: folder for the files.
      train: returns the rows of each split and the seconds of a training, given its label.
      after_each: called after each training, by one process at a time.
      most_trainings: number of trainings after which to return early; 0 for no limit.
    """
    shared, done, trained = SharedWork(folder), 0, True
    while trained:  # again, because a process that claimed a training may have been killed since
        trained = False
        for number, one in enumerate(trainings, start=1):
            path = training_file(folder, one)
            if path.exists():
                continue
            if most_trainings and done == most_trainings:
                return
            with shared.alone():
                claim = None if path.exists() else shared.claim(one.key)
            if claim is None:
                continue
            with claim:
                done, trained = done + 1, True
                label = f"{number}/{len(trainings)} {one.network} seed {one.seed}"
                rows, seconds = train(one, label)
                content = {
                    "format": FORMAT,
                    "network": one.network,
                    "genotype": one.genotype.to_json(),
                    "seed": one.seed,
                    "rows": dict(rows),
                    "seconds": round(seconds, 1),
                }
                with shared.alone():
                    atomic.write_json(path, content)
                    claim.done()
                    after_each()


def training_file(folder: pathlib.Path, one: AloneTraining) -> pathlib.Path:
    return folder / TRAININGS / f"{one.key}.json"


def _read_training(path: pathlib.Path) -> tuple[dict[str, list[SearchedCase]], float]:
    """Returns the rows and the seconds of a finished training."""
    content = formats.read_json(path, FORMAT)
    try:
        rows = {split: list(content["rows"][split]) for split in SPLITS}
        return rows, float(content["seconds"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: is not a finished training ({error!r}); delete it, and it is repeated"
        ) from error


def plan(
    compared: Mapping[str, Genotype],
    paths: Sequence[ScoredPath],
    chosen: EvidenceSettings,
    *,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns everything that must not change after the first training, as JSON for `keep_plan`.

    Args:
      about: settings and cases of the trainings.
    """
    return {
        **about,
        "trainings": dataclasses.asdict(chosen),
        "claims": {claim.key: dataclasses.asdict(claim) for claim in SEARCH_CLAIMS},
        "networks": {name: fingerprint(genotype) for name, genotype in compared.items()},
        "paths": {
            path.genotype.name: {"fingerprint": fingerprint(path.genotype), "score": path.score}
            for path in paths[: chosen.rank_paths]
        },
    }


def require_own(folder: pathlib.Path) -> None:
    """Raises ValueError if the folder holds such files, but no plan to which they belong."""
    if not (folder / SETTINGS).exists():
        search_state.require_free(folder, (DOCUMENT, PAGE, TRAININGS, CANDIDATES))


def keep_plan(folder: pathlib.Path, planned: Mapping[str, Any]) -> None:
    """Writes a plan into the folder of the evidence, or compares it with an existing one.

    Raises:
      ValueError: naming every difference; or if the folder holds other files.
    """
    path = folder / SETTINGS
    if not path.exists():
        require_own(folder)
        atomic.write_json(path, dict(planned))
        return
    if found := search_state.differences(atomic.read_json(path), planned):
        raise ValueError(
            f"{path}: this evidence was started with another plan: {'; '.join(found)}; give "
            "another --output, or delete this folder"
        )


def document(
    compared: Mapping[str, Genotype],
    paths: Sequence[ScoredPath],
    chosen: EvidenceSettings,
    folder: pathlib.Path,
    *,
    seed: int,
) -> dict[str, Any]:
    """Returns the results of the finished trainings, as JSON values for `evidence.json`."""
    trainings = planned(compared, paths, chosen, seed=seed)
    rows: dict[str, dict[str, list[SearchedCase]]] = {}
    seconds = 0.0
    for one in trainings:
        path = training_file(folder, one)
        if path.exists():
            rows[one.key], took = _read_training(path)
            seconds += took

    def of(genotype: Genotype, count: int, split: str) -> dict[int, list[SearchedCase]]:
        keys = {s: AloneTraining("", genotype, s).key for s in training_seeds(seed, count)}
        return {s: rows[key][split] for s, key in keys.items() if key in rows}

    test = {name: of(genes, chosen.compared_seeds, "test") for name, genes in compared.items()}
    ranks, tau = _ranks(paths[: chosen.rank_paths], chosen, of, seed)
    noise = search_verdicts.noise_floor(of(compared[PUBLISHED], chosen.noise_seeds, "test"))
    prints = {name: fingerprint(genes) for name, genes in compared.items()}
    finished = len(rows) == len(trainings)
    verdicts = search_verdicts.judge_search(
        test if finished else {}, tau if finished else None, same=prints
    )
    if not finished:
        remark = "the trainings are not finished"
        verdicts = [dataclasses.replace(verdict, remark=remark) for verdict in verdicts]
    return {
        "format": FORMAT,
        "settings": dataclasses.asdict(chosen),
        "seed": seed,
        "finished": finished,
        "trainings": {"done": len(rows), "planned": len(trainings)},
        "seconds": round(seconds, 1),
        "networks": {
            name: {
                "genotype": compared[name].name,
                "fingerprint": prints[name],
                "scores": {str(s): mean_score(own) for s, own in test[name].items()},
            }
            for name in compared
        },
        "noise": None if noise is None else dataclasses.asdict(noise),
        "ranks": ranks,
        "verdicts": [verdict.to_json() for verdict in verdicts],
    }


def _ranks(
    paths: Sequence[ScoredPath],
    chosen: EvidenceSettings,
    of: Callable[[Genotype, int, str], Mapping[int, list[SearchedCase]]],
    seed: int,
) -> tuple[dict[str, Any] | None, rank_correlation.RankCorrelation | None]:
    """Returns both kinds of scores on validation cases, and tau over the finished paths."""
    alone = {
        path.genotype.name: list(of(path.genotype, chosen.rank_seeds, "validation").values())
        for path in paths
    }
    whole = [path for path in paths if len(alone[path.genotype.name]) == chosen.rank_seeds]
    if len(whole) < 2:
        return None, None
    scores = {
        path.genotype.name: [mean_score(own) for own in alone[path.genotype.name]] for path in whole
    }
    supernet = {path.genotype.name: path.score for path in whole}
    tau = rank_correlation.correlation(list(supernet.values()), list(scores.values()), seed=seed)
    return {
        "tau": tau.tau,
        "low": tau.low,
        "high": tau.high,
        "seeds": tau.seeds,
        "supernet": supernet,
        "alone": scores,
    }, tau

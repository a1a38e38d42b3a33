"""A whole search as stages: cohort, preparation, topology, operations, evidence, federated, page.

Each stage starts the programs that a user would start, with the flag files of the profile. A
finished stage is not repeated, and each program resumes by itself.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from absl import flags

from c2fnas import genotype
from c2fnas.search.evolution import EvolutionSettings
from experiments import flag_files, setting_flags
from experiments.configuration import ExperimentConfig
from experiments.reports import search_page
from experiments.run import processes
from experiments.run.run_folder import RunFolder
from experiments.search import evidence, federated_stage, search_cost, search_state
from experiments.search.candidate_budget import ProxySettings
from experiments.search.evidence_settings import EvidenceSettings
from experiments.search.supernet_settings import SupernetSettings
from runkit import atomic

if TYPE_CHECKING:
    from c2fnas.search.topology_space import TopologySpace

SITES = ("C1", "C2")
SETTINGS_OF = {
    "topology": (ProxySettings, EvolutionSettings),
    "operations": (SupernetSettings, EvolutionSettings),
    "evidence": (EvidenceSettings,),
}
# Core-seconds per case of the synthetic cohort to make and to prepare; seconds to start a program.
_COHORT_S, _PREPARE_S, _START_S = 2.0, 0.4, 10.0
_PER_PROCESS = 12  # trainings: TensorFlow keeps up to 200 MB of each until the process ends


@dataclasses.dataclass(frozen=True, kw_only=True)
class WholeSearch:
    """The settings of a whole search.

    Attributes:
      folder: folder of the run.
      flag_files: stage -> its flag file; all belong to one profile.
      seed: seed of cohort, trainings and choices.
      cases: number of cases of each site's synthetic cohort.
      split: number of training, validation and test cases of each site.
      threads: number of threads of all programs that run at the same time.
      at_once: number of programs that share the trainings of a stage.
      federated: whether the sites also train and search a supernet as a federation.
    """

    folder: pathlib.Path
    flag_files: Mapping[str, pathlib.Path]
    seed: int
    cases: int
    split: tuple[int, int, int]
    threads: int
    at_once: int = 1
    federated: bool = True

    def __post_init__(self) -> None:
        if sum(self.split) > self.cases or min(self.split) < 1:
            raise ValueError(
                f"split is {','.join(map(str, self.split))} and cases {self.cases}; expected at "
                "least one training, validation and test case, and no more than there are"
            )
        if not 1 <= self.at_once <= self.threads:
            raise ValueError(
                f"at_once is {self.at_once} and threads {self.threads}; expected at least 1 "
                "training at a time, and no more than there are threads"
            )
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; expected at least 0")

    def own_flags(self, stage: str) -> dict[str, Any]:
        """Returns the checked settings in a stage's flag file, by the name of their class.

        Raises:
          ValueError: naming the flag, its value and what is expected.
        """
        values = flags.FlagValues()
        for kind in (ExperimentConfig, *SETTINGS_OF[stage]):
            setting_flags.define(kind, into=values)
        text = [f"--flagfile={self.flag_files[stage]}", f"--seed={self.seed}"]
        known = [
            argument.text
            for argument in flag_files.expand(text)
            if _name(argument.text) in values or _name(argument.text).removeprefix("no") in values
        ]  # without the flags of the program itself, such as --deepest
        values([stage, *known])
        return {
            kind.__name__: kind(**setting_flags.values(kind, values))
            for kind in (ExperimentConfig, *SETTINGS_OF[stage])
        }

    def check(self) -> ExperimentConfig:
        """Returns the experiment that all stages share.

        Raises:
          ValueError: naming what differs between the flag files of two stages.
        """
        found = {stage: self.own_flags(stage)["ExperimentConfig"] for stage in SETTINGS_OF}
        first = found["topology"]
        for stage, config in found.items():
            if lines := search_state.differences(first.to_json(), config.to_json()):
                raise ValueError(
                    f"{self.flag_files[stage]}: differs from {self.flag_files['topology']}: "
                    f"{'; '.join(lines)}; one search is one experiment"
                )
        return first


def _name(argument: str) -> str:
    return argument.lstrip("-").partition("=")[0]


def estimated_seconds(run: WholeSearch) -> dict[str, float]:
    """Returns stage -> estimated seconds; within about a half, on otherwise idle cores."""
    config = run.check()
    own = {stage: run.own_flags(stage) for stage in SETTINGS_OF}
    network = genotype.load(config.genotype).with_size(filters=config.filters)
    voxels = search_cost.CASE_VOXELS * 64.0
    for length in config.spacing_mm:
        voxels /= length
    _, validation, test = (len(SITES) * count for count in run.split)

    def training(steps: int, cases: int) -> float:
        seconds = search_cost.training_seconds(
            network,
            patch_size=config.patch_size,
            batch_size=config.batch_size,
            steps=steps,
            cases=cases,
            voxels_per_case=voxels,
        )
        return seconds / run.threads

    proxy, coarse = own["topology"]["ProxySettings"], own["topology"]["EvolutionSettings"]
    supernet, fine = own["operations"]["SupernetSettings"], own["operations"]["EvolutionSettings"]
    alone: EvidenceSettings = own["evidence"]["EvidenceSettings"]
    start = search_cost.START_S  # on one core, so others can start at the same time
    share = start / run.at_once
    # Each site takes as many steps as the training on pooled cases, with its share of the threads,
    # and scores its own half of the cases.
    federated = (
        len(SITES) * 1.3 * training(supernet.supernet_steps, 0)
        + 2 * fine.budget * training(0, validation)
        + (2 * start + _START_S) * (fine.generations + 2)
    )
    trainings = (
        6 * alone.compared_seeds
        + max(alone.compared_seeds, alone.noise_seeds)
        + alone.rank_paths * alone.rank_seeds
    )
    return {
        "cohort": run.cases * _COHORT_S * len(SITES) / min(run.threads, len(SITES)) + _START_S,
        "preparation": run.cases * _PREPARE_S * len(SITES) + _START_S,
        "topology": 2 * coarse.budget * (share + training(proxy.proxy_steps, validation)),
        "operations": 2 * start
        + 1.3 * training(supernet.supernet_steps, 0)
        + 2 * fine.budget * training(0, validation),
        "evidence": trainings * (share + training(alone.alone_steps, validation + test)),
        **({"federated": federated} if run.federated else {}),
        "page": _START_S,
    }


class SearchStages:
    """The stages of a whole search, in order."""

    def __init__(self, run: WholeSearch, folder: RunFolder):
        self._run, self._folder, self._runs = run, run.folder, folder
        self._cost = estimated_seconds(run)

    def all(self) -> None:
        """Runs the remaining stages."""
        for name, work in (
            ("cohort", self._cohort),
            ("preparation", self._prepare),
            ("topology", self._topology),
            ("operations", self._operations),
            ("evidence", self._evidence),
            *([("federated", self._federated)] if self._run.federated else []),
            ("page", self._page),
        ):
            self._runs.stage(name, self._cost[name], work)

    def _cohort(self, group: processes.ProgramGroup) -> None:
        programs = [
            group.start(
                site,
                "experiments.synthesize",
                [
                    f"--site={site}",
                    f"--cases={self._run.cases}",
                    f"--seed={self._run.seed}",
                    f"--output={self._folder / 'cohort' / site}",
                ],
                log=f"{site}.cohort",
            )
            for site in SITES
            if not (self._folder / "cohort" / site / "manifest.json").exists()
        ]
        group.wait(programs, "cohort")

    def _prepare(self, group: processes.ProgramGroup) -> None:
        programs = [
            group.start(
                site,
                "experiments.prepare",
                [
                    *self._experiment(),
                    f"--manifest={self._folder / 'cohort' / site / 'manifest.json'}",
                    f"--site_folder={self._folder / 'sites' / site}",
                    f"--split={','.join(map(str, self._run.split))}",
                    "--workers=1",
                ],
                log=f"{site}.prepare",
            )
            for site in SITES
        ]
        group.wait(programs, "preparation")

    def _experiment(self) -> list[str]:
        """Returns only the experiment's flags, for programs that do not search."""
        file = self._folder / "experiment.flags"
        atomic.write_text(file, flag_files.text(self._run.check().to_json()))
        return [f"--flagfile={file}"]

    def _in_parts(
        self,
        group: processes.ProgramGroup,
        stage: str,
        done: Callable[[], int],
        *arguments: str,
    ) -> None:
        """Starts programs that share the trainings of a stage, repeatedly until all are done.

        Args:
          done: returns the number of finished trainings, or of their scores.
        """
        while True:
            before = done()
            limit = f"--most_trainings={_PER_PROCESS}"
            self._start(group, stage, limit, *arguments, programs=self._run.at_once)
            if done() - before < _PER_PROCESS * self._run.at_once:
                return

    def _start(
        self, group: processes.ProgramGroup, stage: str, *arguments: str, programs: int = 1
    ) -> None:
        """Runs a program of the search, or several that share its work."""
        sites = ",".join(str(self._folder / "sites" / site) for site in SITES)
        started = [
            group.start(
                stage if programs == 1 else f"{stage} {number}",
                f"experiments.search_{stage}",
                [
                    f"--flagfile={self._run.flag_files[stage]}",
                    f"--seed={self._run.seed}",
                    f"--threads={self._run.threads // programs}",
                    f"--site_folders={sites}",
                    f"--output={self._folder / stage}",
                    *arguments,
                ],
                log=stage if programs == 1 else f"{stage}.{number}",
            )
            for number in range(1, programs + 1)
        ]
        group.wait(started, stage)

    def _topology(self, group: processes.ProgramGroup) -> None:
        def scored() -> int:
            state = search_state.read(self._folder / "topology")
            return 0 if state is None else state.scored

        self._in_parts(group, "topology", scored)

    def _operations(self, group: processes.ProgramGroup) -> None:
        self._start(
            group, "operations", f"--genotype={self._folder / 'topology' / 'topology.json'}"
        )

    def _evidence(self, group: processes.ProgramGroup) -> None:
        found = {
            "topology_evolution": self._folder / "topology" / "topology.json",
            "topology_random": self._folder / "topology" / "topology_random.json",
            "operations_evolution": self._folder / "operations" / "operations.json",
            "operations_random": self._folder / "operations" / "operations_random.json",
        }
        trainings = self._folder / "evidence" / evidence.TRAININGS
        self._in_parts(
            group,
            "evidence",
            lambda: len(list(trainings.glob("*.json"))),
            f"--found={','.join(f'{name}:{file}' for name, file in found.items())}",
            f"--paths={self._folder / 'operations' / 'paths.json'}",
        )

    def _federated(self, group: processes.ProgramGroup) -> None:
        own = self._run.own_flags("operations")
        supernet: SupernetSettings = own["SupernetSettings"]
        federated_stage.FederatedStage(
            folder=self._folder / "federated",
            config=federated_stage.supernet_config(
                self._run.check(),
                self._folder / "topology" / "topology.json",
                training_cases=self._run.split[0],
                steps=supernet.supernet_steps,
            ),
            site_folders={site: self._folder / "sites" / site for site in SITES},
            evolution=dataclasses.asdict(own["EvolutionSettings"]),
            pooled=self._folder / "operations",
            threads=self._run.threads,
        ).run(group)

    def _page(self, group: processes.ProgramGroup) -> None:
        del group
        times = self._runs.state
        spent = [*times["wall_seconds"].values(), *times.get("unfinished_seconds", {}).values()]
        write_page(self._run, wall_seconds=sum(spent))


def write_page(run: WholeSearch, *, wall_seconds: float) -> None:
    """Writes search.html from the results so far.

    Args:
      wall_seconds: how long the stages took.
    """
    from c2fnas.search.operation_space import OperationSpace

    config, folder = run.check(), run.folder
    stages = []
    if (state := search_state.read(folder / "topology")) is not None:
        stages.append(search_state.result(state, _topologies(state).genotype, config.patch_size))
    if (state := search_state.read(folder / "operations")) is not None:
        base = genotype.load(folder / "topology" / "topology.json").with_size(
            filters=config.filters
        )
        space = OperationSpace(base)
        pooled = search_state.result(state, space.genotype, config.patch_size)
        search = folder / "federated" / federated_stage.SEARCH
        if (state := search_state.read(search)) is None:
            stages.append(pooled)
        else:
            federated = search_state.result(state, space.genotype, config.patch_size)
            stages.append(dataclasses.replace(pooled, place="pooled"))
            stages.append(dataclasses.replace(federated, place="federated"))
    file = folder / "evidence" / evidence.DOCUMENT
    content = atomic.read_json(file) if file.exists() else None
    text = search_page.page(
        stages,
        content,
        title="Search of a network",
        cores=run.threads,
        wall_seconds=wall_seconds,
    )
    atomic.write_text(folder / "search.html", text)


def _topologies(state: search_state.SearchState) -> TopologySpace:
    from c2fnas.search.topology_space import TopologySpace

    return TopologySpace(**state.settings["space"])

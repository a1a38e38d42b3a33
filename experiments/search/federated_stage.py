"""The fine stage of a whole search as a federation: programs of a server and of two sites over TLS.

The sites train a supernet together. Then, generation by generation, the operator's program proposes
paths, and the sites score them in an evaluation without training. Each part resumes by itself.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import flag_files
from experiments.configuration import ExperimentConfig
from experiments.run import local_server, processes
from experiments.search import federated_search, search_state
from federated.rounds import tasks
from runkit import atomic

SEARCH = "search"  # folder of the operator's program, within that of the stage
_KITS, _STORE, _INITIAL = "kits", "supernet", "initial.safetensors"
_LOCAL_EPOCHS = 10  # per round, as in the paper


@dataclasses.dataclass(frozen=True, kw_only=True)
class FederatedStage:
    """A federated search of operations.

    Attributes:
      folder: its folder.
      config: the experiment of the search, with the topology to search; see `supernet_config`.
      site_folders: site -> folder of its prepared cases.
      evolution: flags of the evolution.
      pooled: folder of the search on pooled data, which the page shows beside this one.
      threads: number of threads of all sites together.
    """

    folder: pathlib.Path
    config: ExperimentConfig
    site_folders: Mapping[str, pathlib.Path]
    evolution: Mapping[str, Any]
    pooled: pathlib.Path
    threads: int

    def run(self, group: processes.ProgramGroup) -> None:
        """Trains and searches what is left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic.write_text(self.folder / "experiment.flags", flag_files.text(self.config.to_json()))
        if not (self.folder / _KITS).exists():
            sites = f"--sites={','.join(self.site_folders)}"
            self._program(group, "provision", sites, "--port=0", f"--output={self.folder / _KITS}")
        initial = self.folder / _INITIAL
        if not initial.exists():
            self._program(group, "init_model", *self._flags, f"--output={initial}")
        supernet = self.folder / _STORE
        if not federated_search.finished(supernet):
            self._lead(group, supernet, f"--initial_model={initial}")
        last = tasks.global_name(self.config.num_rounds)
        search = self.folder / SEARCH
        while not all((search / name).exists() for name in federated_search.WINNERS):
            state = search_state.read(search)
            if state is not None and not state.finished:
                listed, store = federated_search.place(state, search)
                if not federated_search.finished(store):
                    self._lead(group, store, f"--models={listed}", rounds=0)
            self._propose(group, supernet / "global" / f"{last}.safetensors")

    @property
    def _flags(self) -> Sequence[str]:
        return [f"--flagfile={self.folder / 'experiment.flags'}"]

    def _propose(self, group: processes.ProgramGroup, trained: pathlib.Path) -> None:
        self._program(
            group,
            "search_federated",
            *self._flags,
            *(f"--{name}={value}" for name, value in self.evolution.items()),
            f"--trained={trained}",
            f"--output={self.folder / SEARCH}",
            f"--pooled={self.pooled}",
        )

    def _program(self, group: processes.ProgramGroup, name: str, *arguments: str) -> None:
        group.wait([group.start(name, f"experiments.{name}", arguments)], name)

    def _lead(
        self,
        group: processes.ProgramGroup,
        store: pathlib.Path,
        models: str,
        *,
        rounds: int | None = None,
    ) -> None:
        """Runs a server and all sites until they end.

        Args:
          store: the server's store.
          models: the flag that says which models the server sends.
          rounds: 0 for an evaluation; None for the rounds of the configuration.
        """
        given = [*self._flags, *([] if rounds is None else [f"--num_rounds={rounds}"])]
        kits, sites = self.folder / _KITS, len(self.site_folders)
        server, reached = local_server.start(
            group, kits, store, sites, [*given, models], log="federated.server"
        )
        joined = [
            group.start(
                site,
                "experiments.join",
                [
                    *given,
                    f"--threads={max(1, self.threads // sites)}",
                    f"--kit={kits / site}",
                    reached,
                    f"--site_folder={folder}",
                ],
                log=f"{site}.federated",
            )
            for site, folder in self.site_folders.items()
        ]
        group.wait([*joined, server], "federated")


def supernet_config(
    config: ExperimentConfig, genotype: pathlib.Path, *, training_cases: int, steps: int
) -> ExperimentConfig:
    """Returns the experiment in which each site takes at least `steps` steps.

    Args:
      config: the experiment of the search.
      genotype: file of the topology.
      training_cases: number of training cases of a site.
      steps: number of steps of the supernet's training on pooled data.
    """
    epoch = math.ceil(training_cases * config.patches_per_case / config.batch_size)
    rounds = math.ceil(steps / (epoch * _LOCAL_EPOCHS))
    return dataclasses.replace(
        config,
        genotype=str(genotype),
        supernet=True,
        local_epochs=_LOCAL_EPOCHS,
        num_rounds=rounds,
        validation_every=rounds,
    )

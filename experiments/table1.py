"""Regenerates Table 1 with nothing given: a synthetic cohort, two sites, a server, their baselines and their federation.

    python -m experiments.table1 --flagfile=experiments/flagfiles/demo.flags --seed=1 --runs=runs

Every stage runs the programs that a real federation runs, as processes of their own that find each other over TLS only. Started
again after an interruption, it goes on where it was; finished, it ends at once.
"""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Callable

from absl import flags

from experiments import flags as experiment_flags
from experiments import processes, report, results
from runkit import atomic

FLAGS = flags.FLAGS
experiment_flags.define_experiment()
flags.DEFINE_string("runs", "runs", "Folder of runs; this one goes to <runs>/<profile>.")
flags.DEFINE_integer("cases_c1", 30, "Synthetic cases of C1.")
flags.DEFINE_integer("cases_c2", 34, "Synthetic cases of C2.")
flags.DEFINE_list("split_c1", ["18", "6", "6"], "C1's cases for training,validation,test.")
flags.DEFINE_list("split_c2", ["20", "7", "7"], "C2's cases for training,validation,test.")
flags.DEFINE_integer("threads_per_site", 1, "TensorFlow threads of each site; the sites train at the same time.")

SITES = ("C1", "C2")
# Seconds on two cores, shown before the run; the run itself prints what it took.
STAGE_BUDGET_S = {
    "cohort": 70,
    "preparation": 30,
    "initial model": 10,
    "baselines": 300,
    "federation and cross-site evaluation": 420,
    "table and figures": 20,
}
_SERVER_START_TIMEOUT_S = 120


class Run:
    """The folder of one run: which stages are done, how long they took, and with which settings."""

    def __init__(self, folder: pathlib.Path, settings: str):
        self.folder = folder
        self._state_file = folder / "stages.json"
        flag_file = folder / "run.flags"
        if flag_file.exists() and flag_file.read_text(encoding="utf-8") != settings:
            old, new = set(flag_file.read_text(encoding="utf-8").split()), set(settings.split())
            raise ValueError(
                f"{folder} holds a run with other settings ({' '.join(sorted(old - new))}; now {' '.join(sorted(new - old))}); "
                "give another folder by --runs (make: RUNS=...), or delete this one"
            )
        if not flag_file.exists():
            atomic.write_text(flag_file, settings)
        self.flag_file = flag_file
        self.state = atomic.read_json(self._state_file) if self._state_file.exists() else {"wall_seconds": {}, "peak_memory_bytes": 0}

    def stage(self, name: str, work: Callable[[processes.ProgramGroup], None]) -> None:
        """Does `work` once: a stage that was finished before is passed over. Time of interrupted tries counts in."""
        if name in self.state["wall_seconds"]:
            print(f"{name}: done before, in {_minutes(self.state['wall_seconds'][name])}", flush=True)
            return
        print(f"{name}: about {_minutes(STAGE_BUDGET_S[name])} on two cores", flush=True)
        start = time.monotonic()
        with processes.ProgramGroup(self.folder / "logs") as group:
            work(group)
        self.state["wall_seconds"][name] = round(time.monotonic() - start, 1)
        self.state["peak_memory_bytes"] = max(self.state["peak_memory_bytes"], group.peak_memory_bytes)
        atomic.write_json(self._state_file, self.state)
        print(f"{name}: {_minutes(self.state['wall_seconds'][name])}", flush=True)


def main(argv: list[str]) -> None:
    del argv
    config = experiment_flags.experiment_config()
    folder = pathlib.Path(FLAGS.runs) / config.profile
    run = Run(folder, experiment_flags.experiment_flags_text() + _own_flags_text())
    print(
        f"Table 1, profile {config.profile}, seed {config.seed}, in {folder}; about {_minutes(sum(STAGE_BUDGET_S.values()))} on two cores:"
    )
    for name, seconds in STAGE_BUDGET_S.items():
        print(f"  {name:40s} {_minutes(seconds)}")
    experiment = [f"--flagfile={folder / 'experiment.flags'}"]
    atomic.write_text(folder / "experiment.flags", experiment_flags.experiment_flags_text())
    runtime = [f"--threads={FLAGS.threads_per_site}"]
    initial, kits, store = folder / "initial.safetensors", folder / "federation", folder / "server"
    site_folder = {site: folder / "sites" / site for site in SITES}

    def cohort(group: processes.ProgramGroup) -> None:
        cases = {"C1": FLAGS.cases_c1, "C2": FLAGS.cases_c2}
        arguments = {
            site: [
                f"--site={site}",
                f"--cases={cases[site]}",
                f"--seed={config.seed}",
                f"--output={folder / 'cohort' / site}",
            ]
            for site in SITES
        }
        group.wait([group.start(site, "experiments.synthesize", arguments[site], log=f"{site}.cohort") for site in SITES], "cohort")

    def preparation(group: processes.ProgramGroup) -> None:
        split = {"C1": FLAGS.split_c1, "C2": FLAGS.split_c2}
        arguments = {
            site: [
                *experiment,
                f"--manifest={folder / 'cohort' / site / 'manifest.json'}",
                f"--site_folder={site_folder[site]}",
                f"--split={','.join(split[site])}",
            ]
            for site in SITES
        }
        group.wait([group.start(site, "experiments.prepare", arguments[site], log=f"{site}.prepare") for site in SITES], "preparation")

    def initial_model(group: processes.ProgramGroup) -> None:
        group.wait(
            [group.start("model", "experiments.init_model", [*experiment, f"--output={initial}"], log="init_model")], "initial model"
        )

    def baselines(group: processes.ProgramGroup) -> None:
        arguments = {site: [*experiment, *runtime, f"--site_folder={site_folder[site]}", f"--initial_model={initial}"] for site in SITES}
        group.wait([group.start(site, "experiments.train_local", arguments[site], log=f"{site}.baseline") for site in SITES], "baselines")

    def federation(group: processes.ProgramGroup) -> None:
        if not kits.exists():
            group.wait(
                [group.start("kits", "experiments.provision", [f"--output={kits}", f"--sites={','.join(SITES)}"], log="provision")], "kits"
            )
        address = store / "address.json"
        address.unlink(missing_ok=True)
        server = group.start(
            "server",
            "experiments.serve",
            [
                *experiment,
                f"--kit={kits / 'server'}",
                f"--store={store}",
                f"--initial_model={initial}",
                "--port=0",
                f"--min_num_clients={len(SITES)}",
                f"--max_num_clients={len(SITES)}",
            ],
        )
        group.wait_for(address.exists, server, "starting", _SERVER_START_TIMEOUT_S)
        port = atomic.read_json(address)["port"]
        arguments = {
            site: [
                *experiment,
                *runtime,
                f"--kit={kits / site}",
                f"--server=localhost:{port}",
                f"--site_folder={site_folder[site]}",
                f"--lend={site}_baseline:{site_folder[site] / 'baseline' / 'best.safetensors'}",
            ]
            for site in SITES
        }
        sites = [group.start(site, "experiments.join", arguments[site], log=f"{site}.federation") for site in SITES]
        group.wait([*sites, server], "federation")

    def table_and_figures(group: processes.ProgramGroup) -> None:
        del group
        rows = results.read_rows(store / "rows.jsonl")
        report.write(
            folder,
            rows,
            notes=[_cohort_note()],
            config=config.to_json(),
            wall_seconds=run.state["wall_seconds"],
            peak_memory_bytes=run.state["peak_memory_bytes"],
        )

    run.stage("cohort", cohort)
    run.stage("preparation", preparation)
    run.stage("initial model", initial_model)
    run.stage("baselines", baselines)
    run.stage("federation and cross-site evaluation", federation)
    run.stage("table and figures", table_and_figures)
    print((folder / "table1.md").read_text(encoding="utf-8"))
    print(f"Figures: {folder / 'figures'}. Peak memory of all processes: {run.state['peak_memory_bytes'] / 2**30:.1f} GiB.")


def _own_flags_text() -> str:
    names = ("cases_c1", "cases_c2", "split_c1", "split_c2", "threads_per_site")
    return "".join(f"--{name}={json.dumps(getattr(FLAGS, name))}\n".replace(" ", "") for name in names)


def _cohort_note() -> str:
    counts = "; ".join(f"{site} {'/'.join(split)}" for site, split in (("C1", FLAGS.split_c1), ("C2", FLAGS.split_c2)))
    return f"Data: synthetic cohort, training/validation/test {counts} (paper: real CT, C1 252/84/84; C2 286/100/100)."


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"


if __name__ == "__main__":
    experiment_flags.run(main)

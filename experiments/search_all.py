"""Runs a whole search on a synthetic cohort: topology, operations, evidence, federated search.

    python -m experiments.search_all --profile=demo --seed=1 --runs=runs

`make search` runs it. The cost is printed first (`--dry_run` stops there). Stop it at any time; run
the same command again to resume. The stages are the programs search_topology, search_operations and
search_evidence, each with the flag file search_<stage>_<profile>.flags, and a federation of two
sites that train and search a supernet together; start them yourself for your own cases.
docs/search.md explains what is searched and how it is judged.

Writes <runs>/search_<profile>/search.html, and below it a folder per stage.
"""

from __future__ import annotations

import os
import pathlib

from absl import flags

from experiments import flags as experiment_flags
from experiments import program
from experiments.run.run_cost import duration, minutes
from runkit import folder_lock, private

FLAGS = flags.FLAGS
MOST_AT_ONCE = 4  # each takes up to 3 GB of memory
flags.DEFINE_string("profile", "demo", "Profile: demo, for two cores, or paper, for GPUs.")
flags.DEFINE_string(
    "flagfiles",
    str(pathlib.Path(__file__).parent / "flagfiles"),
    "Folder of the flag files search_<stage>_<profile>.flags.",
)
flags.DEFINE_string("runs", "runs", "Folder of runs; this one is <runs>/search_<profile>.")
flags.DEFINE_integer("seed", 1, "Seed of cohort, trainings and choices.", lower_bound=0)
flags.DEFINE_integer("cases", 28, "Synthetic cases at each of two sites.", lower_bound=3)
flags.DEFINE_list(
    "split", ["12", "6", "10"], "Numbers of each site's cases for training,validation,test."
)
flags.DEFINE_integer("threads", 0, "Threads of the trainings; 0 uses one per core.", lower_bound=0)
flags.DEFINE_integer(
    "at_once",
    0,
    "Trainings at the same time, each in a process of its own with an equal share of the threads; "
    f"0 runs one per thread, but at most {MOST_AT_ONCE}.",
    lower_bound=0,
)
flags.DEFINE_bool(
    "federated", True, "Also let both sites train and search a supernet as a federation over TLS."
)
flags.DEFINE_bool("dry_run", False, "Print the cost and exit.")


def main(argv: list[str]) -> None:
    del argv
    from experiments.reports.search_page import PAPER_GPU_DAYS
    from experiments.run.run_folder import RunFolder
    from experiments.search import whole_run

    files = {
        stage: pathlib.Path(FLAGS.flagfiles) / f"search_{stage}_{FLAGS.profile}.flags"
        for stage in whole_run.SETTINGS_OF
    }
    missing = [str(file) for file in files.values() if not file.is_file()]
    if missing:
        raise ValueError(
            f"--profile is {FLAGS.profile!r}: {missing[0]} does not exist; give demo or paper, or "
            "the folder of your own flag files as --flagfiles"
        )
    folder = pathlib.Path(FLAGS.runs) / f"search_{FLAGS.profile}"
    threads = FLAGS.threads or os.cpu_count() or 1
    run = whole_run.WholeSearch(
        folder=folder,
        flag_files=files,
        seed=FLAGS.seed,
        cases=FLAGS.cases,
        split=experiment_flags.numbers("split", int, 3),
        threads=threads,
        at_once=FLAGS.at_once or min(threads, MOST_AT_ONCE),
        federated=FLAGS.federated,
    )
    budget = whole_run.estimated_seconds(run)
    total = sum(budget.values())
    print(
        f"Search, profile {FLAGS.profile}, seed {FLAGS.seed}, in {folder}: about "
        f"{duration(total)} on {run.threads} cores, {total * run.threads / 3600:.1f} CPU-hours; "
        f"C2FNAS took {PAPER_GPU_DAYS} GPU-days:",
        flush=True,
    )
    for name, seconds in budget.items():
        print(f"  {name:12s} {minutes(seconds)}", flush=True)
    if FLAGS.dry_run:
        return
    folder_lock.hold(private.make(folder))
    settings = "".join(file.read_text(encoding="utf-8") for file in files.values())
    settings += f"--seed={FLAGS.seed}\n--cases={FLAGS.cases}\n--split={','.join(FLAGS.split)}\n"
    state = RunFolder(folder, settings)
    whole_run.SearchStages(run, state).all()
    peak = state.state["peak_memory_bytes"] / 2**30
    took = minutes(sum(state.state["wall_seconds"].values()))
    print(f"{folder / 'search.html'}: {took}, peak memory of all processes {peak:.1f} GiB")


if __name__ == "__main__":
    program.run(main, resumes=True)

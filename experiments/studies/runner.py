"""A study's runs one after the other: what is left of each, a failure kept beside its run, the cost
before it starts.
"""

from __future__ import annotations

import functools
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping

from experiments.run import plan as run_plan
from experiments.run import processes
from experiments.run import stages as run_stages
from experiments.run.plan import RunSpec, minutes
from experiments.studies.study_file import Study
from runkit import atomic

Specs = Mapping[tuple[str, int], RunSpec]  # (point's label, seed) -> run
Programs = Callable[[pathlib.Path], processes.ProgramGroup]


def run(
    study: Study,
    specs: Specs,
    *,
    after_each: Callable[[], None],
    programs: Programs = processes.ProgramGroup,
) -> list[str]:
    """Does what is left of every run and returns what failed; a run that fails stops no other.

    Args:
      after_each: called after every run, to write what there is.
      programs: log folder -> group that starts programs.
    """
    failures = []
    for (label, seed), spec, method in _order(study, specs):
        print(
            f"== {label}, seed {seed}{' (beyond the paper)' if method == 'beyond' else ''}",
            flush=True,
        )
        message = _attempt(spec, method, programs)
        if message:
            failures.append(f"{label}, seed {seed}: {message}")
            print(f"failed, the others go on: {message}", flush=True)
        after_each()
    return failures


def cost_text(study: Study, folder: pathlib.Path, specs: Specs) -> str:
    """Returns what is left of the study and what it will cost; stages already timed here scale the
    estimate.
    """
    costs = {key: run_plan.cost(spec) for key, spec in specs.items()}
    done, expected, spent = {}, 0.0, 0.0
    for key, spec in specs.items():
        file = spec.folder / "stages.json"
        done[key] = atomic.read_json(file)["wall_seconds"] if file.exists() else {}
        for name, seconds in done[key].items():
            if name in costs[key]:
                expected, spent = expected + costs[key][name], spent + seconds
    factor = spent / expected if expected > 60 else 1.0
    lines = [f"Study {study.name}, profile {study.profile}, in {folder}: {len(specs)} runs"]
    total = 0.0
    for key, spec in specs.items():
        rest = (
            sum(seconds for name, seconds in costs[key].items() if name not in done[key]) * factor
        )
        total += rest
        config = spec.config
        sites = ", ".join(site.name for site in spec.sites)
        lines.append(
            f"  {key[0]}, seed {key[1]}: {minutes(rest) if rest else 'done'} ({config.num_rounds} rounds of {config.local_epochs} epochs; {sites})"
        )
    basis = (
        f"scaled by the {minutes(spent)} measured here"
        if factor != 1.0
        else "from measurements of the demo profile"
    )
    disk = sum(run_plan.disk_bytes(spec) for key, spec in specs.items() if not done[key]) / 2**30
    lines.append(
        f"  left: about {minutes(total)} on two cores, {disk:.1f} GiB of disk at most ({basis})"
    )
    return "\n".join(lines)


def _order(study: Study, specs: Specs) -> Iterator[tuple[tuple[str, int], RunSpec, str]]:
    """The table of every seed first, then what goes beyond it: a study cut short has fewer extras,
    not fewer seeds.
    """
    first = study.points[0].label
    for key, spec in specs.items():
        if key[0] == first:
            yield key, spec, "table1"
    for key, spec in specs.items():
        if key[0] == first and spec.beyond:
            yield key, spec, "beyond"
    for seed in study.seeds:
        for (label, own), spec in specs.items():
            if own == seed and label != first:
                yield (label, own), spec, "table1"
                if spec.beyond:
                    yield (label, own), spec, "beyond"


def _attempt(spec: RunSpec, method: str, programs: Programs) -> str | None:
    """Does what is left of a run; returns what went wrong, if anything did, and keeps it beside the
    run.
    """
    failure = spec.folder / "failure.txt"
    failure.unlink(missing_ok=True)
    try:
        how = {"environment": dict(spec.environment)} if spec.environment else {}
        if spec.stack == "other":
            how["python"] = other_python(sys.executable)
        chosen = functools.partial(programs, **how) if how else programs
        run = run_stages.Run(
            spec.folder, spec.flags_text + _sites_text(spec), "give the study another name", chosen
        )
        getattr(run_stages.Stages(spec, run), method)()
    except processes.ProgramFailed as error:
        atomic.write_text(failure, f"{error}\n")
        return str(error)
    return None


def other_python(own: str | os.PathLike) -> str:
    """Returns the Python of the other stack: of the environment beside this one, `.venv/py3.11` and
    `.venv/py3.12` for instance.

    Raises:
      ProgramFailed: where there is none.
    """
    home = pathlib.Path(own).parent.parent
    for python in sorted(home.parent.glob("py3.*/bin/python")):
        if python.parent.parent != home and (
            _is_addons_stack(python) != _is_addons_stack(pathlib.Path(own))
        ):
            return str(python)
    raise processes.ProgramFailed(
        f"no environment of the other stack lies beside {home}; make one, e.g. PYTHON=python3.12 make install, and run the same command again"
    )


def _is_addons_stack(python: pathlib.Path) -> bool:
    return bool(list(python.parent.parent.glob("lib/python3.*/site-packages/tensorflow_addons")))


def _sites_text(spec: RunSpec) -> str:
    lines = []
    for site in spec.sites:
        source = dict(site.cohort) or os.fspath(site.manifest or site.deformed)
        lines.append(
            f"--site={site.name}:{source}:{site.cohort_seed}:{site.split}:{site.split_list}\n".replace(
                " ", ""
            )
        )
    lines += [
        f"--phantom={site.name}:{site.phantom}\n"
        for site in spec.sites
        if site.phantom != "standard"
    ]
    lines += [f"--deformed={site.name}\n" for site in spec.sites if site.deformed is not None]
    lines.append(f"--threads_per_site={spec.threads_per_site}\n")
    lines += [f"--environment={name}={value}\n" for name, value in sorted(spec.environment.items())]
    return "".join(lines) + (f"--stack={spec.stack}\n" if spec.stack != "own" else "")

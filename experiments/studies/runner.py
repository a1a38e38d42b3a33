"""Runs a study: estimates its cost, does its runs one after another and records their failures."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from experiments.run import processes, run_cost, run_plan
from experiments.run import run_folder as run_folders
from experiments.run import stages as run_stages
from experiments.run.run_cost import minutes
from experiments.run.run_plan import NONMEMBERS, RunSpec
from experiments.studies.study_file import Study, title
from federated.privacy.policy import PrivacyPolicy
from runkit import atomic

_PREPARED = 0.1  # the share of preparation in the cost of making and preparing a synthetic scan
Specs = Mapping[tuple[str, int], RunSpec]  # (point's label, seed) -> run
_METHODS = {"table1": "", "beyond": " (beyond the paper)", "membership": " (membership inference)"}
Programs = Callable[[pathlib.Path], processes.ProgramGroup]


def run(
    study: Study,
    specs: Specs,
    *,
    after_each: Callable[[], None],
    programs: Programs = processes.ProgramGroup,
) -> list[str]:
    """Finishes every run and returns the failures. A failed run does not stop the others.

    Args:
      after_each: called after every run, to write the results so far.
      programs: creates the group that starts programs, from a log folder.
    """
    failures = []
    for (label, seed), spec, method in _order(study, specs):
        print(f"== {label}, seed {seed}{_METHODS[method]}", flush=True)
        message = _attempt(spec, method, programs)
        if message:
            failures.append(f"{label}, seed {seed}: {message}")
            print(f"failed; the other runs continue: {message}", flush=True)
        after_each()
    return failures


def cost_text(study: Study, folder: pathlib.Path, specs: Specs) -> str:
    """Describes the remaining runs and their estimated cost, scaled by the stages timed here."""
    costs = _costs(specs)
    done, expected, spent = {}, 0.0, 0.0
    for key, spec in specs.items():
        done[key] = run_folders.times_so_far(spec.folder)["wall_seconds"]
        for name, seconds in done[key].items():
            if name in costs[key]:
                expected, spent = expected + costs[key][name], spent + seconds
    factor = spent / expected if expected > 60 else 1.0
    lines = [f"{title(study.name)}, profile {study.profile}, in {folder}: {len(specs)} runs"]
    total = 0.0
    for key, spec in specs.items():
        rest = (
            sum(seconds for name, seconds in costs[key].items() if name not in done[key]) * factor
        )
        total += rest
        config = spec.config
        sites = ", ".join(site.name for site in spec.sites)
        lines.append(
            f"  {key[0]}, seed {key[1]}: {minutes(rest) if rest else 'done'} "
            f"({config.num_rounds} round{'s' * (config.num_rounds != 1)} of {config.local_epochs} "
            f"epoch{'s' * (config.local_epochs != 1)}; {sites})"
        )
    basis = (
        f"scaled by the {minutes(spent)} measured here"
        if factor != 1.0
        else "measured with the demo profile"
    )
    disk = sum(
        run_cost.disk_bytes(
            spec,
            scans=costs[key]["cohort"] > 0,
            others=costs[key].get(NONMEMBERS) == run_cost.estimated_seconds(spec).get(NONMEMBERS),
        )
        for key, spec in specs.items()
        if not done[key]
    )
    lines.append(
        f"  left to do: about {minutes(total)} on two cores, "
        f"at most {disk / 2**30:.1f} GiB of disk ({basis})"
    )
    return "\n".join(lines)


def _costs(specs: Specs) -> dict[tuple[str, int], dict[str, float]]:
    """Returns each run's stage -> estimated seconds; a cohort counts for the first run only."""
    costs, made = {}, set()
    for key, spec in specs.items():
        costs[key] = run_cost.estimated_seconds(spec)
        cohort = repr(
            (
                spec.cohorts,
                [dataclasses.replace(s, fault="", privacy=PrivacyPolicy()) for s in spec.sites],
            )
        )
        if cohort in made:
            costs[key]["cohort"] = 0.0
        made.add(cohort)
        if spec.nonmembers:
            hospitals = [(s.phantom, *s.cohort) for s in spec.sites]
            others = repr((spec.nonmembers, spec.config.seed, hospitals))
            prepared = others + run_plan.preparation_name(spec.config)
            costs[key][NONMEMBERS] *= (
                0.0 if prepared in made else _PREPARED if others in made else 1.0
            )
            made |= {others, prepared}
    return costs


def _order(study: Study, specs: Specs) -> Iterator[tuple[tuple[str, int], RunSpec, str]]:
    """Yields the table of every seed first, then the additions.

    A study that is cut short then lacks additions rather than seeds.
    """
    first = study.points[0].label
    for key, spec in specs.items():
        if key[0] == first:
            yield key, spec, "table1"
    for key, spec in specs.items():
        if key[0] == first and spec.beyond:
            yield key, spec, "beyond"
    for key, spec in specs.items():
        if key[0] == first and spec.nonmembers:
            yield key, spec, "membership"
    for seed in study.seeds:
        for (label, own), spec in specs.items():
            if own == seed and label != first:
                yield (label, own), spec, "table1"
                if spec.beyond:
                    yield (label, own), spec, "beyond"
                if spec.nonmembers:
                    yield (label, own), spec, "membership"


def _attempt(spec: RunSpec, method: str, programs: Programs) -> str | None:
    """Finishes a run; returns its error, if any, and writes it to failure.txt."""
    failure = spec.folder / "failure.txt"
    failure.unlink(missing_ok=True)
    try:
        options: dict[str, Any] = (
            {"environment": dict(spec.environment)} if spec.environment else {}
        )
        if spec.stack == "other":
            options["python"] = other_python(sys.executable)
        chosen = functools.partial(programs, **options) if options else programs
        run = run_folders.RunFolder(
            spec.folder, spec.flags_text + _sites_text(spec), "give the study another name", chosen
        )
        getattr(run_stages.Stages(spec, run), method)()
    except processes.ProgramFailed as error:
        atomic.write_text(failure, f"{error}\n")
        return str(error)
    return None


def other_python(own: str | os.PathLike) -> str:
    """Returns the Python of the other stack, from an environment beside this one.

    For example, `.venv/py3.11` and `.venv/py3.12` lie beside each other.

    Raises:
      ProgramFailed: if there is none.
    """
    home = pathlib.Path(own).parent.parent
    for python in sorted(home.parent.glob("py3.*/bin/python")):
        if python.parent.parent != home and (
            _is_addons_stack(python) != _is_addons_stack(pathlib.Path(own))
        ):
            return str(python)
    raise processes.ProgramFailed(
        f"no environment of the other stack lies beside {home}; create one, e.g. with "
        "`PYTHON=python3.12 make install`, and run the same command again"
    )


def _is_addons_stack(python: pathlib.Path) -> bool:
    return bool(list(python.parent.parent.glob("lib/python3.*/site-packages/tensorflow_addons")))


def _sites_text(spec: RunSpec) -> str:
    lines = []
    for site in spec.sites:
        source = dict(site.cohort) or str(site.manifest or site.deformed)
        line = f"--site={site.name}:{source}:{site.cohort_seed}:{site.split}:{site.split_list}\n"
        lines.append(line.replace(" ", ""))
    lines += [
        f"--phantom={site.name}:{site.phantom}\n"
        for site in spec.sites
        if site.phantom != "standard"
    ]
    lines += [f"--fault={site.name}:{site.fault}\n" for site in spec.sites if site.fault]
    lines += [
        f"--privacy={site.name}:{','.join(site.privacy.flags())}\n"
        for site in spec.sites
        if site.privacy.active
    ]
    lines += [f"--deformed={site.name}\n" for site in spec.sites if site.deformed is not None]
    lines += [f"--nonmembers={spec.nonmembers}\n"] if spec.nonmembers else []
    lines += [] if spec.local_models else ["--local_models=false\n"]
    lines.append(f"--threads_per_site={spec.threads_per_site}\n")
    lines += [f"--environment={name}={value}\n" for name, value in sorted(spec.environment.items())]
    return "".join(lines) + (f"--stack={spec.stack}\n" if spec.stack != "own" else "")

"""The stages of one run; a finished stage is not repeated.

Each stage starts the programs of a real federation, as separate processes connected only by TLS.
"""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from experiments.models import model_folders
from experiments.reports import table1_report
from experiments.run import local_server, processes, run_cost, run_folder
from experiments.run.run_plan import (
    FINETUNED,
    MEMBERSHIP,
    NONMEMBERS,
    PATCHES,
    POOLED,
    RunSpec,
    SiteSpec,
    nonmember_seed,
    preparation_name,
)
from preprocessing import budget, case_store, declared_labels
from preprocessing import manifest as manifests
from preprocessing.case_list import CaseManifest
from runkit import atomic, processors

_ROOM_BYTES = 8e9  # with less for each site, its cases are prepared one at a time
_FAULTY_SITE = "experiments.faulty_site"  # in place of experiments.join, in an experiment


class _Cohort(NamedTuple):
    """Patients of a synthetic hospital. All runs with the same patients share a folder."""

    hospital: str
    cases: int
    seed: int
    phantom: str

    @property
    def name(self) -> str:
        kind = "" if self.phantom == "standard" else f"-{self.phantom}"
        return f"{self.hospital}{kind}-{self.cases}-seed{self.seed}"


def _cohorts(site: SiteSpec) -> list[_Cohort]:
    """Returns the synthetic cohorts whose patients a site has."""
    return [
        _Cohort(hospital, cases, site.cohort_seed, site.phantom)
        for hospital, cases in site.cohort.items()
    ]


class Stages:
    """The stages of a run, in order. Each method can be called again and does only what is left."""

    def __init__(self, spec: RunSpec, run: run_folder.RunFolder):
        self._spec, self._run, self._folder = spec, run, spec.folder
        self._cost = run_cost.estimated_seconds(spec)
        self._initial = self._folder / "initial.safetensors"
        flag_file = self._folder / "experiment.flags"
        atomic.write_text(flag_file, spec.flags_text)
        self._experiment = [f"--flagfile={flag_file}"]
        self._runtime = [f"--threads={spec.threads_per_site}"]

    def table1(self) -> None:
        """Runs everything from the cohort to the table: the paper's rows."""
        # First, as it takes seconds and refuses settings that fit no network, e.g. --keep_at_site.
        self._stage("initial model", self._initial_model, checks_settings=True)
        self._stage("cohort", self._make_cohorts)
        self._stage("preparation", self._prepare)
        if self._spec.baselines:
            self._stage("baselines", self._baselines)
        self._stage("federation and cross-site evaluation", self._federation)
        self._stage("table and figures", self._table)

    def beyond(self) -> None:
        """Adds the rows that the paper does not have; runs `table1` first if necessary."""
        if not self._run.done("table and figures"):
            self.table1()
        if POOLED in self._spec.beyond:
            self._stage("pooled training", self._pooled)
        if FINETUNED in self._spec.beyond:
            self._stage("fine-tuning", self._finetune)
        if self._spec.beyond:
            self._stage("scores of the models beyond the paper", self._score_beyond)
            self._stage("table with them", self._table)

    def membership(self) -> None:
        """Measures membership inference on the run's models; runs `table1` first if necessary."""
        if not self._run.done("table and figures"):
            self.table1()
        self._stage(NONMEMBERS, self._make_nonmembers)
        self._stage(MEMBERSHIP, self._measure_membership)

    def _stage(
        self,
        name: str,
        work: Callable[[processes.ProgramGroup], None],
        *,
        checks_settings: bool = False,
    ) -> None:
        self._run.stage(name, self._cost[name], work, checks_settings=checks_settings)

    def site_folder(self, site: SiteSpec | str) -> pathlib.Path:
        """Returns the folder of a site in the run's folder."""
        return self._folder / "sites" / (site if isinstance(site, str) else site.name)

    def _make_cohorts(self, group: processes.ProgramGroup) -> None:
        if self._deformed():
            self._make_deformed(group)
        self._synthesize(group, [one for site in self._spec.sites for one in _cohorts(site)])

    def _synthesize(self, group: processes.ProgramGroup, cohorts: Iterable[_Cohort]) -> None:
        """Makes the synthetic cohorts that no run has made yet."""
        missing = {
            one: folder
            for one in cohorts
            if not ((folder := self._spec.cohorts / one.name) / "manifest.json").exists()
        }
        workers = _workers_of_each(len(missing))
        programs = [
            group.start(
                one.name,
                "experiments.synthesize",
                [
                    f"--site={one.hospital}",
                    f"--cases={one.cases}",
                    f"--seed={one.seed}",
                    f"--phantom={one.phantom}",
                    f"--output={folder}",
                    f"--workers={workers}",
                ],
                log=f"{one.name}.cohort",
            )
            for one, folder in missing.items()
        ]
        group.wait(programs, "cohort")

    def _deformed(self) -> dict[str, SiteSpec]:
        return {site.name: site for site in self._spec.sites if site.deformed is not None}

    def _make_deformed(self, group: processes.ProgramGroup) -> None:
        """Makes the copies of both sites with one program.

        Otherwise the copies of one source could be in different splits at the two sites.
        """
        sites = self._deformed()
        first = next(iter(sites.values()))
        arguments = [
            f"--manifest={first.deformed}",
            f"--seed={self._spec.config.seed}",
            *(
                f"--split_{name.lower()}={','.join(map(str, site.split or ()))}"
                for name, site in sites.items()
            ),
            f"--output={_deformed_folder(self._spec)}",
            "--workers=2",
        ]
        group.wait(
            [group.start("copies", "experiments.deform_cohort", arguments, log="cohort")], "cohort"
        )

    def _prepare(self, group: processes.ProgramGroup) -> None:
        programs = []
        memory = budget.default_limit_bytes() / len(self._spec.sites)
        workers = _workers_of_each(len(self._spec.sites)) if memory >= _ROOM_BYTES else 1
        for site in self._spec.sites:
            arguments = [
                *self._experiment,
                f"--manifest={self._manifest(site)}",
                f"--site={site.name}",
                f"--site_folder={self.site_folder(site)}",
                f"--workers={workers}",  # the sites run at the same time
                *([f"--memory_gb={memory / 1e9:.1f}"] if workers > 1 else []),
            ]
            if site.deformed is not None:
                arguments.append(
                    f"--split_list={_deformed_folder(self._spec) / site.name / 'split.json'}"
                )
            elif site.split:
                arguments.append(f"--split={','.join(map(str, site.split))}")
            if site.split_list:
                arguments.append(f"--split_list={site.split_list}")
            programs.append(
                group.start(site.name, "experiments.prepare", arguments, log=f"{site.name}.prepare")
            )
        group.wait(programs, "preparation")

    def _manifest(self, site: SiteSpec) -> pathlib.Path:
        """Returns the site's list of scans; lists of two synthetic hospitals are merged."""
        if site.manifest is not None:
            return site.manifest
        if site.deformed is not None:
            return _deformed_folder(self._spec) / site.name / "manifest.json"
        files = [self._spec.cohorts / one.name / "manifest.json" for one in _cohorts(site)]
        if len(files) == 1:
            return files[0]
        merged = self._folder / "manifests" / f"{site.name}.json"
        listed = [manifests.read(file) for file in files]
        cases = tuple(case for manifest in listed for case in manifest.cases)
        declared = declared_labels.merged(manifest.declared for manifest in listed)
        manifests.write(merged, CaseManifest(site.name, cases, declared=declared))
        return merged

    def _initial_model(self, group: processes.ProgramGroup) -> None:
        arguments = [*self._experiment, f"--output={self._initial}"]
        group.wait(
            [group.start("model", "experiments.init_model", arguments, log="init_model")],
            "initial model",
        )

    def _baselines(self, group: processes.ProgramGroup) -> None:
        programs = [
            self._train(group, site, self._initial, "baseline", f"{site.name}_baseline")
            for site in self._spec.sites
        ]
        group.wait(programs, "baselines")

    def _train(
        self,
        group: processes.ProgramGroup,
        site: SiteSpec,
        start: pathlib.Path,
        folder: str,
        label: str,
    ) -> processes.Program:
        arguments = [
            *self._experiment,
            *self._runtime,
            f"--site_folder={self.site_folder(site)}",
            f"--initial_model={start}",
            f"--model_folder={folder}",
            f"--model_name={label}",
        ]
        return group.start(
            site.name, "experiments.train_local", arguments, log=f"{site.name}.{folder}"
        )

    def _federation(self, group: processes.ProgramGroup) -> None:
        sites, kits, store = self._spec.sites, self._folder / "federation", self._folder / "server"
        if not kits.exists():
            arguments = [f"--output={kits}", f"--sites={','.join(site.name for site in sites)}"]
            group.wait(
                [group.start("kits", "experiments.provision", arguments, log="provision")], "kits"
            )
        arguments = [*self._experiment, f"--initial_model={self._initial}"]
        if any(site.fault or site.privacy.guaranteed for site in sites):
            # The check would refuse a bad site's updates, and updates with noise on every value;
            # the experiment tests how the rule handles them.
            arguments.append("--max_change_ratio=0")
        if self._spec.nonmembers:
            arguments.append(f"--keep_updates={self._spec.config.num_rounds}")
        server, reached = local_server.start(group, kits, store, len(sites), arguments)
        programs = []
        for site in sites:
            arguments = [
                *self._experiment,
                *self._runtime,
                f"--kit={kits / site.name}",
                reached,
                f"--site_folder={self.site_folder(site)}",
            ]
            if self._spec.baselines:
                baseline = self.site_folder(site) / "baseline" / "best.safetensors"
                arguments.append(f"--lend={site.name}_baseline:{baseline}")
            arguments += site.privacy.flags() if site.privacy.active else []
            if site.privacy.active or not self._spec.local_models:
                arguments.append("--lend_local=false")
            module = "experiments.join"
            if site.fault:
                module, arguments = _FAULTY_SITE, [*arguments, f"--fault={site.fault}"]
            programs.append(
                group.start(site.name, module, arguments, log=f"{site.name}.federation")
            )
        group.wait([*programs, server], "federation")

    def _pooled(self, group: processes.ProgramGroup) -> None:
        arguments = [
            *self._experiment,
            "--threads=0",  # it trains alone and can use all cores
            f"--site_folders={','.join(str(self.site_folder(site)) for site in self._spec.sites)}",
            f"--initial_model={self._initial}",
            f"--output={self._folder / POOLED}",
        ]
        group.wait([group.start(POOLED, "experiments.train_pooled", arguments)], "pooled training")

    def _finetune(self, group: processes.ProgramGroup) -> None:
        programs = []
        for start, end in (("C1", "C2"), ("C2", "C1")):
            site = next(site for site in self._spec.sites if site.name == end)
            first = self.site_folder(start) / "baseline" / "best.safetensors"
            programs.append(
                self._train(group, site, first, FINETUNED, f"finetuned_{start}_to_{end}")
            )
        group.wait(programs, "fine-tuning")

    def _score_beyond(self, group: processes.ProgramGroup) -> None:
        models = []
        if POOLED in self._spec.beyond:
            models.append(f"{POOLED}:{self._folder / POOLED / 'best.safetensors'}")
        if FINETUNED in self._spec.beyond:
            models += [
                f"finetuned_{a}_to_{b}:{self.site_folder(b) / FINETUNED / 'best.safetensors'}"
                for a, b in (("C1", "C2"), ("C2", "C1"))
            ]
        outputs = [self._folder / "beyond" / f"{site.name}.jsonl" for site in self._spec.sites]
        programs = []
        for site, output in zip(self._spec.sites, outputs, strict=True):
            arguments = [
                *self._experiment,
                *self._runtime,
                f"--site_folder={self.site_folder(site)}",
                f"--models={','.join(models)}",
                f"--output={output}",
            ]
            programs.append(
                group.start(site.name, "experiments.score", arguments, log=f"{site.name}.score")
            )
        group.wait(programs, "scores")
        atomic.write_text(
            self._folder / run_folder.BEYOND_ROWS,
            "".join(file.read_text(encoding="utf-8") for file in outputs),
        )

    def _make_nonmembers(self, group: processes.ProgramGroup) -> None:
        """Makes and prepares other patients of the sites' hospitals, once for all such runs."""
        missing = [
            (site, cohort, prepared)
            for site, cohort, prepared in self._nonmembers()
            if not (prepared / "cases" / "index.json").exists()
        ]
        self._synthesize(group, [cohort for _, cohort, _ in missing])
        programs = []
        for site, cohort, prepared in missing:
            arguments = [
                *self._experiment,
                f"--manifest={self._spec.cohorts / cohort.name / 'manifest.json'}",
                f"--site={site.name}",
                f"--site_folder={prepared}",
                f"--split=0,0,{self._spec.nonmembers}",
                "--workers=1",
            ]
            log = f"{site.name}.nonmembers"
            programs.append(group.start(site.name, "experiments.prepare", arguments, log=log))
        group.wait(programs, NONMEMBERS)

    def _nonmembers(self) -> Iterator[tuple[SiteSpec, _Cohort, pathlib.Path]]:
        """Yields each site, its hospital's other patients, and their prepared cases."""
        spec = self._spec
        for site in spec.sites:
            (hospital,) = site.cohort
            seed = nonmember_seed(spec.config.seed)
            cohort = _Cohort(hospital, spec.nonmembers, seed, site.phantom)
            prepared = f"{cohort.name}-prepared-{preparation_name(spec.config)}"
            yield site, cohort, spec.cohorts / prepared / site.name

    def _measure_membership(self, group: processes.ProgramGroup) -> None:
        output = self._folder / "membership"
        # Once it is measured, a kill below may have removed what a second measurement would need.
        if not (output / "membership.html").exists():
            others = (f"{site.name}:{prepared}" for site, _, prepared in self._nonmembers())
            arguments = [
                *self._experiment,
                "--threads=0",  # it works alone and can use all cores
                f"--run={self._folder}",
                f"--nonmembers={','.join(others)}",
                f"--patches={PATCHES}",
                f"--output={output}",
            ]
            group.wait([group.start("membership", "experiments.membership", arguments)], MEMBERSHIP)
        # The updates of all rounds were kept only for this; now keep the last round's, as usual.
        for folder in sorted((self._folder / "server" / "kept").glob("round_*"))[:-1]:
            shutil.rmtree(folder)

    def _declared(self) -> str:
        """Returns a note on the classes that the sites' labels contain."""
        roots = {site.name: self.site_folder(site) / "cases" for site in self._spec.sites}
        words = [
            f"{name} {declared_labels.text(case_store.record_of(root).declared)}"
            for name, root in roots.items()
        ]
        return (
            f"Labels: {'; '.join(words)}. Loss at a site that lacks a class: "
            f"{self._spec.config.missing_labels}"
        )

    def _private_arrays(self) -> list[str]:
        """Returns a note on whose arrays a model had, if the sites keep any."""
        patterns = self._spec.config.share_rules.keep
        if not patterns:
            return []
        return [
            f"Private arrays ({', '.join(patterns)}) never left a site: each site evaluated every "
            "model, including the global models and those of other sites, with its own arrays"
        ]

    def _data_notes(self) -> list[str]:
        """Returns the notes that a table of deformed copies of real scans must carry."""
        return (
            atomic.read_json(_deformed_folder(self._spec) / "cohort.json")["notes"]
            if self._deformed()
            else []
        )

    def _table(self, group: processes.ProgramGroup) -> None:
        del group
        rows = run_folder.rows_so_far(self._folder)
        model_folders.write_run(self._folder, self._spec.config, rows)
        model_folders.write_tables(self._folder, rows)
        table1_report.write(
            self._folder,
            rows,
            notes=(
                *self._spec.notes,
                *self._data_notes(),
                self._declared(),
                *self._private_arrays(),
            ),
            config=self._spec.config.to_json(),
            wall_seconds=self._run.state["wall_seconds"],
            peak_memory_bytes=self._run.state["peak_memory_bytes"],
        )


def _workers_of_each(programs: int) -> int:
    """Returns how many processes each of `programs` concurrent programs may start."""
    return max(1, processors.available() // max(1, programs))


def _deformed_folder(spec: RunSpec) -> pathlib.Path:
    counts = "-".join(
        "_".join(map(str, site.split or ())) for site in spec.sites if site.deformed is not None
    )
    return spec.cohorts / f"deformed-{counts}-seed{spec.config.seed}"

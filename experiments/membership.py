"""Measures membership inference: which training cases can be recognised from a run's models?

    python -m experiments.membership --flagfile=runs/demo/experiment.flags --run=runs/demo \\
        --nonmembers=C1:nonmembers/C1,C2:nonmembers/C2 --output=runs/demo/membership

The models are the run's: global models of some rounds, the sites' best local models and baselines,
and the updates that the server has kept (--keep_updates of experiments.serve). Non-members are the
prepared cases of other patients of the same hospital, at least 100 for each site:

    python -m experiments.synthesize --site=C1 --cases=100 --seed=900001 --output=nonmembers/scans
    python -m experiments.prepare --flagfile=runs/demo/experiment.flags \\
        --manifest=nonmembers/scans/manifest.json --site_folder=nonmembers/C1 --split=0,0,100

A site can do the same alone, with its own cases and the models it was sent: give --models and
--members in place of --run, e.g.

    python -m experiments.membership --flagfile=study.flags --models=FL_global:best.safetensors \\
        --members=C1:site --nonmembers=C1:others --output=membership

The cost is printed first (`--dry_run` stops there). Writes membership.json, membership.md and
membership.html. Stop it at any time; run the same command again to resume.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

from absl import app, flags

from experiments import flags as experiment_flags
from experiments import program, program_help
from experiments.configuration import ExperimentConfig
from experiments.models.membership.targets import AttackedModel, Candidates
from preprocessing.case_source import CaseSource

FLAGS = flags.FLAGS
experiment_flags.define_experiment()
experiment_flags.define_runtime()
with program_help.group("Models and scans"):
    flags.DEFINE_string("run", None, "Folder of a finished run on one machine.")
    flags.DEFINE_list(
        "rounds",
        [],
        "Numbers of the rounds to measure, separated by commas. Default: those after a quarter, "
        "half and all of the run.",
    )
    flags.DEFINE_list(
        "models", [], "Without --run: models to attack, as name:file of safetensors weights."
    )
    flags.DEFINE_list(
        "members",
        [],
        "Without --run: folders of the sites that trained them, as site:folder. Their training "
        "cases are the members.",
    )
    flags.DEFINE_list(
        "nonmembers",
        [],
        "Folders that experiments.prepare made from patients that no site has, as site:folder. All "
        "their cases are non-members.",
    )
    flags.DEFINE_list(
        "references",
        [],
        "Further weights that were trained on other patients, for the calibrated attack. With "
        "--run, each site's baseline is used anyway, for the scans of the other sites.",
    )
flags.DEFINE_integer(
    "patches",
    4,
    "Patches of each scan over which its loss is averaged; more take longer.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "max_nonmembers", 0, "Largest number of non-members for each site; 0 for all.", lower_bound=0
)
flags.DEFINE_string("output", None, "Folder to write the results to.")
flags.DEFINE_bool("dry_run", False, "Print the cost and exit.")

_FILES = tuple(f"membership.{ending}" for ending in ("json", "md", "html"))


def main(argv: list[str]) -> int:
    del argv
    config = experiment_flags.experiment_config()
    if config.share_rules.keep:
        raise app.UsageError(
            f"--keep_at_site is {','.join(config.keep_at_site)}: the server's models lack these "
            "arrays, so nobody can compute a loss with them alone; measure a run without it"
        )
    output = pathlib.Path(experiment_flags.required("output", "the folder of the results"))
    from experiments.reports import membership_page
    from experiments.results.statistics import membership_rates
    from experiments.run.run_cost import minutes
    from runkit import atomic, folder_lock, overwriting, private

    others = experiment_flags.site_folders_by_name("nonmembers")
    if not others:
        raise app.UsageError("--nonmembers is missing: folders of prepared cases, as site:folder")
    members = _members(list(others))
    inputs = {"--nonmembers": list(others.values()), "--members": list(members.values())}
    overwriting.require_apart(inputs, {"--output": [output / name for name in _FILES]})
    candidates = _candidates(members, others, config)
    for site, own in candidates.items():
        count = len(own.scans) - own.members
        print(f"{site}: {own.members} members, {count} non-members")
        if count < membership_rates.FEWEST:
            print(
                f"  {count} non-members are too few for 1 % of them; give "
                f"{membership_rates.FEWEST} or more. Only the area under the curve is computed"
            )
    targets, references = _targets(list(candidates))
    given = [pathlib.Path(file) for file in FLAGS.references]
    for file in given:
        if not file.is_file():
            raise app.UsageError(f"--references has {str(file)!r}, which is not a file")
    experiment_flags.start_tensorflow()
    from experiments.models.membership.measurement import Measurement

    measurement = Measurement(
        config,
        candidates,
        targets,
        {site: [*references.get(site, ()), *given] for site in candidates},
        output,
        patches=FLAGS.patches,
    )
    print(
        f"{len(targets)} models, {len(measurement.passes())} passes over the scans; left to do: "
        f"about {minutes(measurement.seconds())} on two cores",
        flush=True,
    )
    if FLAGS.dry_run:
        return 0
    private.make(output)
    folder_lock.hold(output)
    content = measurement.run(lambda text: print(text, flush=True))
    title = f"Membership inference, {config.profile}, seed {config.seed}"
    atomic.write_json(output / _FILES[0], content)
    text = membership_page.markdown(content, title)
    atomic.write_text(output / _FILES[1], text)
    atomic.write_text(output / _FILES[2], membership_page.html(content, title))
    print(text)
    print(f"As a page: {output / _FILES[2]}")
    return 0


def _members(sites: list[str]) -> dict[str, pathlib.Path]:
    """Returns site -> the folder with its cases."""
    if not FLAGS.run:
        found = experiment_flags.site_folders_by_name("members")
        if not FLAGS.models or not found:
            raise app.UsageError("give --run, or --models and --members together")
    elif FLAGS.models or FLAGS.members:
        raise app.UsageError("--run names models and members; omit --models and --members")
    else:
        found = {site: pathlib.Path(FLAGS.run) / "sites" / site for site in sites}
    for site in sites:
        if site not in found or not (found[site] / "cases").is_dir():
            raise app.UsageError(
                f"--nonmembers has site {site!r}, of which there are no prepared cases in "
                f"{found.get(site, '--members')}; name the sites as the run does"
            )
    return found


def _candidates(
    members: Mapping[str, pathlib.Path],
    others: Mapping[str, pathlib.Path],
    config: ExperimentConfig,
) -> dict[str, Candidates]:
    own, apart = (
        {site: _opened(site, folder, config) for site, folder in folders.items()}
        for folders in (members, others)
    )
    return {
        site: Candidates.of(
            own[site],
            store,
            limit=FLAGS.max_nonmembers,
            elsewhere=[of for name, of in own.items() if name != site],
        )
        for site, store in apart.items()
    }


def _opened(site: str, folder: pathlib.Path, config: ExperimentConfig) -> CaseSource:
    from experiments.models import prepared_cases

    store = prepared_cases.open_store(folder / "cases", config)
    if store.site != site:
        raise app.UsageError(
            f"{folder} is given for site {site!r} and has cases of {store.site!r}; an attack that "
            "only tells hospitals apart would seem to find members. If they are patients of that "
            f"hospital, prepare them with --site={site}"
        )
    return store


def _targets(sites: list[str]) -> tuple[list[AttackedModel], dict[str, list[pathlib.Path]]]:
    """Returns the models to attack, and the run's own models that serve as references."""
    from experiments.models.membership import targets

    if FLAGS.run:
        try:
            rounds = sorted({int(number) for number in FLAGS.rounds})
        except ValueError as error:
            raise app.UsageError(
                f"--rounds is {','.join(FLAGS.rounds)!r}; expected numbers separated by commas"
            ) from error
        folder = pathlib.Path(FLAGS.run)
        return (
            targets.of_run(folder, sites, rounds),
            targets.references_of_run(folder, sites),
        )
    if FLAGS.rounds:
        raise app.UsageError("--rounds is for --run; omit it")
    return [
        AttackedModel(name=name, kind="local", file=file, sites=tuple(sites))
        for name, file in experiment_flags.named_files("models").items()
    ], {}


if __name__ == "__main__":
    program.run(main, required=["nonmembers", "output"], resumes=True)

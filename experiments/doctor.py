"""Finds out why a site or a server cannot work, and says how to fix it.

    python -m experiments.doctor --kit=kit --site_folder=sites/C1 \\
        --flagfile=experiments/flagfiles/paper.flags
    python -m experiments.doctor --kit=federation/server --store=server \\
        --initial_model=initial.safetensors

It changes nothing and does not log in. The exit code is 0 if nothing keeps the federation from
working, else 1.
"""

from __future__ import annotations

import importlib.util
import json
import pathlib
from typing import TYPE_CHECKING, Any

from absl import app, flags

from experiments import flags as experiment_flags
from experiments import program, program_help, setting_flags
from federated.server.config import ServerConfig

if TYPE_CHECKING:
    from federated.doctor.diagnosis import Diagnosis

FLAGS = flags.FLAGS
experiment_flags.define_experiment()
experiment_flags.define_site()
flags.DEFINE_string(
    "kit", None, "Kit to examine: that of a site, of the operator or of the server."
)
experiment_flags.define_server()
with program_help.group("At the server"):
    flags.DEFINE_string("store", None, "Folder of the run's state.")
    flags.DEFINE_string("initial_model", None, "Initial model of the run.")
    setting_flags.define(ServerConfig, ["host", "port"])
flags.DEFINE_float("timeout", 5.0, "Seconds to wait for an answer.")
flags.DEFINE_bool("json", False, "Print JSON instead of the table.")


def main(argv: list[str]) -> int:
    del argv
    from federated.doctor import diagnosis as doctor
    from federated.doctor import examination, local_checks

    kit = pathlib.Path(
        experiment_flags.required(
            "kit", "the folder to examine, made by experiments.provision or experiments.request"
        )
    )
    if local_checks.kind_of(kit) == "server":
        findings = examination.of_server(
            kit,
            store=_path(FLAGS.store),
            initial_model=_path(FLAGS.initial_model),
            listen=FLAGS.host,
            port=FLAGS.port,
            num_rounds=FLAGS.num_rounds,
        )
    else:
        host, port = experiment_flags.server_address()
        folder = _path(FLAGS.site_folder)
        findings = examination.of_site(
            kit,
            folder=folder,
            site=FLAGS.site or _prepared_site(folder),
            host=host,
            port=port,
            plan=_plan(),
            timeout_s=FLAGS.timeout,
        )
        if folder is not None:
            findings.append(_prepared_cases(folder))
        findings += _sharing(folder)
        if local_checks.kind_of(kit) == "site":
            findings.append(_devices())
    if FLAGS.json:
        print(json.dumps([finding.to_json() for finding in findings], indent=2))
    else:
        print(doctor.table(findings))
    return 0 if doctor.is_well(findings) else 1


def _path(value: str | None) -> pathlib.Path | None:
    return pathlib.Path(value) if value else None


def _prepared_site(folder: pathlib.Path | None) -> str | None:
    if folder is None or not (folder / "cases").is_dir():
        return None
    from preprocessing import case_store

    try:
        return case_store.site_of(folder / "cases")
    except ValueError:  # `_prepared_cases` reports it
        return None


def _prepared_cases(folder: pathlib.Path) -> Diagnosis:
    """Compares the settings of the prepared cases with the plan, if flags give one."""
    from experiments.models import prepared_cases
    from federated.doctor import diagnosis as doctor
    from preprocessing import case_store

    check = "prepared cases"
    if not (folder / "cases").is_dir():
        return doctor.skipped(check, f"{folder} has none yet; make them with experiments.prepare")
    try:
        record = case_store.record_of(folder / "cases")
    except ValueError as error:
        return doctor.fault(check, str(error), "let experiments.prepare finish")
    planned = (
        experiment_flags.experiment_config(without_training=True)
        if experiment_flags.gives_experiment()
        else None
    )
    differences = prepared_cases.differences(record, planned)
    if differences:
        return doctor.fault(check, "; ".join(differences), prepared_cases.REMEDY)
    if planned is None:
        return doctor.skipped(
            check,
            f"{prepared_cases.describe(record)}; give the study's --flagfile to compare them with "
            "its plan",
        )
    return doctor.good(check, prepared_cases.describe(record))


def _sharing(folder: pathlib.Path | None) -> list[Diagnosis]:
    """Returns in words what the plan's rules of sharing mean for this site; nothing without any."""
    from federated.doctor import diagnosis as doctor

    if not experiment_flags.gives_experiment():
        return []
    config = experiment_flags.experiment_config(without_training=True)
    rules, told = config.share_rules, []
    if config.num_rounds == 0:
        return []
    if rules.keep:
        where = (folder or pathlib.Path("<site folder>")) / "federated" / "journal"
        told.append(
            doctor.good(
                "stays at this site",
                f"arrays named {', '.join(rules.keep)}, beside scans and labels; they exist "
                f"nowhere else, so back up {where}",
            )
        )
    if rules.receive:
        told.append(
            doctor.good(
                "only received",
                f"arrays named {', '.join(rules.receive)}: not trained here and never sent",
            )
        )
    return told


def _devices() -> Diagnosis:
    """Names the devices that this site would compute on."""
    from federated.doctor import diagnosis as doctor

    check = "devices"
    if importlib.util.find_spec("tensorflow") is None:
        return doctor.skipped(check, "TensorFlow is not installed here")
    from c2fnas import gpus

    return doctor.good(check, "; ".join(gpus.described()))


def _plan() -> dict[str, Any] | None:
    """Returns the plan of the flags, or None if none of the experiment's is given."""
    if not experiment_flags.gives_experiment():
        return None
    from experiments import configuration

    try:
        config = experiment_flags.experiment_config(without_training=True)
        genotype = configuration.load_genotype(config)
    except ValueError as error:
        raise app.UsageError(str(error)) from error
    return configuration.plan(config, genotype.to_json())


if __name__ == "__main__":
    program.run(main, required=["kit"])

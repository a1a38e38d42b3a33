"""Finds out why a site or a server cannot work, and says how to fix it.

It changes nothing and logs in nowhere.

    python -m experiments.doctor --kit=kit --site_folder=sites/C1
    --flagfile=experiments/flagfiles/paper.flags python -m experiments.doctor
    --kit=federation/server --store=server --initial_model=initial.safetensors

Exit code 0 where nothing keeps the federation from working, 1 otherwise.
"""

from __future__ import annotations

import json
import pathlib
from typing import TYPE_CHECKING

from absl import app, flags

from experiments import flags as experiment_flags

if TYPE_CHECKING:
    from federated.doctor.findings import Finding

FLAGS = flags.FLAGS
experiment_flags.define_experiment()
experiment_flags.define_site()
flags.DEFINE_string("kit", None, "Folder of a kit: of a site, of the operator, or of the server.")
flags.DEFINE_string("server", None, "host:port of the server, in place of the kit's.")
flags.DEFINE_string("store", None, "At the server: folder of the run's state.")
flags.DEFINE_string("initial_model", None, "At the server: round 0.")
flags.DEFINE_string("host", "0.0.0.0", "At the server: address to listen on.")
flags.DEFINE_integer("port", 8443, "At the server: port to listen on.")
flags.DEFINE_float("timeout", 5.0, "Seconds to wait for an answer.")
flags.DEFINE_bool("json", False, "Print JSON in place of the table.")


def main(argv: list[str]) -> int:
    del argv
    from federated.doctor import examination
    from federated.doctor import findings as doctor
    from federated.doctor import kit as doctor_kit

    kit = pathlib.Path(
        experiment_flags.required(
            "kit", "the folder to examine, made by experiments.provision or experiments.request"
        )
    )
    if doctor_kit.kind_of(kit) == "server":
        findings = examination.of_server(
            kit,
            store=_path(FLAGS.store),
            initial_model=_path(FLAGS.initial_model),
            listen=FLAGS.host,
            port=FLAGS.port,
            num_rounds=FLAGS.num_rounds,
        )
    else:
        host, port = experiment_flags.address(FLAGS.server) if FLAGS.server else (None, None)
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
    except ValueError:  # `_prepared_cases` has a finding for it
        return None


def _prepared_cases(folder: pathlib.Path) -> Finding:
    """Compares what the prepared cases were made with, with the plan of the flags where they were
    given.
    """
    from experiments.models import prepared_cases
    from federated.doctor import findings as doctor
    from preprocessing import case_store

    check = "prepared cases"
    if not (folder / "cases").is_dir():
        return doctor.skipped(check, f"{folder} has none yet; experiments.prepare makes them")
    try:
        record = case_store.record_of(folder / "cases")
    except ValueError as error:
        return doctor.fault(check, str(error), "run experiments.prepare to its end")
    planned = experiment_flags.experiment_config() if FLAGS["profile"].present else None
    differences = prepared_cases.differences(record, planned)
    if differences:
        return doctor.fault(check, "; ".join(differences), prepared_cases.REMEDY)
    if planned is None:
        return doctor.skipped(
            check,
            f"{prepared_cases.describe(record)}; give the study's --flagfile to compare them with its plan",
        )
    return doctor.good(check, prepared_cases.describe(record))


def _plan() -> dict | None:
    """Returns the plan of the flags where they were given, None where only the defaults are there."""
    if not FLAGS["profile"].present:
        return None
    from c2fnas import genotype
    from experiments import configuration

    try:
        config = experiment_flags.experiment_config()
        genotype_json = (
            genotype.load(config.genotype)
            .with_size(filters=config.filters, classes=len(configuration.CLASSES))
            .to_json()
        )
    except ValueError as error:
        raise app.UsageError(str(error)) from error
    return configuration.plan(config, genotype_json)


if __name__ == "__main__":
    experiment_flags.run(main, required=["kit"])

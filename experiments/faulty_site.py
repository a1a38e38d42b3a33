"""EXPERIMENT ONLY: a site that corrupts its updates, to see how an aggregation rule responds.

    python -m experiments.faulty_site --flagfile=experiments/flagfiles/demo.flags --fault=stuck \\
        --kit=federation/C3 --server=localhost:8443 --site_folder=sites/C3

A study starts it in place of experiments.join at a site for which the study file sets a `fault`. It
takes the same flags. It connects only to a server on this machine, with a kit made for such a
server, so that it cannot harm a real federation.
"""

from __future__ import annotations

import pathlib

from absl import flags, logging

from experiments import flags as experiment_flags
from experiments import join, program
from experiments.studies import faults
from federated.errors import FederationError
from federated.security.kit import Kit
from federated.site.trainer import SiteTrainer
from preprocessing.case_source import CaseSource

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "fault",
    None,
    list(faults.FAULTS),
    "What the site does wrong. " + " ".join(f"{k!r}: {v}." for k, v in faults.FAULTS.items()),
)


def main(argv: list[str]) -> int:
    del argv
    fault = experiment_flags.required("fault", "what the site does wrong")
    server = experiment_flags.required("server", "host:port of a server on this machine")
    faults.require_own_machine(experiment_flags.address(server)[0])
    # A tunnel to a real server also ends on this machine, but the kit names the server's host.
    kit = experiment_flags.required("kit", "the site's kit, made by the study")
    faults.require_own_machine(Kit.read(kit, kinds=("site",), port=1).host, of_kit=kit)
    logging.warning("event=faulty_site EXPERIMENT: this site %s", faults.FAULTS[fault])
    folder = pathlib.Path(experiment_flags.required("site_folder", "the site's folder"))

    def spoil_store(store: CaseSource) -> CaseSource:
        return faults.ShuffledLabels(store) if fault == faults.LABELS_SHUFFLED else store

    def spoil_trainer(trainer: SiteTrainer) -> SiteTrainer:
        return faults.FaultyTrainer(trainer, fault, folder / "federated")

    return join.take_part(cases_as_read=spoil_store, updates=spoil_trainer)


if __name__ == "__main__":
    program.run(
        main,
        required=["fault", "kit", "server", "site_folder"],
        resumes=True,
        expected=(FederationError,),
    )

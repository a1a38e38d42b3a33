"""Runs the server of a federation: leads the rounds and averages the sites' updates.

    python -m experiments.serve --flagfile=experiments/flagfiles/demo.flags \\
        --kit=federation/server --store=server --initial_model=initial.safetensors

It needs neither patient data nor the neural network. Stop it at any time; run the same command
again to resume.
"""

from __future__ import annotations

import json

from absl import flags

from c2fnas import genotype
from experiments import configuration, program_help, setting_flags
from experiments import flags as experiment_flags
from experiments.configuration import ExperimentConfig
from experiments.results.vocabulary import REPORTS
from federated.admin.tensorboard import RunScalars
from federated.errors import FederationError
from federated.rounds import plan as plans
from federated.rounds.log_lines import LogLine
from federated.server.config import ServerConfig
from federated.server.serve import serve
from federated.tensors import tensor_files
from runkit import interrupts, settings, systemd
from runkit.classes import CLASSES
from runkit.scalar_events import ScalarEvents

FLAGS = flags.FLAGS
_SHARED = settings.declared(ServerConfig).keys() & settings.declared(ExperimentConfig).keys()
_SERVER_ONLY = [name for name in settings.declared(ServerConfig) if name not in _SHARED]
with program_help.group("Rules of the federation"):
    setting_flags.define(ServerConfig, _SERVER_ONLY)
experiment_flags.define_experiment()
flags.DEFINE_string("kit", None, "The server's kit, made by experiments.provision.")
flags.DEFINE_string(
    "store", None, "Folder of the run's state: global models, updates, scores, rows, events."
)
flags.DEFINE_string(
    "initial_model",
    None,
    "Initial model, written by experiments.init_model; it holds the plan that all sites must "
    "share.",
)
flags.DEFINE_string(
    "tensorboard", None, "Folder for TensorBoard logs of scores, metrics and rounds."
)


def main(argv: list[str]) -> int:
    del argv
    initial_model = experiment_flags.required(
        "initial_model", "the initial model, written by experiments.init_model"
    )
    experiment = experiment_flags.experiment_config()
    _check_plan(experiment, initial_model)
    config = ServerConfig(
        num_rounds=experiment.num_rounds,
        **{name: getattr(experiment, name) for name in _SHARED},
        **setting_flags.values(ServerConfig, FLAGS, _SERVER_ONLY),
    )
    summary = serve(
        config,
        experiment_flags.required("store", "the folder of the run's state"),
        experiment_flags.required("kit", "the server's kit, made by experiments.provision"),
        initial_model,
        vocabulary=REPORTS,
        listeners=[
            _tell_progress,
            *([RunScalars(ScalarEvents(FLAGS.tensorboard)).note] if FLAGS.tensorboard else []),
        ],
        on_ready=_tell_ready,
    )
    ending = "finished" if summary.finished else "stopped; run the same command again to resume"
    print(
        f"{ending}: {summary.rounds} rounds, sites {', '.join(summary.sites) or 'none'}, best "
        f"round {summary.best_round}, {summary.rows} rows"
    )
    if summary.finished:
        return 0
    return interrupts.EXIT_CODE if interrupts.received() else 1


def _tell_ready(port: int) -> None:
    print(f"serving on port {port}", flush=True)
    systemd.notify("READY=1")


def _tell_progress(record: LogLine) -> None:
    """Updates the line that `systemctl status` shows."""
    if record["event"] == "aggregated":
        systemd.notify(
            f"STATUS=round {record['round']} of {FLAGS.num_rounds} averaged, "
            f"sites {', '.join(record['sites'])}"
        )


def _check_plan(config: ExperimentConfig, initial_model: str) -> None:
    """Raises ValueError if the initial model was made with other flags, as all sites would fail."""
    _, metadata = tensor_files.load(initial_model)
    if "plan" not in metadata:
        raise ValueError(
            f"{initial_model}: holds no plan; write the initial model with experiments.init_model"
        )
    genotype_json = (
        genotype.load(config.genotype)
        .with_size(filters=config.filters, classes=len(CLASSES))
        .to_json()
    )
    differing = plans.differences(
        json.loads(metadata["plan"]), configuration.plan(config, genotype_json)
    )
    if differing:
        raise ValueError(
            f"{initial_model}: was made with other settings: {'; '.join(differing)}; use its flag "
            "file, or make the model again"
        )


if __name__ == "__main__":
    experiment_flags.run(
        main, required=["kit", "store", "initial_model"], resumes=True, expected=(FederationError,)
    )

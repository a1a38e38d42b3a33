"""Runs the server of a federation: coordinates the rounds and averages the sites' updates.

    python -m experiments.serve --flagfile=experiments/flagfiles/demo.flags \\
        --kit=federation/server --store=server --initial_model=initial.safetensors

With --num_rounds=0 nothing is trained: the sites receive the models given by --models, score them
on their test cases and return rows of numbers.

    python -m experiments.serve --flagfile=study.flags --num_rounds=0 --kit=federation/server \\
        --store=evaluation --models=models/FL_global,other:models/other

The server needs neither patient data nor the neural network. Stop it at any time; run the same
command again to resume.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import tempfile
from typing import Any

from absl import app, flags, logging

from experiments import configuration, program, program_help, setting_flags
from experiments import flags as experiment_flags
from experiments.configuration import ExperimentConfig
from experiments.models import given_models, given_paths
from experiments.results.report_words import REPORTS
from federated.admin.tensorboard import RunScalars
from federated.errors import FederationError
from federated.rounds import plan as plans
from federated.rounds.log_lines import LogLine
from federated.server.config import ServerConfig
from federated.server.serve import serve
from federated.tensors import tensor_files
from runkit import interrupts, settings, systemd
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
    "share. Not with --num_rounds=0.",
)
flags.DEFINE_list(
    "models",
    [],
    "With --num_rounds=0: model folders to evaluate at every site, as folder or name:folder. All "
    "share the network, preparation and sliding window of the flags. With --supernet: the list of "
    "paths that experiments.search_federated wrote.",
)
flags.DEFINE_string(
    "tensorboard", None, "Folder for TensorBoard logs of scores, metrics and rounds."
)


flags.DEFINE_integer(
    "metrics_port",
    0,
    "Port of a Prometheus endpoint at /metrics; 0 for none. Needs the extra [metrics].",
    lower_bound=0,
    upper_bound=65535,
)
flags.DEFINE_string(
    "metrics_host",
    "127.0.0.1",
    "Address of the Prometheus endpoint. The endpoint has no password; if the address can be "
    "reached from other machines, let a firewall admit only the Prometheus server.",
)


def main(argv: list[str]) -> int:
    del argv
    metrics = _metrics()
    experiment = experiment_flags.experiment_config(without_training=True)
    config = ServerConfig(
        num_rounds=experiment.num_rounds,
        **{name: getattr(experiment, name) for name in _SHARED},
        **setting_flags.values(ServerConfig, FLAGS, _SERVER_ONLY),
    )
    store = experiment_flags.required("store", "the folder of the run's state")
    with contextlib.ExitStack() as until_ready:
        files = _files(experiment, until_ready)

        def tell_ready(port: int) -> None:
            until_ready.close()  # the store now has its own copies
            print(f"serving on port {port}", flush=True)
            systemd.notify("READY=1")

        summary = serve(
            config,
            store,
            experiment_flags.required("kit", "the server's kit, made by experiments.provision"),
            files.initial,
            vocabulary=REPORTS,
            models=files.models,
            metrics=metrics,
            listeners=[
                _tell_progress,
                *([RunScalars(ScalarEvents(FLAGS.tensorboard)).note] if FLAGS.tensorboard else []),
            ],
            on_ready=tell_ready,
        )
    ending = "finished" if summary.finished else "stopped; run the same command again to resume"
    sites = f"sites {', '.join(summary.sites) or 'none'}"
    if experiment.num_rounds:
        what = f"{summary.rounds} rounds, {sites}, best round {summary.best_round}"
    else:
        what = f"{len(files.models)} given models, {sites}"
    print(f"{ending}: {what}, {summary.rows} rows")
    if summary.finished and not experiment.num_rounds and not experiment.supernet:
        print(
            f"for the tables: python -m experiments.evaluation_report --store={store} "
            "--output=<folder>"
        )
    if summary.finished:
        return 0
    return interrupts.EXIT_CODE if interrupts.received() else 1


def _metrics() -> tuple[str, int] | None:
    """Returns address and port of the Prometheus endpoint, or None. Raises UsageError."""
    if not FLAGS.metrics_port:
        if FLAGS["metrics_host"].present:
            raise app.UsageError(
                f"--metrics_host={FLAGS.metrics_host} is given without --metrics_port, and without "
                "a port there are no metrics; give one, e.g. --metrics_port=9464, or omit both"
            )
        return None
    if FLAGS.metrics_port == FLAGS.port:
        raise app.UsageError(
            f"--metrics_port is {FLAGS.metrics_port}, the port of the sites; choose another one, "
            "e.g. 9464"
        )
    return FLAGS.metrics_host, FLAGS.metrics_port


def _files(config: ExperimentConfig, until_ready: contextlib.ExitStack) -> given_models.Files:
    """Returns the initial model and the given models, in a folder kept until the store has copies.

    Raises:
      app.UsageError, ValueError: if a flag is missing or does not belong to this kind of run, or if
        a model's plan differs from the flags.
    """
    if config.num_rounds:
        if FLAGS.models:
            raise app.UsageError(
                f"--models is only for an evaluation without training, and --num_rounds is "
                f"{config.num_rounds}; give --num_rounds=0 to evaluate these models"
            )
        initial_model = experiment_flags.required(
            "initial_model", "the initial model, written by experiments.init_model"
        )
        _check_plan(config, initial_model)
        return given_models.Files(pathlib.Path(initial_model), {})
    if FLAGS.initial_model:
        raise app.UsageError(
            "--initial_model is for a run with training, and --num_rounds is 0; give the models to "
            "evaluate as --models"
        )
    experiment_flags.required("models", "the model folders to evaluate, because --num_rounds is 0")
    into = until_ready.enter_context(tempfile.TemporaryDirectory(prefix="models-"))
    if config.supernet:
        return given_paths.files(FLAGS.models, _plan(config), into)
    folders = given_models.find(FLAGS.models)
    files = given_models.write(folders, _plan(config), into)
    if files.gated:
        logging.warning(
            "event=gates_not_applied models=%s: their folders hold a healthy gate; only weights "
            "travel, so the tables show these models without it",
            ",".join(files.gated),
        )
    for name, arrays in files.private.items():
        logging.warning(
            "event=private_arrays_travel model=%s: it holds arrays that a site kept to itself in "
            "training (%s), and every site of this evaluation receives them; ask that site first",
            name,
            arrays,
        )
    return files


def _tell_progress(record: LogLine) -> None:
    """Updates the line that `systemctl status` shows."""
    if record["event"] == "aggregated":
        systemd.notify(
            f"STATUS=round {record['round']} of {FLAGS.num_rounds} averaged, "
            f"sites {', '.join(record['sites'])}"
        )
    elif record["event"] == "rows":
        systemd.notify(f"STATUS=evaluation, rows of site {record['site']} received")


def _check_plan(config: ExperimentConfig, initial_model: str) -> None:
    """Raises ValueError if the initial model was made with other flags, as all sites would fail."""
    _, metadata = tensor_files.load(initial_model)
    if "plan" not in metadata:
        raise ValueError(
            f"{initial_model}: holds no plan; write the initial model with experiments.init_model"
        )
    differing = plans.differences(
        json.loads(metadata["plan"]), _plan(config), words=("the model has", "the flags")
    )
    if differing:
        raise ValueError(
            f"{initial_model}: was made with other settings: {'; '.join(differing)}; use its flag "
            "file, or make the model again"
        )


def _plan(config: ExperimentConfig) -> dict[str, Any]:
    return configuration.plan(config, configuration.load_genotype(config).to_json())


if __name__ == "__main__":
    program.run(
        main, required=["kit", "store", "initial_model"], resumes=True, expected=(FederationError,)
    )

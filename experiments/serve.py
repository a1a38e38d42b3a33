"""Serves a federation: holds no data, knows no network, leads the rounds.

    python -m experiments.serve --flagfile=experiments/flagfiles/demo.flags --kit=federation/server
    --store=server --initial_model=initial.safetensors

Stopped or killed, it goes on where it was when the same command is given again.
"""

from __future__ import annotations

import json
from typing import Any

from absl import flags

from c2fnas import genotype
from experiments import configuration
from experiments import flags as experiment_flags
from experiments.configuration import ExperimentConfig
from federated.admin.tensorboard import RunScalars
from federated.errors import FederationError
from federated.rounds import plan as plans
from federated.server.config import ServerConfig
from federated.server.serve import serve
from federated.tensors import tensor_files
from runkit import interrupts, service_manager
from runkit.classes import CLASSES
from runkit.scalar_events import ScalarEvents

FLAGS = flags.FLAGS
experiment_flags.define_experiment()
flags.DEFINE_string("kit", None, "The server's folder, made by experiments.provision.")
flags.DEFINE_string(
    "store", None, "Folder of the run's state: global models, updates, scores, rows, events."
)
flags.DEFINE_string(
    "initial_model",
    None,
    "Round 0, written by experiments.init_model; carries the plan that sites must share.",
)
flags.DEFINE_string("host", "0.0.0.0", "Address to listen on.")
flags.DEFINE_integer(
    "port", 8443, "Port to listen on; 0 takes any free one and writes it to <store>/address.json."
)
flags.DEFINE_integer("min_num_clients", 2, "Sites whose updates close a round.")
flags.DEFINE_integer("max_num_clients", 2, "Sites admitted at most.")
flags.DEFINE_float(
    "wait_after_min_clients", 10.0, "Seconds to wait for further sites once the minimum has pushed."
)
flags.DEFINE_float(
    "heart_beat_timeout",
    600.0,
    "Seconds of silence after which a site is no longer waited for while enough others remain.",
)
flags.DEFINE_float(
    "round_deadline",
    0.0,
    "Seconds of a round, moved on while updates arrive; 0 waits for the minimum for ever.",
)
flags.DEFINE_enum(
    "late_updates",
    "discard",
    ["discard", "keep"],
    "What comes after its round was averaged: drop it, or count it in the next.",
)
flags.DEFINE_float(
    "max_change_ratio",
    10.0,
    "Refuse an update that changes the model so many times more than is usual: the median of what other sites changed in the last five "
    "rounds, at least a fifth of the norm of the initial model; 0 never.",
)
flags.DEFINE_enum(
    "transport",
    "raw",
    ["raw", "deflate", "half"],
    "How models travel: as they are, losslessly packed, or rounded to float16.",
)
flags.DEFINE_integer(
    "patience_rounds",
    0,
    "End the run after so many scored global models without a better mean score; 0 never. Sites score one every --validation_every rounds.",
)
flags.DEFINE_float("token_lifetime", 24 * 3600.0, "Seconds for which a login is valid.")
flags.DEFINE_integer(
    "transfers_at_once",
    2,
    "Models that sites send or fetch at the same time while others wait for their turn; bounds memory.",
)
flags.DEFINE_integer(
    "keep_updates",
    1,
    "Newest rounds whose updates stay in the store, so that experiments.audit can average them again.",
)
flags.DEFINE_integer(
    "keep_globals",
    0,
    "Newest global models that stay in the store beside the initial and the best ones; 0 keeps all.",
)
flags.DEFINE_string("tensorboard", None, "Folder for TensorBoard: scores, metrics, rounds.")


def main(argv: list[str]) -> int:
    del argv
    initial_model = experiment_flags.required(
        "initial_model", "round 0, written by experiments.init_model"
    )
    _check_plan(experiment_flags.experiment_config(), initial_model)
    config = ServerConfig(
        num_rounds=FLAGS.num_rounds,
        local_epochs=FLAGS.local_epochs,
        min_num_clients=FLAGS.min_num_clients,
        max_num_clients=FLAGS.max_num_clients,
        wait_after_min_clients_s=FLAGS.wait_after_min_clients,
        heart_beat_timeout_s=FLAGS.heart_beat_timeout,
        round_deadline_s=FLAGS.round_deadline or None,
        late_updates=FLAGS.late_updates,
        max_change_ratio=FLAGS.max_change_ratio,
        transport=FLAGS.transport,
        patience_rounds=FLAGS.patience_rounds,
        token_lifetime_s=FLAGS.token_lifetime,
        transfers_at_once=FLAGS.transfers_at_once,
        keep_updates=FLAGS.keep_updates,
        keep_globals=FLAGS.keep_globals,
        host=FLAGS.host,
        port=FLAGS.port,
    )
    summary = serve(
        config,
        experiment_flags.required("store", "the folder of the run's state"),
        experiment_flags.required("kit", "the server's folder, made by experiments.provision"),
        initial_model,
        listeners=[
            _tell_progress,
            *([RunScalars(ScalarEvents(FLAGS.tensorboard)).note] if FLAGS.tensorboard else []),
        ],
        on_ready=_tell_ready,
    )
    ending = "finished" if summary.finished else "stopped; run the same command again to resume"
    print(
        f"{ending}: {summary.rounds} rounds, sites {', '.join(summary.sites) or 'none'}, best round {summary.best_round}, {summary.rows} rows"
    )
    if summary.finished:
        return 0
    return interrupts.EXIT_CODE if interrupts.received() else 1


def _tell_ready(port: int) -> None:
    print(f"serving on port {port}", flush=True)
    service_manager.notify("READY=1")


def _tell_progress(record: dict[str, Any]) -> None:
    """Keeps the line that `systemctl status` shows."""
    if record["event"] == "aggregated":
        service_manager.notify(
            f"STATUS=round {record['round']} of {FLAGS.num_rounds} averaged, sites {', '.join(record['sites'])}"
        )


def _check_plan(config: ExperimentConfig, initial_model: str) -> None:
    """Raises ValueError where the flags are not those that the initial model was made with: sites
    would all be refused.
    """
    _, metadata = tensor_files.load(initial_model)
    if "plan" not in metadata:
        raise ValueError(
            f"{initial_model}: carries no plan; write the initial model with experiments.init_model"
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
            f"{initial_model}: was made with other settings: {'; '.join(differing)}; give its flag file, or make it again"
        )


if __name__ == "__main__":
    experiment_flags.run(
        main, required=["kit", "store", "initial_model"], resumes=True, expected=(FederationError,)
    )

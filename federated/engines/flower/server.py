"""Flower's server side: a ServerApp that averages named arrays with this product's bits."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from federated.engines import PLAN
from federated.engines.averaging import averaged, mean_metrics
from federated.engines.flower.messages import ARRAYS, CONFIG, METRICS, NUM_EXAMPLES, SITE
from federated.engines.plan_check import check_num_rounds, read_initial
from federated.rounds.tasks import global_name
from federated.tensors import tensor_files
from federated.tensors.weights import NamedArrays

# Flower discards an update that takes longer; its default is one hour.
_ROUND_S = 7 * 24 * 3600.0


class NamedMean(FedAvg):
    """Flower's FedAvg with the mean of `averaging.averaged`; every site must reply."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord, MetricRecord]:
        """Returns the mean of the updates, and of each metric that all sites report.

        Raises:
          RuntimeError: if a site reports an error or does not reply. Flower itself would continue
            without the site.
        """
        updates, metrics = {}, {}
        for reply in replies:
            if reply.has_error():
                raise RuntimeError(
                    f"round {server_round}: node {reply.metadata.src_node_id} failed "
                    f"({reply.error.reason}); see its log, then start the run again"
                )
            site = str(reply.content[CONFIG][SITE])
            reported = dict(reply.content[METRICS])
            examples = int(reported.pop(NUM_EXAMPLES))
            updates[site] = _arrays(reply.content[ARRAYS]), examples
            metrics[site] = reported
        if len(updates) < self.min_train_nodes:
            raise RuntimeError(
                f"round {server_round}: {len(updates)} sites replied ({', '.join(sorted(updates))})"
                f", {self.min_train_nodes} are needed; start every SuperNode with a name of its own"
            )
        mean = mean_metrics(metrics, {site: examples for site, (_, examples) in updates.items()})
        return _record(averaged(updates)), MetricRecord(mean)


def server_app(
    initial: str | os.PathLike, folder: str | os.PathLike, *, num_rounds: int, num_sites: int
) -> ServerApp:
    """Returns the server app of a run.

    Args:
      initial: safetensors file of global model 0, with the plan in its metadata; on the machine of
        the SuperLink.
      folder: folder for the global models, as `round_<number>.safetensors`.
      num_sites: a round waits for all of them.
    Raises:
      ValueError: in the app, before a site is asked for anything: as `plan_check.read_initial` and
        `plan_check.check_num_rounds`.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        arrays, metadata = read_initial(initial)
        check_num_rounds(metadata, num_rounds, what=str(initial))
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)

        def keep(number: int, record: ArrayRecord) -> None:
            path = pathlib.Path(folder) / f"{global_name(number)}.safetensors"
            tensor_files.save(path, _arrays(record), metadata)

        NamedMean(
            fraction_evaluate=0.0, min_train_nodes=num_sites, min_available_nodes=num_sites
        ).start(
            grid=grid,
            initial_arrays=_record(arrays),
            num_rounds=num_rounds,
            timeout=_ROUND_S,
            train_config=ConfigRecord({PLAN: metadata[PLAN]}),
            evaluate_fn=keep,
        )

    return app


def _record(arrays: NamedArrays) -> ArrayRecord:
    return ArrayRecord({name: Array(arrays[name]) for name in sorted(arrays)})


def _arrays(record: ArrayRecord) -> NamedArrays:
    return {name: array.numpy() for name, array in record.items()}

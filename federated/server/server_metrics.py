"""The metrics of a running server for a monitoring system.

Names, units and values follow the conventions of Prometheus; `metrics_endpoint` serves them.

Anyone who can reach the endpoint can read all metrics, without a password. So they do not contain
anything that only the operator should see, such as a site's scores, number of cases, labels or
paths. Sites appear by name, with their state and what they transferred.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

from federated.server.run_statistics import RunStatistics
from federated.wire.status import RunStatus, SiteStatus
from runkit import process_memory

PHASES = ("rounds", "evaluation", "paused", "finished")
STATES = (
    *("training", "sending", "pushed", "evaluating", "reported"),
    *("finished", "silent", "evicted"),
)


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
      name: name with the unit; the name of a counter ends in "_total".
      kind: a counter only increases, until the server is restarted.
      help: a sentence.
      labels: names of the labels.
      samples: values of the labels -> value of the metric.
    """

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    labels: tuple[str, ...]
    samples: Mapping[tuple[str, ...], float]


class ServerMetrics:
    """Reads the metrics of a server whenever they are requested.

    Args:
      status: returns the state of the run, see `Overview.status`.
      statistics: statistics of every event of the run.
      load: returns (number of transfers that hold a slot, number that wait for one).
    """

    def __init__(
        self,
        status: Callable[[], RunStatus],
        statistics: RunStatistics,
        load: Callable[[], tuple[int, int]],
    ):
        self._status, self._statistics, self._load = status, statistics, load

    def collect(self) -> list[Metric]:
        """Returns all metrics as they are now."""
        status, statistics = self._status(), self._statistics
        held, waiting = self._load()
        sites = status["sites"]

        def gauge(name: str, text: str, value: float) -> Metric:
            return Metric(f"federation_{name}", "gauge", text, (), {(): float(value)})

        def each(
            name: str,
            kind: Literal["gauge", "counter"],
            text: str,
            label: str,
            values: Mapping[str, float],
        ) -> Metric:
            samples: dict[tuple[str, ...], float] = {
                (key,): float(value) for key, value in sorted(values.items())
            }
            return Metric(f"federation_{name}", kind, text, (label,), samples)

        def of_sites(
            name: str,
            kind: Literal["gauge", "counter"],
            text: str,
            value: Callable[[SiteStatus], float],
        ) -> Metric:
            return each(name, kind, text, "site", {site: value(sites[site]) for site in sites})

        return [
            Metric(
                "federation_info",
                "gauge",
                "Always 1; the labels name the run, the release and the aggregation rule.",
                ("run", "release", "aggregation"),
                {(status["run"], status["release"], status["aggregation"]): 1.0},
            ),
            each(
                "phase",
                "gauge",
                "1 for the phase of the run, 0 for the others.",
                "phase",
                {phase: float(phase == status["phase"]) for phase in PHASES},
            ),
            gauge("planned_rounds", "Rounds that the run will have.", status["num_rounds"]),
            gauge("completed_rounds", "Rounds that are averaged.", status["rounds_done"]),
            gauge(
                "open_round_updates", "Updates of the open round so far.", len(status["updates"])
            ),
            gauge(
                "required_sites",
                "Sites whose updates a round needs, or whose rows an evaluation needs.",
                status["min_num_clients"],
            ),
            gauge("evaluated_models", "Models that sites evaluate.", len(status["models"])),
            gauge("reported_sites", "Sites whose rows are in.", len(status["reported"])),
            gauge("warnings", "Warnings in the status, which names them.", len(status["warnings"])),
            Metric(
                "federation_site_state",
                "gauge",
                "1 for the state of the site, 0 for the others.",
                ("site", "state"),
                {
                    (site, state): float(state == about["state"])
                    for site, about in sorted(sites.items())
                    for state in STATES
                },
            ),
            of_sites(
                "site_silence_seconds",
                "gauge",
                "Seconds since the site was last heard.",
                lambda site: site["seconds_since_heard"],
            ),
            of_sites(
                "updates_total",
                "counter",
                "Updates that the site has sent.",
                lambda site: site["updates"],
            ),
            of_sites(
                "received_bytes_total",
                "counter",
                "Bytes of models that came from the site.",
                lambda site: site["bytes_received"],
            ),
            of_sites(
                "sent_bytes_total",
                "counter",
                "Bytes of models sent to the site.",
                lambda site: site["bytes_sent"],
            ),
            each(
                "refusals_total",
                "counter",
                "Updates, models and logins that were refused; of logins, those that the log "
                "counts (the 1st, 10th, 100th of a kind).",
                "kind",
                statistics.refusals,
            ),
            each(
                "phase_seconds_total",
                "counter",
                "Seconds that went into a phase; uploads and downloads overlap.",
                "phase",
                statistics.seconds,
            ),
            gauge("transfers", "Transfers of models that hold a slot.", held),
            gauge("waiting_transfers", "Transfers of models that wait for a slot.", waiting),
            gauge("model_bytes", "Size of one model.", status["model_bytes"]),
            gauge("disk_free_bytes", "Free space of the store's disk.", status["disk_free_bytes"]),
            gauge(
                "peak_memory_bytes",
                "Peak resident memory of the server.",
                process_memory.peak_bytes(),
            ),
            gauge("audit_lines", "Lines of the run's log.", status["audit"]["lines"]),
        ]

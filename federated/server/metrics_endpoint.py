"""Serves metrics to Prometheus by means of the package prometheus-client (extra [metrics])."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from absl import logging

from federated.connections import http_server
from federated.server.server_metrics import Metric
from federated.wire import addresses

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment  # Python 3.11

_WHAT, _PATH = "metrics", "/metrics"
_REMEDY = (
    "stop the program that has it (`ss -ltnp` names it), or choose another --metrics_port or "
    "--metrics_host"
)


def require(host: str, port: int) -> None:
    """Checks what `serving` needs, so that a server can refuse before it opens its store.

    Raises:
      ValueError: if prometheus-client is not installed; the message names the extra.
      PortInUse: if the address or port cannot be used.
    """
    try:
        import prometheus_client  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(
            "a metrics port is given, but the package prometheus-client is not installed here; "
            "install the extra [metrics] (pip install '.[metrics]'), or omit --metrics_port"
        ) from error
    http_server.require_free(host, port, what=_WHAT, remedy=_REMEDY)


@contextlib.contextmanager
def serving(collect: Callable[[], list[Metric]], host: str, port: int) -> Iterator[int]:
    """Answers http://host:port/metrics while the block runs; yields the port.

    Besides the metrics that `collect` returns, it shows those that prometheus-client provides for
    this process (resident memory, processor time, open files).

    Args:
      collect: called for every request.
      host: the address to listen on.
      port: the port to listen on; 0 takes any free one.
    Raises:
      PortInUse: if the address or port cannot be used.
    """
    import prometheus_client

    registry = prometheus_client.CollectorRegistry()
    registry.register(_Collector(collect))
    prometheus_client.ProcessCollector(registry=registry)
    app = _only_metrics(prometheus_client.make_wsgi_app(registry))
    with http_server.answering(app, host, port, what=_WHAT, remedy=_REMEDY) as bound:
        logging.info("event=metrics host=%s port=%d", host, bound)
        if not addresses.is_loopback(host):
            logging.warning(
                "event=metrics_open host=%s: anyone who can reach port %d reads the metrics; let a "
                "firewall admit only the Prometheus server",
                host,
                bound,
            )
        yield bound


def _only_metrics(app: WSGIApplication) -> WSGIApplication:
    """Returns `app` for requests to read /metrics; all others get an error."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != _PATH:
            status, headers = "404 Not Found", []
        elif environ["REQUEST_METHOD"] != "GET":
            status, headers = "405 Method Not Allowed", [("Allow", "GET")]
        else:
            return app(environ, start_response)
        start_response(status, [("Content-Type", "text/plain"), *headers])
        return [f"read the metrics at {_PATH}\n".encode("ascii")]

    return answer


class _Collector:
    """The collector from which a registry of prometheus-client gets the metrics."""

    def __init__(self, collect: Callable[[], list[Metric]]):
        self._collect = collect

    def describe(self) -> list[Any]:
        return []  # otherwise the registry would collect once to learn the names

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for metric in self._collect():
            family = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            written = family(metric.name, metric.help, labels=list(metric.labels))
            for labels, value in metric.samples.items():
                written.add_metric(list(labels), value)
            yield written

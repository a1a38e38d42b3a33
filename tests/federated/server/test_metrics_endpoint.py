"""The Prometheus endpoint, with the package that writes it and with a stand-in where it is absent."""

import contextlib
import sys
import types
import urllib.error
import urllib.request

import pytest

from federated import errors
from federated.connections import http_server
from federated.server import metrics_endpoint
from federated.server.server_metrics import Metric
from tests.federated import toy
from tests.federated.connections.test_http_server import (
    connect,  # noqa: F401 - fixture
    descriptors,
    is_closed,
)


class Family:
    """A metric of the stand-in."""

    def __init__(self, name, documentation, labels=()):
        self.name, self.labels, self.samples = name, labels, []

    def add_metric(self, labels, value):
        names = ",".join(f'{label}="{of}"' for label, of in zip(self.labels, labels, strict=True))
        self.samples.append(f"{self.name}{{{names}}} {value}" if names else f"{self.name} {value}")


class Counter(Family):
    kind = "counter"


class Gauge(Family):
    kind = "gauge"


class Registry(list):
    register = list.append


class Process:
    """Metrics of this process."""

    def __init__(self, registry):
        registry.register(self)

    def collect(self):
        memory = Gauge("process_resident_memory_bytes", "")
        memory.add_metric([], 1.0)
        yield memory


def make_wsgi_app(registry):
    def answer(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        for family in (family for source in registry for family in source.collect()):
            lines = [f"# TYPE {family.name} {family.kind}", *family.samples, ""]
            yield "\n".join(lines).encode()

    return answer


@pytest.fixture
def prometheus():
    return pytest.importorskip(
        "prometheus_client",
        reason="prometheus-client, the package of the extra [metrics], is not installed",
    )


@pytest.fixture(params=["stand-in", "prometheus-client"])
def package(request, monkeypatch):
    if request.param == "prometheus-client":
        request.getfixturevalue("prometheus")
        return
    core = types.ModuleType("prometheus_client.core")
    core.CounterMetricFamily, core.GaugeMetricFamily = Counter, Gauge
    client = types.ModuleType("prometheus_client")
    client.CollectorRegistry, client.ProcessCollector = Registry, Process
    client.make_wsgi_app, client.core = make_wsgi_app, core
    monkeypatch.setitem(sys.modules, "prometheus_client", client)
    monkeypatch.setitem(sys.modules, "prometheus_client.core", core)


def page(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as reply:
        return reply.read().decode("utf-8").splitlines()


def test_every_request_gets_the_metrics_as_they_are_then(package):
    updates = {("C1",): 3.0, ("C2",): 0.0}

    def collect():
        return [
            Metric("toy_updates_total", "counter", "Updates.", ("site",), dict(updates)),
            Metric("toy_share", "gauge", "A share.", (), {(): 0.25}),
        ]

    metrics_endpoint.require("127.0.0.1", 0)
    with metrics_endpoint.serving(collect, "127.0.0.1", 0) as port:
        first = page(port)
        updates["C2",] = 2.0
        second = page(port)
    for read, of_second in ((first, "0.0"), (second, "2.0")):
        assert {
            "# TYPE toy_updates_total counter",
            'toy_updates_total{site="C1"} 3.0',
            f'toy_updates_total{{site="C2"}} {of_second}',
            "# TYPE toy_share gauge",
            "toy_share 0.25",
        } <= set(read)
        assert any(line.startswith("process_resident_memory_bytes ") for line in read)


def test_a_port_in_use_is_named_and_free_once_the_block_ends_even_by_an_error(package):
    with (
        pytest.raises(RuntimeError, match="of the server"),
        metrics_endpoint.serving(list, "127.0.0.1", 0) as port,
    ):
        second = metrics_endpoint.serving(list, "127.0.0.1", port)
        with (
            pytest.raises(errors.PortInUse, match=rf"port {port} of 127\.0\.0\.1 \(.*in use"),
            second,
        ):
            pass
        assert page(port)  # the first one goes on
        raise RuntimeError("of the server")
    with metrics_endpoint.serving(list, "127.0.0.1", port) as again:
        assert again == port


def test_without_the_package_the_server_does_not_start_and_names_the_extra(monkeypatch, serving):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ValueError, match=r"pip install '\.\[metrics\]'"):
        serving(metrics=("127.0.0.1", 0))


def test_a_port_in_use_is_refused_before_the_store_is_opened(package, serving, tmp_path):
    with metrics_endpoint.serving(list, "127.0.0.1", 0) as port:
        with pytest.raises(errors.PortInUse, match=f"metrics cannot be served on port {port} of"):
            serving(metrics=("127.0.0.1", port))
        assert not list(tmp_path.rglob("events.jsonl"))


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/", "GET", 404),
        ("/metrics/x", "GET", 404),
        ("/metrics", "POST", 405),
        ("/metrics", "HEAD", 405),
    ],
)
def test_nothing_but_reading_the_metrics_is_answered(package, path, method, status):
    def collect():
        raise AssertionError("collected")

    with metrics_endpoint.serving(collect, "127.0.0.1", 0) as port:
        asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(asked, timeout=30)
    with refused.value as reply:
        assert reply.code == status and reply.headers["Allow"] == ("GET" if status == 405 else None)
        assert reply.read() == (b"" if method == "HEAD" else b"read the metrics at /metrics\n")


def test_a_server_over_tls_serves_its_metrics_while_it_runs(
    package, serving, take_part, monkeypatch
):
    seen, ports, begin = [], [], metrics_endpoint.serving

    @contextlib.contextmanager
    def noted(*given):
        with begin(*given) as port:
            ports.append(port)
            yield port

    monkeypatch.setattr(metrics_endpoint, "serving", noted)
    running = serving(metrics=("127.0.0.1", 0))
    trainers = {
        "C1": toy.ToyTrainer("C1", on_train=lambda round_number: seen.append(page(ports[0]))),
        "C2": toy.ToyTrainer("C2"),
    }
    take_part({site: running.connect(site) for site in trainers}, trainers)
    running.join()
    assert len(seen) == 3 and "federation_completed_rounds 2.0" in seen[-1]
    assert 'federation_site_state{site="C1",state="training"} 1.0' in seen[-1]
    with pytest.raises(OSError):
        page(ports[0])


@pytest.mark.parametrize(("host", "warnings"), [("127.0.0.1", 0), ("0.0.0.0", 1)])
def test_an_address_that_others_reach_is_a_warning(package, monkeypatch, host, warnings):
    warned = []
    monkeypatch.setattr(metrics_endpoint.logging, "warning", lambda text, *_: warned.append(text))
    with metrics_endpoint.serving(list, host, 0) as port:
        assert page(port)
        with pytest.raises(errors.PortInUse, match="--metrics_port or --metrics_host"):
            metrics_endpoint.serving(list, host, port).__enter__()
    assert len(warned) == warnings


def test_a_run_goes_on_while_its_metrics_are_flooded(
    package,
    serving,
    take_part,
    connect,  # noqa: F811
    monkeypatch,
):
    """Idle connections do not take descriptors that the sites or the store need.

    Anyone who can reach the port may open any number of them.
    """
    ports, flood, held, begin = [], [], [], metrics_endpoint.serving

    @contextlib.contextmanager
    def noted(*given):
        with begin(*given) as port:
            ports.append(port)
            yield port

    def attack(round_number):
        before = descriptors()
        flood.extend(connect(ports[0]) for _ in range(100))
        turned_away = [is_closed(connection) for connection in flood[-80:]]
        held.append((descriptors() - before - 100, all(turned_away)))

    monkeypatch.setattr(metrics_endpoint, "serving", noted)
    running = serving(metrics=("127.0.0.1", 0))
    trainers = {"C1": toy.ToyTrainer("C1", on_train=attack), "C2": toy.ToyTrainer("C2")}
    take_part({site: running.connect(site) for site in trainers}, trainers)
    assert running.join().finished
    # At most its places, and what the sites' own calls take meanwhile.
    assert len(held) == 3 and all(away for _, away in held)
    assert all(more <= http_server.PLACES + 20 for more, _ in held), held

import copy
import inspect
import pathlib
import re
import urllib.request

import pytest

from federated import errors
from federated.audit.log import AuditLog
from federated.connections.transfer_queue import TransferQueue
from federated.server import metrics_endpoint, orders, overview, server_metrics
from federated.server.run_statistics import RunStatistics
from runkit.events import EventLog
from tests.federated import toy
from tests.federated.server.test_coordinator import Site

# Prometheus: letters, digits and _; a unit at the end; _total at the end of a counter only.
NAME = re.compile(r"federation(_[a-z]+)+")
PAGE = pathlib.Path(__file__).parents[3] / "docs" / "monitoring.md"


@pytest.fixture
def measured(opened, tmp_path):
    """A run after one round, with the numbers that its sites reported."""
    run = opened()
    for site in ("C1", "C2"):
        Site(run, site).push(1)
        run.lead.report_scores(site, 0, {"dice": 0.8125})
    with pytest.raises(errors.PlanDiffers):
        run.lead.login("C3", "secret of C3", {"spacing_mm": 1}, 5)
    run.lead.advance()
    queue = TransferQueue(1)
    statistics = RunStatistics(EventLog(run.folder / "events.jsonl").read())
    watched = overview.Overview(
        run.lead.orders, AuditLog(tmp_path / "log.jsonl"), statistics, run.folder
    )
    return run, server_metrics.ServerMetrics(watched.status, statistics, queue.load), queue


def values(source):
    return {metric.name: dict(metric.samples) for metric in source.collect()}


def test_metrics_tell_rounds_sites_bytes_refusals_and_phases(measured):
    run, source, _ = measured
    found = values(source)
    assert found["federation_completed_rounds"] == {(): 1.0}
    assert found["federation_planned_rounds"] == {(): 3.0}
    assert found["federation_phase"] == {
        ("evaluation",): 0.0, ("finished",): 0.0, ("paused",): 0.0, ("rounds",): 1.0
    }  # fmt: skip
    assert found["federation_info"] == {(run.store.run_id, found_release(found), "fedavg"): 1.0}
    size = sum(array.nbytes for array in toy.INITIAL.values())
    for site in ("C1", "C2"):
        assert found["federation_updates_total"][site,] == 1.0
        assert found["federation_received_bytes_total"][site,] == size
        states = {
            state: value
            for (of, state), value in found["federation_site_state"].items()
            if of == site
        }
        assert states.pop("training") == 1.0 and set(states.values()) == {0.0}
    assert found["federation_refusals_total"] == {("PlanDiffers",): 1.0}
    assert set(found["federation_phase_seconds_total"]) >= {
        ("aggregation",),
        ("collection",),
        ("upload",),
    }
    assert found["federation_peak_memory_bytes"][()] > 1e6
    assert found["federation_disk_free_bytes"][()] > 0


def found_release(found):
    ((_, release, _),) = found["federation_info"]
    return release


def test_transfers_are_counted_with_those_that_wait(measured):
    _, source, queue = measured
    with queue.slot(name="C1"):
        found = values(source)
        assert (found["federation_transfers"], found["federation_waiting_transfers"]) == (
            {(): 1.0},
            {(): 0.0},
        )
    assert values(source)["federation_transfers"] == {(): 0.0}


def test_names_follow_the_conventions(measured):
    _, source, _ = measured
    found = source.collect()
    assert len({metric.name for metric in found}) == len(found)
    for metric in found:
        assert NAME.fullmatch(metric.name), metric.name
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert metric.help[0].isupper() or metric.help[0].isdigit()
        assert metric.help.endswith("."), metric.name
        assert all(len(labels) == len(metric.labels) for labels in metric.samples)
        for word in ("bytes", "seconds"):
            if word in metric.name:
                assert metric.name.removesuffix("_total").endswith(word)


def test_what_only_the_operator_should_see_changes_no_metric(measured):
    run, source, queue = measured
    status = source._status()

    def shown(status):
        found = values(server_metrics.ServerMetrics(lambda: status, source._statistics, queue.load))
        return {name: samples for name, samples in found.items() if "memory" not in name}

    secret = copy.deepcopy(status)
    for site in secret["sites"].values():
        site.update(num_examples=77, labels={"tumour": "absent"}, doing="/data/patient")
        site["scores"] = {"0": {"dice": 0.25}}
    secret["rounds"] = [{**entry, "mean": 0.25, "worst": 0.25} for entry in secret["rounds"]]
    secret.update(best_round=1, warnings=[f"{run.folder} is full" for _ in status["warnings"]])
    secret["audit"] = {**status["audit"], "head": "f" * 64}
    assert shown(secret) == shown(status)
    assert not any(
        "/" in text for samples in shown(status).values() for key in samples for text in key
    )
    names = {label for metric in source.collect() for label in metric.labels}
    assert names == {"run", "release", "aggregation", "phase", "site", "state", "kind"}


def test_every_state_of_a_site_and_every_phase_is_known():
    written = inspect.getsource(orders.Orders._state_of)
    assert set(re.findall(r'"(\w+)"', written)) == set(server_metrics.STATES)
    written = inspect.getsource(orders.Orders.status)
    assert set(re.findall(r'(?:else|\"phase\":) "(\w+)"', written)) == set(server_metrics.PHASES)


def test_the_page_lists_every_metric_and_its_alarms_see_the_first_event(opened, tmp_path):
    run = opened()
    statistics = RunStatistics(EventLog(run.folder / "events.jsonl").read())
    watched = overview.Overview(
        run.lead.orders, AuditLog(tmp_path / "log.jsonl"), statistics, run.folder
    )
    source = server_metrics.ServerMetrics(watched.status, statistics, TransferQueue(1).load)
    page = PAGE.read_text(encoding="utf-8")
    table, _, alarms = page.partition("## Alarms")
    found = {metric.name: metric for metric in source.collect()}
    assert set(re.findall(r"`(federation_\w+)", table)) == set(found)
    assert set(re.findall(r"federation_\w+", alarms)) <= set(found)
    # `increase` counts from the first value of a series on, so it misses the event that begins one.
    increasing = re.findall(r"increase\((\w+)\[(\w+)\]\)", alarms)
    assert increasing
    for name, time in increasing:
        assert found[name].samples or f"or ({name} unless {name} offset {time})" in alarms


def test_prometheus_reads_the_same_values(measured):
    parser = pytest.importorskip(
        "prometheus_client.parser",
        reason="prometheus-client, the package of the extra [metrics], is not installed",
    )
    _, source, _ = measured
    with (
        metrics_endpoint.serving(source.collect, "127.0.0.1", 0) as port,
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as reply,
    ):
        text = reply.read().decode("utf-8")
    read = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }
    for metric in source.collect():
        for labels, value in metric.samples.items():
            given = tuple(sorted(zip(metric.labels, labels, strict=True)))
            if metric.kind == "counter" or metric.name in (
                "federation_completed_rounds",
                "federation_site_state",
            ):
                assert read[metric.name, given] == value
            assert (metric.name, given) in read
    assert any(name == "process_resident_memory_bytes" for name, _ in read)

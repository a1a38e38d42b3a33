"""A server writes the lines that `log_lines` declares for readers."""

import json
import types
from typing import Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

import pytest

from federated import errors
from federated.audit import backfill
from federated.audit.log import AuditLog
from federated.rounds.log_lines import LogLine
from federated.tensors import tensor_files
from tests.federated import toy
from tests.federated.server.test_coordinator import Site

LINES = {
    event: line for line in get_args(LogLine) for event in get_args(get_type_hints(line)["event"])
}


def fits(value, hint):
    """Returns whether a JSON value is of an annotated type, all the way down."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if isinstance(hint, types.UnionType):
        return any(fits(value, option) for option in get_args(hint))
    if get_origin(hint) is dict:
        key, inner = get_args(hint)
        return isinstance(value, dict) and all(
            fits(name, key) and fits(entry, inner) for name, entry in value.items()
        )
    if get_origin(hint) is list:
        (inner,) = get_args(hint)
        return isinstance(value, list) and all(fits(entry, inner) for entry in value)
    if is_typeddict(hint):
        return value.keys() == hint.__annotations__.keys() and all(
            fits(value[key], inner) for key, inner in get_type_hints(hint).items()
        )
    return hint is Any or isinstance(value, (int, float) if hint is float else hint)


def as_declared(record):
    """Asserts that a record has every key that its kind of line always has, and types that fit."""
    line = LINES[record["event"]]
    assert line.__required_keys__ <= record.keys(), record
    for key, hint in get_type_hints(line).items():
        assert key not in record or fits(record[key], hint), (record, key)


@pytest.fixture
def written(opened):
    """The lines of a run in which everything happens, by kind."""
    run = opened(num_rounds=2, transport="half")
    sites = first, second = Site(run, "C1"), Site(run, "C2")
    with pytest.raises(errors.UpdateRefused):
        second.push(1, float("nan"))
    for number in (1, 1, 2):  # the first round twice
        for site in sites:
            site.push(number, float(number))
            run.lead.report_scores(site.name, number - 1, {"dice": 0.25 * number})
        run.lead.note_pulled("C1", "round_000", nbytes=100, seconds=0.5)
        run.lead.advance()
        if number == 1 and run.store.discarded == 0:
            run.lead.orders.discard_round(1)
    for site in sites:
        run.lead.report_scores(site.name, 2, {"dice": 0.5})
        site.publish(f"{site.name}_baseline")
        run.lead.declare_models(site.name, [f"{site.name}_baseline"])
    run.lead.advance()
    run.lead.orders.evict("C2")
    run.lead.orders.readmit("C2")
    run.lead.submit_rows("C1", [first.row()])
    run.lead.orders.evict("C2")
    run.lead.advance()
    assert first.task().kind == "finished"
    records = [json.loads(line) for line in (run.folder / "events.jsonl").open()]
    return {
        event: [record for record in records if record["event"] == event]
        for event in {record["event"] for record in records}
    }


def test_the_lines_of_a_run_are_as_declared(written):
    by_serve, elsewhere = {"started", "login_refused"}, {"log_continued", "given"}
    assert LINES.keys() - written.keys() == by_serve | elsewhere
    for event in LINES.keys() & written.keys():
        for record in written[event]:
            as_declared(record)
    # Keys that earlier releases lack are there in a line of today that a request wrote.
    for event in ("pushed", "aggregated", "published", "models_fixed", "rows", "round_discarded"):
        chained = {"line", "previous", "hash", "backfilled"}
        absent = LINES[event].__optional_keys__ - written[event][-1].keys() - chained
        # FedAvg keeps no state, and the updates are not masked.
        assert absent <= {"rule_state_sha256", "secure_aggregation"}, event


def test_the_line_that_begins_a_segment_is_as_declared(tmp_path):
    log = AuditLog(tmp_path / "events.jsonl", segment_bytes=1, keep_segments=1)
    for _ in range(4):
        log.append("round_opened", round=1)
    segments = [record for record in log.read() if record["event"] == "log_continued"]
    assert [record["segment"] for record in segments] == [3, 4]
    for record in segments:
        as_declared(record)
        assert record["removed"]["segments"] == record["segment"] - 2


def test_the_line_of_a_given_model_is_as_declared(opened, tmp_path):
    model = tmp_path / "other.safetensors"
    sha256 = tensor_files.save(model, toy.INITIAL)
    run = opened(models={"other": model}, num_rounds=0)
    log = AuditLog(run.folder / "events.jsonl")
    backfill.complete(log, run.store)
    (record,) = [record for record in log.read() if record["event"] == "given"]
    as_declared(record)
    assert (record["model"], record["sha256"]) == ("other", sha256)

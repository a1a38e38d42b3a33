import dataclasses
import json
import math

import numpy as np
import pytest

from federated import errors
from federated.admin import client as admin_client
from federated.wire import operation_pb2, replies
from federated.wire import weight_exchange_pb2 as pb
from federated.wire.messages import Receipt
from tests.federated import fake_server
from tests.federated.fake_server import UNPRINTABLE
from tests.federated.manifests import manifest_of


@pytest.fixture
def fake(tmp_path):
    return fake_server.FakeServer(tmp_path)


@pytest.fixture
def operator(fake, kits):
    with fake_server.serving(fake, kits / "server") as port:
        kit = admin_client.Kit.read(kits / "operator", host="localhost", port=port)
        with admin_client.AdminClient(kit) as client_:
            yield client_


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "[" * 100_000,
        "{",
        '{"run": 1}',
        json.dumps({"run": UNPRINTABLE}),
        '{"a": 1e999}',
        '{"a": NaN}',
        '{"a": ' + "9" * 5000 + "}",
        '{"a": ' + "9" * 400 + "}",  # more than any float
        *('{"a": ' + "[" * depth + "]" * depth + "}" for depth in (200, 600, 900)),
        *('{"a":' * depth + "1" + "}" * depth for depth in (200, 600, 900)),
    ],
)
def test_a_malformed_status_is_refused(fake, operator, text):
    fake.answers["Status"] = lambda request, context: operation_pb2.StatusReply(status_json=text)
    with pytest.raises(errors.ServerMisbehaves) as caught:
        operator.status()
    assert str(caught.value).isprintable()


def test_the_texts_of_an_answer_are_printable(fake, operator):
    fake.answers["Order"] = lambda request, context: operation_pb2.OrderReply(answer=UNPRINTABLE)
    assert operator.order("pause").isprintable()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("time", math.nan),
        ("time", 1e300),
        ("release", UNPRINTABLE),
        ("standing", UNPRINTABLE),
        ("model_bytes", -1),
        ("plan_json", "[]"),
        ("plan_json", "[" * 100_000),
        ("plan_json", '{"a": 1e999}'),
        *(("plan_json", '{"a":' * depth + "1" + "}" * depth) for depth in (200, 600, 900)),
        ("log_head", UNPRINTABLE),
        ("log_lines", -1),
    ],
)
def test_a_probe_out_of_range_is_refused(fake, operator, field, value):
    def probe(request, context):
        reply = fake._probe(request, context)
        setattr(reply, field, value)
        return reply

    fake.answers["Probe"] = probe
    with pytest.raises(errors.ServerMisbehaves) as caught:
        operator.probe()
    assert str(caught.value).isprintable()


def test_a_reply_beyond_its_limit_is_not_decoded():
    data = pb.Task(kind="wait").SerializeToString()
    assert replies.read(data, pb.Task, limit=len(data)).kind == "wait"
    with pytest.raises(errors.ServerMisbehaves, match=f"{len(data)} bytes where a Task has at mo"):
        replies.read(data, pb.Task, limit=len(data) - 1)
    with pytest.raises(errors.ServerMisbehaves, match="not a Task"):
        replies.read(b"\xff" * 10, pb.Task)


def test_a_receipt_counts_only_for_the_very_model_that_was_sent():
    good = Receipt("C1", "round_001", "a" * 64)
    sent = {"site": "C1", "what": "round_001", "sha256": "a" * 64}
    assert replies.check_receipt(good, **sent) is good
    for field, other in (("site", "C2"), ("what", "round_002"), ("sha256", "b" * 64)):
        with pytest.raises(errors.ServerMisbehaves, match="gives a receipt for"):
            replies.check_receipt(dataclasses.replace(good, **{field: other}), **sent)


def test_a_model_of_other_tensors_is_not_this_sites():
    found = manifest_of({"w": np.zeros((2, 3), np.float32)})
    replies.check_specs(found, model="round_000", specs=found.specs)
    other = manifest_of({"w": np.zeros((3, 2), np.float32)})
    with pytest.raises(errors.ServerMisbehaves, match="as this site's network is not") as caught:
        replies.check_specs(found, model="round_000", specs=other.specs)
    assert [(reason.tensor, reason.kind) for reason in caught.value.reasons] == [("w", "differs")]


SITE = {
    "state": "training", "num_examples": 30, "seconds_since_heard": 1.5, "bytes_received": 0,
    "bytes_sent": 0, "scores": {"1": {"dice": 0.5}}, "updates": 1, "refused": 0, "doing": None,
    "labels": {"tumour": "absent"}, "last_round": 1,
}  # fmt: skip
ROUND = {"round": 1, "sites": {"C1": 30}, "seconds": None, "bytes": 10, "mean": 0.5, "worst": None}
SUM = {"exchange": 1, "phase": "mask", "done": ["C1"], "awaited": ["C2"], "needed": 2}
STATUS = {
    "run": "r", "phase": "rounds", "paused": False, "finished": False, "rounds_done": 1,
    "num_rounds": 3, "open_round": 2, "attempt": 1, "updates": ["C1"], "min_num_clients": 1,
    "max_num_clients": 2, "best_round": None, "aggregation": "fedavg", "sites": {"C1": SITE},
    "rounds": [ROUND], "model_bytes": 1, "disk_free_bytes": 1.5, "release": "1", "warnings": [],
    "audit": {"lines": 1, "head": "0" * 64}, "sum": SUM,
}  # fmt: skip
PLACES = {
    "run": (STATUS, lambda changed: changed),
    "site": (SITE, lambda changed: {**STATUS, "sites": {"C1": changed}}),
    "round": (ROUND, lambda changed: {**STATUS, "rounds": [changed]}),
    "sum": (SUM, lambda changed: {**STATUS, "sum": changed}),
    "audit": (STATUS["audit"], lambda changed: {**STATUS, "audit": changed}),
}
# What an earlier release does not send.
NEW = {"paused", "max_num_clients", "aggregation", "labels", "last_round", "sum"}


def read_status(value):
    return replies.status(operation_pb2.StatusReply(status_json=json.dumps(value)))


def test_a_whole_status_arrives_as_it_was_sent():
    assert read_status(STATUS) == STATUS


@pytest.mark.parametrize(
    ("place", "key"), [(place, key) for place, (part, _) in PLACES.items() for key in part]
)
def test_a_key_of_a_status_must_have_its_type_and_must_be_there_unless_it_is_new(place, key):
    part, whole = PLACES[place]
    optional = part[key] is None or key in ("open_round", "attempt", "mean", "sum")
    wrong = [
        [] if isinstance(part[key], dict) else {},
        True if key not in ("paused", "finished") else 1,
    ]
    for value in [*wrong, *([] if optional else [None])]:
        with pytest.raises(errors.ServerMisbehaves, match=f"whose {key} is"):
            read_status(whole({**part, key: value}))
    if optional:
        read_status(whole({**part, key: None}))
    without = whole({name: value for name, value in part.items() if name != key})
    if key in NEW:
        assert read_status(without) == without
    else:
        with pytest.raises(errors.ServerMisbehaves, match=f"without its {key}"):
            read_status(without)


@pytest.mark.parametrize("value", [1.01e30, -1e31, 10**31])
def test_a_number_beyond_every_report_is_refused(value):
    with pytest.raises(errors.ServerMisbehaves, match="sends a status with the number"):
        read_status({**STATUS, "disk_free_bytes": value})


@pytest.mark.parametrize("key", ["done", "awaited"])
def test_the_sites_of_a_sum_are_names(key):
    with pytest.raises(errors.ServerMisbehaves, match=f"whose {key} 0 is 1"):
        read_status({**STATUS, "sum": {**SUM, key: [1]}})


def test_an_empty_table_and_unknown_keys_of_a_newer_release_are_fine():
    for changed in ({"sites": {}, "rounds": []}, {"of a newer release": [1, {"a": None}]}):
        assert read_status({**STATUS, **changed}) == {**STATUS, **changed}


@pytest.mark.parametrize(
    "change",
    [{"labels": {"tumour": 1}}, {"scores": {"x": {}}}, {"scores": {"1": {"dice": "high"}}}],
)
def test_what_a_site_is_said_to_show_and_to_score_is_checked_too(change):
    with pytest.raises(errors.ServerMisbehaves):
        read_status({**STATUS, "sites": {"C1": {**SITE, **change}}})

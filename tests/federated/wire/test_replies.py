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

"""Every field of every message has a bound: a value that its receiver refuses.

A new field of a .proto file fails these tests until a value that must be refused is listed for it
here, or a reason why any value is harmless.
"""

from __future__ import annotations

import copy
import json
import math
import pathlib
import re
import types
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from federated import errors
from federated.rounds import tasks
from federated.security.tls import Identity
from federated.site import grpc_transport
from federated.tensors import codec, tensor_files, weights
from federated.wire import conversion, operation_pb2, replies
from federated.wire import weight_exchange_pb2 as pb
from federated.wire.messages import PROTOCOL, Offer, SumPlace
from tests.federated import fake_server, manifests, masked_site, toy
from tests.federated.masked_site import MaskedSite

Change = Callable[[Any], object]

# Sent by a site or by the operator, refused by the server.
AT_SERVER: dict[str, Change] = {
    "LoginRequest.site": lambda m: setattr(m, "site", "C2"),
    "LoginRequest.plan_json": lambda m: setattr(m, "plan_json", "[]"),
    "LoginRequest.num_examples": lambda m: setattr(m, "num_examples", 0),
    "LoginRequest.protocol": lambda m: setattr(m, "protocol", PROTOCOL + 1),
    "LoginRequest.labels": lambda m: m.labels.update(pancreas="perhaps"),
    "LoginRequest.masking": lambda m: setattr(m, "masking", -1),
    "ModelName.model": lambda m: setattr(m, "model", "../round_000"),
    "PullRequest.model": lambda m: setattr(m, "model", "../round_000"),
    "PullRequest.sha256": lambda m: setattr(m, "sha256", "0" * 64),
    "PullRequest.chunks": lambda m: m.chunks.add(first=0, count=1),  # twice
    "Range.first": lambda m: setattr(m.chunks[0], "first", 2**32 - 1),
    "Range.count": lambda m: setattr(m.chunks[0], "count", 0),
    "ModelHeader.model": lambda m: setattr(m, "model", "../C1_baseline"),
    "ModelHeader.round": lambda m: setattr(m, "round", 2),
    "ModelHeader.num_examples": lambda m: setattr(m, "num_examples", 2**40),
    "ModelHeader.metrics": lambda m: m.metrics.update({"Doe, Jane": 1.0}),
    "ModelHeader.sha256": lambda m: setattr(m, "sha256", "0" * 64),
    "ModelHeader.tensors": lambda m: m.tensors.pop(),
    "ModelHeader.addresses": lambda m: setattr(m, "addresses", b""),
    "ModelHeader.discarded": lambda m: setattr(m, "discarded", 1),
    "TensorSpec.name": lambda m: setattr(m.tensors[0], "name", "../kernel"),
    "TensorSpec.dtype": lambda m: setattr(m.tensors[0], "dtype", "F64"),
    "TensorSpec.shape": lambda m: m.tensors[0].shape.append(2**40),
    "ModelPart.header": lambda parts: parts.append(parts[0]),
    "ModelPart.chunk": lambda parts: parts.pop(0),
    "Chunk.index": lambda parts: setattr(parts[1].chunk, "index", 7),
    "Chunk.data": lambda parts: setattr(parts[1].chunk, "data", b"too short"),
    "Chunk.encoding": lambda parts: setattr(parts[1].chunk, "encoding", 7),
    "Scores.model": lambda m: setattr(m, "model", 99),
    "Scores.values": lambda m: m.values.update(dice=math.inf),
    "Scores.sha256": lambda m: setattr(m, "sha256", "0" * 64),
    "Models.names": lambda m: m.names.append("C1_never_sent"),
    "Row.model": lambda m: setattr(m, "model", "another"),
    "Row.site": lambda m: setattr(m, "site", "C2"),
    "Row.case": lambda m: setattr(m, "case", 19700101),
    "Row.grid": lambda m: setattr(m, "grid", "Doe, Jane"),
    "Row.class_name": lambda m: setattr(m, "class_name", "Doe, Jane"),
    "Row.numbers": lambda m: m.numbers.update(dice_tumour=2.0),
    "Row.absent": lambda m: m.absent.append("born_19700101"),
    "OrderRequest.kind": lambda m: setattr(m, "kind", "reboot"),
    "OrderRequest.site": lambda m: setattr(m, "site", "../C1"),
    "OrderRequest.round": lambda m: (setattr(m, "kind", "discard_round"), setattr(m, "round", 99)),
}

# The same in a run with secure aggregation: the phase in which it is sent, and the change.
AT_SERVER_OF_SUMS: dict[str, tuple[str, Change]] = {
    "SumName.discarded": ("keys", lambda m: setattr(m.name, "discarded", 7)),
    "SumName.round": ("keys", lambda m: setattr(m.name, "round", 2)),
    "SumName.exchange": ("keys", lambda m: setattr(m.name, "exchange", 2)),
    "SumPart.name": ("keys", lambda m: m.ClearField("name")),
    "SumPart.phase": ("keys", lambda m: setattr(m, "phase", "../keys")),
    "SumPart.keys": ("keys", lambda m: m.ClearField("keys")),
    "SumKey.site": ("keys", lambda m: setattr(m.keys, "site", "C2")),
    "SumKey.sealing_key": ("keys", lambda m: setattr(m.keys, "sealing_key", b"short")),
    "SumKey.masking_key": ("keys", lambda m: setattr(m.keys, "masking_key", bytes(32))),
    "SumKey.certificate": ("keys", lambda m: setattr(m.keys, "certificate", bytes(5000))),
    "SumKey.signature": ("keys", lambda m: setattr(m.keys, "signature", b"")),
    "SumPart.commitment": ("share", lambda m: setattr(m, "commitment", b"short")),
    "SumPart.shares": ("share", lambda m: m.shares.pop()),
    "SumShare.site": ("share", lambda m: setattr(m.shares[0], "site", "../C2")),
    "SumShare.data": ("share", lambda m: setattr(m.shares[0], "data", bytes(10_000))),
    "SumPart.consent": ("consent", lambda m: setattr(m, "consent", bytes(70))),
    "SumPart.self_masks": ("reveal", lambda m: setattr(m.self_masks[0], "data", b"short")),
    "SumPart.mask_keys": ("reveal", lambda m: m.mask_keys.add(site="C2", data=bytes(66))),
    "SumQuestion.name": ("ask", lambda m: m.ClearField("name")),
    "SumQuestion.phase": ("ask", lambda m: setattr(m, "phase", "reveal")),
}

# Sent by a server, refused by the site or by the operator's programs.
AT_SITE: dict[str, Change] = {
    "LoginReply.token": lambda m: setattr(m, "token", "short"),
    "LoginReply.expires_at": lambda m: setattr(m, "expires_at", math.nan),
    "LoginReply.run": lambda m: setattr(m, "run", "../run"),
    "LoginReply.plan_fingerprint": lambda m: setattr(m, "plan_fingerprint", "F" * 64),
    "LoginReply.num_rounds": lambda m: setattr(m, "num_rounds", 2**31 - 1),
    "LoginReply.local_epochs": lambda m: setattr(m, "local_epochs", 0),
    "LoginReply.poll_s": lambda m: setattr(m, "poll_s", 1e-300),
    "LoginReply.heart_beat_s": lambda m: setattr(m, "heart_beat_s", 1e308),
    "LoginReply.transport": lambda m: setattr(m, "transport", "pickle"),
    "LoginReply.sums": lambda m: m.sums.SetInParent(),
    "SumRules.threshold": lambda m: m.sums.MergeFrom(_rules(threshold=2**32 - 1)),
    "SumRules.max_sites": lambda m: m.sums.MergeFrom(_rules(max_sites=2**32 - 1)),
    "SumRules.value_range": lambda m: m.sums.MergeFrom(_rules(value_range=math.nan)),
    "SumRules.fraction_bits": lambda m: m.sums.MergeFrom(_rules(fraction_bits=65)),
    "Task.exchange": lambda m: setattr(m, "exchange", 10**6),
    "SumReply.keys": lambda m: m.keys.extend([m.keys[0]] * 300),
    "SumReply.shares": lambda m: m.shares.append(m.shares[0]),
    "SumReply.survivors": lambda m: m.survivors.append("../C1"),
    "SumReply.dropped": lambda m: m.dropped.append("C" * 65),
    "SumReply.consents": lambda m: m.consents.append(m.consents[0]),
    "SumKey.site": lambda m: setattr(m.keys[0], "site", "\x1b[2J"),
    "SumKey.sealing_key": lambda m: setattr(m.keys[0], "sealing_key", bytes(5000)),
    "SumKey.masking_key": lambda m: setattr(m.keys[0], "masking_key", b""),
    "SumKey.certificate": lambda m: setattr(m.keys[0], "certificate", bytes(5000)),
    "SumKey.signature": lambda m: setattr(m.keys[0], "signature", b""),
    "SumShare.site": lambda m: setattr(m.shares[0], "site", "C1\n"),
    "SumShare.data": lambda m: setattr(m.shares[0], "data", b""),
    "Task.kind": lambda m: setattr(m, "kind", "\x1b[2J"),
    "Task.round": lambda m: setattr(m, "round", 4),
    "Task.model": lambda m: setattr(m, "model", "../label"),
    "Task.models": lambda m: m.models.append("../label"),
    "Task.discarded": lambda m: setattr(m, "discarded", tasks.MAX_DISCARDED + 1),
    "ModelHeader.model": lambda m: setattr(m, "model", "round_001"),
    "ModelHeader.sha256": lambda m: setattr(m, "sha256", "0" * 64),
    "ModelHeader.tensors": lambda m: m.tensors.pop(),
    "ModelHeader.addresses": lambda m: setattr(m, "addresses", b""),
    "TensorSpec.name": lambda m: setattr(m.tensors[0], "name", "../kernel"),
    "TensorSpec.dtype": lambda m: setattr(m.tensors[0], "dtype", "F64"),
    "TensorSpec.shape": lambda m: m.tensors[0].shape.append(2**40),
    "Chunk.index": lambda m: setattr(m, "index", 7),
    "Chunk.data": lambda m: setattr(m, "data", b"too short"),
    "Chunk.encoding": lambda m: setattr(m, "encoding", 7),
    "OfferReply.receipt": lambda m: m.receipt.Clear(),
    "OfferReply.trained_from": lambda m: setattr(m, "trained_from", "../round_000"),
    "OfferReply.missing": lambda m: (m.ClearField("receipt"), m.missing.add(first=7, count=1)),
    "Range.first": lambda m: (m.ClearField("receipt"), m.missing.add(first=2**32 - 1, count=1)),
    "Range.count": lambda m: (m.ClearField("receipt"), m.missing.add(first=0, count=0)),
    "Receipt.site": lambda m: setattr(m.receipt, "site", "C2"),
    "Receipt.what": lambda m: setattr(m.receipt, "what", "round_002"),
    "Receipt.sha256": lambda m: setattr(m.receipt, "sha256", "0" * 64),
    "ProbeReply.time": lambda m: setattr(m, "time", math.nan),
    "ProbeReply.protocol": lambda m: setattr(m, "protocol", -1),
    "ProbeReply.release": lambda m: setattr(m, "release", "\x1b[2J"),
    "ProbeReply.standing": lambda m: setattr(m, "standing", "\x1b[2J"),
    "ProbeReply.model_bytes": lambda m: setattr(m, "model_bytes", -1),
    "ProbeReply.plan_json": lambda m: setattr(m, "plan_json", "[]"),
    "ProbeReply.log_lines": lambda m: setattr(m, "log_lines", -1),
    "ProbeReply.log_head": lambda m: setattr(m, "log_head", "head"),
    "StatusReply.status_json": lambda m: setattr(m, "status_json", '{"run": 1}'),
}


def _rules(**changed: Any) -> pb.SumRules:
    honest = {"threshold": 2, "max_sites": 3, "value_range": 64.0, "fraction_bits": 32}
    return pb.SumRules(**{**honest, **changed})


# Fields of which any value is harmless, and why.
HARMLESS = {
    "LoginReply.ends_with_scores": "true and false are both possible",
    "LoginReply.revocation": "a statement that the authority has not signed is passed over",
    "OrderReply.answer": "only shown: escaped, and cut at 2,000 characters",
    "ModelHeader.round": "a site reads it of no model that a server describes",
    "ModelHeader.num_examples": "likewise",
    "ModelHeader.metrics": "likewise",
    "ModelHeader.discarded": "likewise",
}


def fields(direction: str) -> set[str]:
    """Returns the fields, "Message.field", of all messages that go one way: "input" to a server."""
    found: set[str] = set()

    def add(message: Any) -> None:
        for field in message.fields:
            name = f"{message.name}.{field.name}"
            if name not in found:
                found.add(name)
                inner = field.message_type
                if inner is not None and not inner.GetOptions().map_entry:
                    add(inner)

    for file in (pb.DESCRIPTOR, operation_pb2.DESCRIPTOR):
        for service in file.services_by_name.values():
            for method in service.methods:
                add(getattr(method, f"{direction}_type"))
    return found


@pytest.mark.parametrize("module", [pb, operation_pb2], ids=lambda module: module.__name__)
def test_the_generated_code_has_the_fields_of_the_proto_file(module):
    path = pathlib.Path(module.__file__)
    stem = path.stem.removesuffix("_pb2")
    proto, stub = (
        path.with_name(name).read_text() for name in (f"{stem}.proto", f"{stem}_pb2.pyi")
    )
    written = {}
    for block in re.split(r"^message ", proto, flags=re.MULTILINE)[1:]:
        code = re.sub(r"//.*|reserved .*", "", block)
        name = code.partition(" ")[0]
        written[name] = {field: int(n) for field, n in re.findall(r"(\w+) = (\d+);", code)}
    messages = dict(module.DESCRIPTOR.message_types_by_name)
    assert written.keys() == messages.keys()
    for name, message in messages.items():
        assert {field.name: field.number for field in message.fields} == written[name]
        assert all(f"{field.name.upper()}_FIELD_NUMBER" in stub for field in message.fields)


def test_every_field_has_a_value_that_its_receiver_refuses():
    assert fields("input") == AT_SERVER.keys() | AT_SERVER_OF_SUMS.keys()
    assert fields("output") == AT_SITE.keys() | HARMLESS.keys()


# At the server: a run with one site. Before each honest message come the changed ones.


class Site:
    """Sends messages of C1 to a server as they stand, and checks which are refused."""

    def __init__(self, channel: grpc.Channel, kits: Any):
        self._channel, self._kits, self.refused = channel, kits, set()
        self.metadata = conversion.credential_metadata("C1", self._secret("C1"))

    def call(self, method: str, reply: Any, honest: Any, *names: str) -> list[Any]:
        """Returns the replies to an honest message, or list of messages.

        Before, the fields `names` are changed in copies of it, one at a time, and each copy must be
        refused.
        """
        for name in names:
            changed = copy.deepcopy(honest)
            change = AT_SERVER.get(name) or AT_SERVER_OF_SUMS[name][1]
            change(changed)
            with pytest.raises(grpc.RpcError) as caught:
                self._send(method, reply, changed)
            kind = dict(caught.value.trailing_metadata() or ()).get(conversion.ERROR_KEY, "")
            assert errors.by_name(str(kind)), f"{name}: {caught.value.details()}"
            self.refused.add(name)
        return self._send(method, reply, honest)

    def _send(self, method: str, reply: Any, sent: Any) -> list[Any]:
        messages = sent if isinstance(sent, list) else [sent]
        call = self._channel.stream_stream(
            method, request_serializer=lambda m: m.SerializeToString()
        )
        received = call(iter(messages), metadata=self.metadata, timeout=30)
        return [reply.FromString(data) for data in received]

    def _secret(self, name: str) -> str:
        return (self._kits / name / "credential").read_text().strip()


@pytest.fixture
def caller(serving, kits) -> Iterator[types.SimpleNamespace]:
    running = serving(
        num_rounds=1, min_num_clients=1, max_num_clients=1, wait_after_min_clients_s=0.0
    )
    with (
        grpc.secure_channel(
            f"localhost:{running.port}", Identity.of(kits / "C1", "site").for_client()
        ) as site,
        grpc.secure_channel(
            f"localhost:{running.port}", Identity.of(kits / "operator", "operator").for_client()
        ) as operator,
    ):
        secret = (kits / "operator" / "credential").read_text().strip()
        orders = Site(operator, kits)
        orders.metadata = conversion.credential_metadata("operator", secret)
        yield types.SimpleNamespace(site=Site(site, kits), operator=orders)


def named(*messages: str) -> list[str]:
    return [name for name in AT_SERVER if name.split(".")[0] in messages]


def test_a_server_refuses_them_and_the_run_goes_on(caller, tmp_path):
    exchange, site = "/weight_exchange.WeightExchange/", caller.site
    login = pb.LoginRequest(
        site="C1", plan_json=json.dumps(toy.PLAN), num_examples=30, protocol=PROTOCOL
    )
    (session,) = site.call(exchange + "Login", pb.LoginReply, login, *named("LoginRequest"))
    site.metadata = conversion.token_metadata(session.token)

    described = pb.ModelName(model="round_000")
    (header,) = site.call(exchange + "Describe", pb.ModelHeader, described, *named("ModelName"))
    pull = pb.PullRequest(model="round_000", sha256=header.sha256)
    pull.chunks.add(first=0, count=1)
    assert site.call(exchange + "Pull", pb.Chunk, pull, *named("PullRequest", "Range"))

    trained = {name: (array * np.float32(0.5)) for name, array in toy.INITIAL.items()}
    path = tmp_path / "update.safetensors"
    tensor_files.save(path, trained)
    offer = conversion.header_to_message(
        Offer(manifests.manifest_of(trained), 1, 30, metrics={"loss": 1.0}, discarded=0)
    )
    fields_of_offer = named("ModelHeader", "TensorSpec")
    (answer,) = site.call(exchange + "Offer", pb.OfferReply, offer, *fields_of_offer)
    assert answer.missing
    with tensor_files.TensorFile(path) as file:
        parts = [pb.ModelPart(header=offer)] + [
            pb.ModelPart(chunk=pb.Chunk(index=c.index, data=bytes(c.data), encoding=c.encoding))
            for c in codec.chunks(file)
        ]
    (receipt,) = site.call(exchange + "Send", pb.Receipt, parts, *named("ModelPart", "Chunk"))
    assert receipt.what == "round_001"

    (task,) = site.call(exchange + "NextTask", pb.Task, pb.TaskRequest())
    assert (task.kind, task.model) == ("score", "round_001")
    (header,) = site.call(exchange + "Describe", pb.ModelHeader, pb.ModelName(model=task.model))
    scores = pb.Scores(model=1, values={"dice": 0.5}, sha256=header.sha256)
    site.call(exchange + "ReportScores", pb.Acknowledgement, scores, *named("Scores"))
    site.call(exchange + "DeclareModels", pb.Acknowledgement, pb.Models(), *named("Models"))
    (task,) = site.call(exchange + "NextTask", pb.Task, pb.TaskRequest())
    assert task.kind == "evaluate"
    row = pb.Row(model=task.models[0], site="C1", case=1, grid="training")
    row.numbers["dice_pancreas"] = 0.5
    site.call(exchange + "SubmitRows", pb.Acknowledgement, row, *named("Row"))

    order = operation_pb2.OrderRequest(kind="evict", site="C1")
    operation = "/federation_operation.Operation/Order"
    caller.operator.call(operation, operation_pb2.OrderReply, order, *named("OrderRequest"))
    assert site.refused | caller.operator.refused == AT_SERVER.keys()


def test_a_server_with_secure_aggregation_refuses_them_and_the_run_goes_on(serving, kits, tmp_path):
    exchange = "/weight_exchange.WeightExchange/"
    running = serving(**{**masked_site.SETTINGS, "num_rounds": 1})
    transports = [running.connect(name) for name in ("C1", "C2", "C3")]
    sites = [MaskedSite(each.site, each, tmp_path / "sites") for each in transports]
    first = sites[0]
    identity = Identity.of(kits / "C1", "site")
    with grpc.secure_channel(f"localhost:{running.port}", identity.for_client()) as channel:
        raw = Site(channel, kits)
        raw.metadata = conversion.token_metadata(first.session.token)
        for kind in ("train", "share", "mask", "consent", "reveal"):
            for site in sites[1:]:
                while kind != "reveal" and site.do(only=kind) != kind:
                    pass
            while (task := first.task()).kind != kind:
                pass
            phase = "keys" if kind == "train" else kind
            place = SumPlace(0, 1, 1)
            names = [name for name, (when, _) in AT_SERVER_OF_SUMS.items() if when == phase]
            if kind == "mask":
                ask = conversion.sum_question_to_message("mask", place)
                asked = ("SumQuestion.name", "SumQuestion.phase")
                raw.call(exchange + "AskSum", pb.SumReply, ask, *asked)
                first.do(only="mask")
                continue
            if kind == "train":
                post = first.masking.keys(task, first.plain(1))
            else:
                post = first.masking.part(task, first.transport.ask_sum(kind, place))
            message = conversion.sum_post_to_message(post)
            raw.call(exchange + "PostSum", pb.Acknowledgement, message, *names)
        while sites[1].do(only="reveal") != "reveal":
            pass
        while first.task().kind != "score":
            pass
    assert raw.refused == AT_SERVER_OF_SUMS.keys()
    for transport in transports:
        transport.close()


# At a site and at the operator's programs: a server that changes one field of an honest reply.

_METHODS = {
    "LoginReply": "Login",
    "Task": "NextTask",
    "ModelHeader": "Describe",
    "TensorSpec": "Describe",
    "Chunk": "Pull",
    "OfferReply": "Offer",
    "Range": "Offer",
    "Receipt": "Offer",
    "SumRules": "Login",
    "SumReply": "AskSum",
    "SumKey": "AskSum",
    "SumShare": "AskSum",
}


@pytest.fixture
def site(tmp_path, kits) -> Iterator[types.SimpleNamespace]:
    """A fake server, and a function that asks it once for everything."""
    fake = fake_server.FakeServer(tmp_path)
    fake.repeat = pb.Task(kind="train", round=1, model="round_000")
    update = tmp_path / "update.safetensors"
    sha256 = tensor_files.save(update, toy.INITIAL)

    def ask() -> None:
        session = transport.login(toy.PLAN, 30)
        tasks.check_task(transport.next_task(), trained=0, num_rounds=session.num_rounds)
        transport.ask_sum("share", SumPlace(0, 1, 1))
        target = tmp_path / "incoming.safetensors"
        target.unlink(missing_ok=True)
        transport.pull("round_000", target, specs=weights.specs_of(toy.INITIAL))
        transport.push(update, sha256, round_number=1, num_examples=30, metrics={}, discarded=0)

    with fake_server.serving(fake, kits / "server") as port:
        transport = grpc_transport.connect(kits / "C1", host="localhost", port=port)
        yield types.SimpleNamespace(fake=fake, ask=ask)
        transport.close()


def test_a_site_refuses_them(site):
    for name in AT_SITE:
        method = _METHODS.get(name.split(".")[0])
        if method is not None:
            site.ask()  # without the change, nothing is refused
            _change(site.fake, method, AT_SITE[name])
            with pytest.raises((errors.ServerMisbehaves, errors.DamagedTransfer)):
                for _ in range(2):  # another encoding is worth one more login
                    try:
                        site.ask()
                    except errors.SessionExpired:
                        continue
            site.fake.answers.clear()


def _change(fake: fake_server.FakeServer, method: str, change: Change) -> None:
    """Makes the fake server change each of its honest replies to `method`."""

    def changed(message: Any) -> Any:
        change(message)
        return message

    if method == "Pull":
        fake.answers["Pull"] = lambda *asked: map(changed, fake.chunks(*asked))
    else:
        honest = getattr(fake, f"_{method.lower()}")
        fake.answers[method] = lambda *asked: changed(copy.deepcopy(honest(*asked)))


def test_the_operators_programs_refuse_them(tmp_path):
    probe = fake_server.FakeServer(tmp_path)._probe(None, None)
    assert replies.probe(probe) == probe
    of_operation = [name for name in AT_SITE if name.split(".")[0] not in _METHODS]
    for name in of_operation:
        if name.startswith("ProbeReply."):
            read, message = replies.probe, copy.deepcopy(probe)
        else:
            read, message = replies.status, operation_pb2.StatusReply()
        AT_SITE[name](message)
        with pytest.raises(errors.ServerMisbehaves):
            read(message)
    assert {name.split(".")[0] for name in of_operation} == {"ProbeReply", "StatusReply"}

"""The operator's calls over mutual TLS to a real server."""

import json
import shutil
import traceback

import grpc
import numpy as np
import pytest

from federated import errors
from federated.admin import client as admin_client
from federated.audit import chain, verification
from federated.doctor import diagnosis, examination
from federated.security import credentials, provisioning, tls
from federated.server import admin_service
from federated.tensors import tensor_files
from federated.wire import conversion, messages, replies
from federated.wire import operation_pb2 as pb
from federated.wire.messages import PROTOCOL
from tests.federated import toy
from tests.federated.wire.test_replies import ROUND, SITE, STATUS


@pytest.fixture
def asking(kits):
    """Opens the operation service with a kit; closes what it opened."""
    opened = []

    def ask(running, name="operator", folder=kits):
        kit = admin_client.Kit.read(folder / name, host="localhost", port=running.port)
        opened.append(admin_client.AdminClient(kit))
        return opened[-1]

    yield ask
    for operator in opened:
        operator.close()


@pytest.fixture
def training(serving):
    """A server with C1 logged in."""
    running = serving()
    transport = running.connect("C1")
    transport.login(toy.PLAN, 30)
    yield running, transport
    transport.close()


def push(transport, path, number):
    sha256 = toy_update(path, number)
    return transport.push(
        path, sha256, round_number=number, num_examples=toy.EXAMPLES[transport.site], metrics={}
    )


def toy_update(path, number):
    return tensor_files.save(
        path, {name: (array + number).astype(np.float32) for name, array in toy.INITIAL.items()}
    )


def test_status_is_the_whole_picture_as_json(training, asking, tmp_path):
    running, transport = training
    transport.pull("round_000", tmp_path / "incoming.safetensors")
    transport.report_scores(0, {"dice": 0.25})
    push(transport, tmp_path / "update.safetensors", 1)
    status = asking(running).status()
    assert (status["phase"], status["open_round"], status["updates"]) == ("rounds", 1, ["C1"])
    site = status["sites"]["C1"]
    assert (site["state"], site["num_examples"], site["updates"], site["doing"]) == (
        "pushed",
        30,
        1,
        "sent round 1",
    )
    nbytes = sum(array.nbytes for array in toy.INITIAL.values())
    assert site["bytes_received"] == site["bytes_sent"] == status["model_bytes"] == nbytes
    assert site["scores"] == {"0": {"dice": 0.25}}
    lines, head = status["audit"]["lines"], status["audit"]["head"]
    assert (
        head in {record["hash"] for record in chain.read_chain(running.folder / "events.jsonl")}
        and lines > 3
    )
    assert json.loads(json.dumps(status, allow_nan=False)) == status


def test_what_was_counted_before_a_restart_is_still_shown(serving, asking, tmp_path):
    running = serving()
    transport = running.connect("C1")
    transport.login(toy.PLAN, 30)
    push(transport, tmp_path / "update.safetensors", 1)
    transport.close()
    before = asking(running).status()["sites"]["C1"]
    running.stop()
    after = asking(serving()).status()["sites"]["C1"]
    assert {key: after[key] for key in ("bytes_received", "updates", "doing")} == {
        key: before[key] for key in ("bytes_received", "updates", "doing")
    }


def test_orders_hold_at_once_and_are_in_the_audit_log(training, asking, tmp_path):
    running, transport = training
    operator = asking(running)
    assert operator.order("pause").startswith("paused")
    assert operator.status()["phase"] == "paused"
    operator.order("resume")
    assert transport.next_task().kind == "train"
    assert "C1 is evicted" in operator.order("evict", "C1")
    with pytest.raises(errors.SessionExpired):
        transport.next_task()
    with pytest.raises(errors.UnknownSite, match="was evicted"):
        transport.login(toy.PLAN, 30)
    assert operator.probe().standing == "operator"
    assert asking(running, "C1").probe().standing == "evicted"
    operator.order("admit", "C1")
    transport.login(toy.PLAN, 30)
    logged = [record["event"] for record in chain.read_chain(running.folder / "events.jsonl")]
    assert [
        event
        for event in logged
        if event in ("paused", "resumed", "evicted", "login_refused", "readmitted")
    ] == [
        "paused",
        "resumed",
        "evicted",
        "login_refused",
        "readmitted",
    ]


def test_finish_ends_the_run_after_the_open_round(training, asking, tmp_path):
    running, transport = training
    other = running.connect("C2")
    other.login(toy.PLAN, 10)
    operator = asking(running)
    with pytest.raises(errors.OrderRefused, match="no round has been averaged yet"):
        operator.order("finish_now")
    assert operator.order("finish").startswith("round 1 is the last one")
    push(transport, tmp_path / "C1.safetensors", 1)
    push(other, tmp_path / "C2.safetensors", 1)
    assert transport.next_task().kind == "score"
    assert (operator.status()["num_rounds"], operator.status()["open_round"]) == (1, None)
    other.close()


@pytest.mark.parametrize(
    ("order", "site", "kind", "message"),
    [
        ("dance", "", errors.OrderRefused, "unknown order 'dance'; expected one of pause, resume"),
        ("evict", "C9", errors.UnknownSite, "'C9' never logged in; there are C1"),
        ("admit", "", errors.UnknownSite, "never logged in"),
    ],
)
def test_a_senseless_order_is_refused_with_the_remedy(training, asking, order, site, kind, message):
    with pytest.raises(kind, match=message):
        asking(training[0]).order(order, site)


def test_a_site_may_probe_but_neither_look_nor_order(serving, asking):
    running = serving()
    site = asking(running, "C1")
    reply = site.probe()
    assert (reply.protocol, reply.standing, json.loads(reply.plan_json)) == (
        PROTOCOL,
        "welcome",
        toy.PLAN,
    )
    last = list(chain.read_chain(running.folder / "events.jsonl"))[-1]
    assert (reply.log_lines, reply.log_head) == (last["line"], last["hash"])
    assert verification.verify(running.folder, head=reply.log_head[:32]).lines == last["line"]
    for call in (site.status, lambda: site.order("pause")):
        with pytest.raises(errors.WrongCredential, match="'C1' is not the operator"):
            call()


def test_a_full_federation_says_so_to_a_site_that_probes_it(serving, asking):
    running = serving(min_num_clients=1, max_num_clients=1)
    transport = running.connect("C1")
    transport.login(toy.PLAN, 30)
    assert asking(running, "C2").probe().standing == "full"
    assert asking(running, "C1").probe().standing == "admitted"
    transport.close()


def call(running, identity, metadata, method="Status", request=None):
    with grpc.secure_channel(f"localhost:{running.port}", identity.for_client()) as channel:
        rpc = channel.unary_unary(
            messages.OPERATION_PREFIX + method,
            pb.StatusRequest.SerializeToString,
            pb.StatusReply.FromString,
        )
        return rpc(request or pb.StatusRequest(), timeout=30, metadata=metadata)


def test_the_operators_credential_is_of_no_use_with_a_sites_certificate_nor_the_other_way_round(
    serving, kits
):
    running = serving()
    secret = {name: (kits / name / "credential").read_text().strip() for name in ("operator", "C1")}
    site, operator = (
        tls.Identity.of(kits / "C1", "site"),
        tls.Identity.of(kits / "operator", "operator"),
    )
    for identity, name, credential, code in (
        (site, "operator", secret["operator"], grpc.StatusCode.PERMISSION_DENIED),
        (operator, "operator", secret["C1"], grpc.StatusCode.UNAUTHENTICATED),
        (operator, "C1", secret["C1"], grpc.StatusCode.UNAUTHENTICATED),
        (operator, "", "", grpc.StatusCode.UNAUTHENTICATED),
        (site, "C1", secret["operator"], grpc.StatusCode.UNAUTHENTICATED),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call(running, identity, conversion.credential_metadata(name, credential))
        assert caught.value.code() == code, (name, code)
    for metadata in (
        (),
        (("authorization", "Credential operator:"),),
        (("authorization", "Credential operator"),),
        (("authorization", f"Bearer {secret['operator']}"),),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call(running, operator, metadata)
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_an_unknown_method_is_not_a_way_in(serving, kits):
    running = serving()
    identity = tls.Identity.of(kits / "operator", "operator")
    secret = (kits / "operator" / "credential").read_text().strip()
    with pytest.raises(grpc.RpcError) as caught:
        call(
            running,
            identity,
            conversion.credential_metadata("operator", secret),
            method="Everything",
        )
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_revoked_operator_is_out_at_once(serving, asking, tmp_path):
    federation = provisioning.provision(tmp_path / "federation", "localhost", ("C1", "C2"), port=0)
    running = serving(server_kit=federation / "server")
    operator = asking(running, folder=federation)
    operator.status()
    provisioning.revoke(federation, ["operator"])
    with pytest.raises(errors.WrongCredential, match="not the operator's credential"):
        operator.status()


def test_a_kit_that_ends_soon_is_in_the_status(serving, asking, tmp_path):
    federation = provisioning.provision(tmp_path / "federation", "localhost", ("C1", "C2"), port=0)
    provisioning.renew(federation, ["server"], valid_days=7)
    running = serving(server_kit=federation / "server")
    assert asking(running, folder=federation).status()["warnings"] == [
        "server.pem: the certificate expires in 7 days; have it renewed"
    ]


def test_no_secret_is_in_any_log_reply_or_error(serving, asking, kits, tmp_path, caplog, capfd):
    """The outputs of the operator's side never contain a credential, a key or a hash of one.

    All levels of logging are on.
    """
    caplog.set_level("DEBUG")
    running = serving()
    said = []
    operator = asking(running)
    said.append(
        json.dumps(operator.status())
        + str(operator.probe())
        + operator.order("pause")
        + operator.order("resume")
    )
    shutil.copytree(kits / "operator", tmp_path / "wrong")
    (tmp_path / "wrong" / "credential").write_text((kits / "C2" / "credential").read_text())
    for ask in (
        asking(running, "wrong", folder=tmp_path).status,
        asking(running, "C1").status,
        lambda: operator.order("evict", "C9"),
    ):
        with pytest.raises(errors.FederationError) as caught:
            ask()
        said.append("".join(traceback.format_exception(caught.value)))
    said.append(
        diagnosis.table(
            examination.of_site(kits / "C1", host="localhost", port=running.port, environ={})
        )
    )
    transport = running.connect("C1")
    token = transport.login(toy.PLAN, 30).token
    transport.close()
    said += [
        caplog.text,
        *capfd.readouterr(),
        (running.folder / "events.jsonl").read_text(),
        repr(operator._kit),
        repr(transport),
    ]
    secrets = {token}
    for name in ("operator", "C1", "C2", "C3"):
        kind = "operator" if name == "operator" else "site"
        secrets.add((kits / name / "credential").read_text().strip())
        secrets.update(
            line
            for line in (kits / name / f"{kind}.key").read_text().splitlines()
            if not line.startswith("-")
        )
    secrets |= {credentials.hashed(secret) for secret in secrets}
    secrets.update(json.loads((kits / "server" / "credentials.json").read_text())["sites"].values())
    everything = "\n".join(said)
    assert len(everything) > 4000 and not [secret for secret in secrets if secret in everything]


def test_a_wrong_credential_is_in_the_log_a_few_times_however_often_it_comes(
    serving, kits, tmp_path
):
    running = serving()
    shutil.copytree(kits / "C1", tmp_path / "C1")
    (tmp_path / "C1" / "credential").write_text("wrong\n")
    transport = running.connect("C1", folder=tmp_path)
    for _ in range(25):
        with pytest.raises(errors.WrongCredential):
            transport.login(toy.PLAN, 30)
    transport.close()
    logged = [
        r
        for r in chain.read_chain(running.folder / "events.jsonl")
        if r["event"] == "login_refused"
    ]
    assert [(r["site"], r["error"], r["times"]) for r in logged] == [
        ("C1", "WrongCredential", 1),
        ("C1", "WrongCredential", 10),
    ]


def test_only_the_operator_gets_a_message_read(serving, kits):
    running = serving()
    secret = (kits / "C1" / "credential").read_text().strip()
    order = pb.OrderRequest(kind="pause", site="x" * 2**20)
    with grpc.secure_channel(
        f"localhost:{running.port}", tls.Identity.of(kits / "C1", "site").for_client()
    ) as channel:
        for metadata in (
            (),
            conversion.credential_metadata("operator", secret),
            conversion.credential_metadata("C1", secret),
            conversion.credential_metadata("C1", "made up"),
        ):
            sent = []

            def endless(sent=sent):
                while True:
                    sent.append(1)
                    yield order

            call = channel.stream_unary(
                messages.OPERATION_PREFIX + "Order",
                pb.OrderRequest.SerializeToString,
                pb.OrderReply.FromString,
            )
            with pytest.raises(grpc.RpcError) as caught:
                call(endless(), metadata=metadata, timeout=30)
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
            assert (
                len(sent) <= 8
            )  # what fits into a flow-control window, of a stream without an end


@pytest.mark.parametrize(
    ("num_sites", "num_rounds", "measures"), [(128, 1000, 1), (3, 700, 64), (2, 50_000, 1)]
)
def test_the_status_of_a_large_run_fits_into_a_reply(num_sites, num_rounds, measures):
    """Too large a reply would hide the whole run, perhaps as one site wishes."""
    scores = {f"measure_{number:02d}_{'x' * 50}": 0.123456789 for number in range(measures)}
    every = {str(number): scores for number in range(num_rounds)}
    names = [f"C{number}" for number in range(num_sites)]
    few = {"1": {"dice": 0.5}}  # a site that came late
    status = {
        **STATUS,
        "sites": {name: {**SITE, "scores": every} for name in names}
        | {"late": {**SITE, "scores": few}},
        "rounds": [
            {**ROUND, "round": number, "sites": dict.fromkeys(names, 30)}
            for number in range(1, min(num_rounds, 1000) + 1)
        ],
    }
    reply = pb.StatusReply(status_json=admin_service.text_of(status)).SerializeToString()
    assert len(json.dumps(status)) > conversion.MAX_MESSAGE > len(reply)
    shown = replies.status(replies.read(reply, pb.StatusReply, limit=replies.LARGE))
    assert shown["sites"].keys() == status["sites"].keys()
    assert shown["sites"]["late"]["scores"] == few
    assert list(shown["sites"]["C0"]["scores"])[-1] == str(num_rounds - 1)
    assert shown["rounds"][-1] == status["rounds"][-1]


def test_a_status_that_fits_is_sent_whole():
    assert json.loads(admin_service.text_of(STATUS)) == STATUS

import grpc
import pytest

from federated import errors
from federated.admin import client as admin_client
from federated.security.kit import Kit
from federated.wire import operation_pb2 as pb
from tests.federated import fake_server


@pytest.fixture
def fake(tmp_path, monkeypatch):
    monkeypatch.setattr(admin_client, "_PAUSE_S", 0.0)
    return fake_server.FakeServer(tmp_path)


@pytest.fixture
def operator(fake, kits):
    with fake_server.serving(fake, kits / "server") as port:
        kit = Kit.read(kits / "operator", host="localhost", port=port)
        with admin_client.AdminClient(kit) as client:
            yield client


def test_a_call_bears_the_kits_name_and_credential_and_what_was_asked(fake, operator, kits):
    heard = []

    def order(request, context):
        heard.append((pb.OrderRequest.FromString(request), dict(context.invocation_metadata())))
        return pb.OrderReply(answer="evicted")

    fake.answers["Order"] = order
    assert operator.order("evict", "C2", round_number=3) == "evicted"
    ((request, metadata),) = heard
    assert (request.kind, request.site, request.round) == ("evict", "C2", 3)
    secret = (kits / "operator" / "credential").read_text().strip()
    assert metadata["authorization"] == f"Credential operator:{secret}"


def test_a_call_that_the_server_had_no_room_for_is_made_again(fake, operator):
    def busy(request, context):
        if len(fake.calls("Probe")) < 4:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        return fake._probe(request, context)

    fake.answers["Probe"] = busy
    assert operator.probe().standing == "welcome"
    assert fake.calls("Probe") == ["Probe"] * 4


def test_it_ends_after_twenty_tries_with_one_error_that_names_the_server(fake, operator):
    def busy(request, context):
        context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    fake.answers["Probe"] = busy
    with pytest.raises(errors.ServerUnreachable, match="localhost:"):
        operator.probe()
    assert len(fake.calls("Probe")) == 20


def test_a_refusal_is_not_tried_again(fake, operator):
    def refuse(request, context):
        context.set_trailing_metadata((("federation-error", "OrderRefused"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no round has been averaged yet")

    fake.answers["Order"] = refuse
    with pytest.raises(errors.OrderRefused, match="no round has been averaged yet"):
        operator.order("finish_now")
    assert fake.calls("Order") == ["Order"]


def test_a_server_of_another_release_is_named_with_the_remedy(fake, operator):
    def unknown(request, context):
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")

    fake.answers["Probe"] = unknown
    with pytest.raises(errors.VersionDiffers, match=r"localhost:\d+: .*install the same"):
        operator.probe()

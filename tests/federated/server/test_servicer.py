import grpc
import numpy as np
import pytest

from federated import errors
from federated.security.tls import Identity
from federated.tensors import tensor_files
from federated.wire import conversion
from federated.wire import weight_exchange_pb2 as pb
from tests.federated import toy


def ask(channel, method, requests, metadata):
    """Makes a raw call and returns the bytes of its replies."""
    call = channel.stream_stream(
        f"/weight_exchange.WeightExchange/{method}",
        request_serializer=lambda message: message.SerializeToString(),
    )
    return list(call(iter(requests), metadata=metadata, timeout=30))


def test_without_a_token_no_message_is_read(serving, kits):
    running = serving()
    identity = Identity.of(kits / "C1", "site")
    sent = []

    def endless():
        while True:
            sent.append(1)
            yield pb.ModelPart(chunk=pb.Chunk(data=b"\0" * 2**20))

    with grpc.secure_channel(f"localhost:{running.port}", identity.for_client()) as channel:
        for metadata in (
            (),
            ((conversion.TOKEN_KEY, "Bearer made-up"),),
            ((conversion.TOKEN_KEY, "made-up"),),
            ((conversion.TOKEN_KEY, "Credential C1:made-up"),),
        ):
            for method, requests in (
                ("Send", endless()),
                ("NextTask", [pb.TaskRequest()]),
                ("NoSuchMethod", [pb.TaskRequest()]),
                ("Pull", [pb.PullRequest(model="round_000")]),
                ("Offer", [pb.ModelHeader(addresses=bytes(2**20))]),
                ("Login", [pb.LoginRequest(site="C1", plan_json=" " * 2**20)]),
            ):
                with pytest.raises(grpc.RpcError) as caught:
                    ask(channel, method, requests, metadata)
                assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert len(sent) < 4 * 8  # what fits into a flow-control window, of a stream without an end
    assert list((running.folder / "incoming").iterdir()) == []


def test_a_token_works_only_from_the_site_it_was_issued_to(serving, kits):
    running = serving()
    transport = running.connect("C1")
    token = transport.login(toy.PLAN, 30).token
    elsewhere = grpc.secure_channel(
        f"localhost:{running.port}", Identity.of(kits / "C2", "site").for_client()
    )
    with elsewhere as channel, pytest.raises(grpc.RpcError) as caught:
        ask(channel, "NextTask", [pb.TaskRequest()], ((conversion.TOKEN_KEY, f"Bearer {token}"),))
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    transport.close()


@pytest.mark.parametrize("harm", ["first chunk", "last chunk", "truncated", "gone"])
def test_a_global_model_that_the_disk_damaged_is_reported_as_such(serving, tmp_path, harm):
    """A site would otherwise ask for it for ever, as if its own line were at fault."""
    arrays = {"w": np.arange(2**18 + 1000, dtype=np.float32)}  # two chunks
    running = serving(start=toy.write_initial(tmp_path / "bulk.safetensors", arrays=arrays))
    transport = running.connect("C1")
    transport.login(toy.PLAN, 30)
    path = running.folder / "global" / "round_000.safetensors"
    whole = path.read_bytes()
    content = bytearray(whole)
    content[-1 if harm == "last chunk" else -(2**20) - 100] ^= 1
    path.write_bytes(content[:-1] if harm == "truncated" else content)
    if harm == "gone":
        path.unlink()

    def pull():
        return transport.pull("round_000", tmp_path / "incoming.safetensors")

    if harm == "last chunk":
        with pytest.raises(errors.DamagedTransfer):
            pull()
    with pytest.raises(errors.StorageTrouble, match=r"round_000\.safetensors is missing or was"):
        pull()
    path.write_bytes(whole)
    pull()
    np.testing.assert_array_equal(
        tensor_files.load(tmp_path / "incoming.safetensors")[0]["w"], arrays["w"]
    )
    transport.close()

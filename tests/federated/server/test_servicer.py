import grpc
import numpy as np
import pytest

from federated import errors
from federated.security.tls import Identity
from federated.tensors import tensor_files
from federated.wire import conversion, replies
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


def test_a_message_beyond_its_limit_is_one_error_that_is_not_tried_again(
    serving, kits, channel, tmp_path
):
    running = serving()
    transport = running.connect("C1")
    token = conversion.token_metadata(transport.login(toy.PLAN, 30).token)
    secret = (kits / "C1" / "credential").read_text().strip()
    raw = channel(running, "C1")
    for method in pb.DESCRIPTOR.services_by_name["WeightExchange"].methods_by_name:
        # A field that no message has, which protobuf would read and ignore.
        padding = pb.Chunk(data=bytes(3 * 2**20)).SerializeToString()
        padding = b"\xfa\x7f" + padding[1:]
        for data in (padding, b"\xff" * 10):
            call = raw.stream_stream(f"/weight_exchange.WeightExchange/{method}")
            login = conversion.credential_metadata("C1", secret)
            with pytest.raises(grpc.RpcError) as caught:
                metadata = login if method == "Login" else token
                list(call(iter([data]), metadata=metadata, timeout=30))
            told = replies.error(caught.value)
            if method == "Send" and data is not padding:  # a site sends a chunk a few times
                assert isinstance(told, errors.DamagedTransfer)
            elif method == "SubmitRows":  # no rows are due, whatever their size
                assert isinstance(told, errors.UnknownModel)
            else:
                assert isinstance(told, errors.VersionDiffers), method
    assert transport.next_task().kind == "train"  # and the site goes on
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

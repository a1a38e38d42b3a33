import grpc
import pytest
from google.protobuf.message import DecodeError

from federated.connections.inbox import Inbox
from federated.errors import RETRYABLE, VersionDiffers


def stream(inbox, messages, *, unseen=(), cut=False):
    """Behaves like gRPC.

    Every message is deserialized as it arrives, and the last one of a cut call is not delivered.
    """
    for message in messages:
        yield inbox.arrived(message)
    for message in unseen:
        inbox.arrived(message)
    if cut:
        raise grpc.RpcError()


@pytest.fixture
def inbox():
    return Inbox(bytes.decode, 4)


def test_a_whole_stream_is_decoded_in_order_and_every_message_reported(inbox):
    told = []
    messages = inbox.messages(stream(inbox, [b"a", b"", b"b"]), lambda: told.append(1))
    assert list(messages) == ["a", "", "b"] and len(told) == 3


def test_what_arrived_before_a_cut_comes_before_the_error(inbox):
    got = []
    with pytest.raises(grpc.RpcError):
        for message in inbox.messages(stream(inbox, [b"a"], unseen=[b"b"], cut=True)):
            got.append(message)
    assert got == ["a", "b"]


def test_a_handler_that_stops_early_sees_no_error(inbox):
    assert next(inbox.messages(stream(inbox, [b"a", b"b"], cut=True))) == "a"


def test_another_error_of_the_stream_is_passed_on(inbox):
    def broken():
        raise RuntimeError("not gRPC's")
        yield

    with pytest.raises(RuntimeError, match="not gRPC's"):
        list(inbox.messages(broken()))


def test_a_message_beyond_the_limit_is_refused_before_it_is_decoded():
    decoded = []
    inbox = Inbox(decoded.append, 4)
    messages = inbox.messages(stream(inbox, [b"four", b"fives"]))
    next(messages)
    with pytest.raises(
        VersionDiffers, match="received a message of 5 bytes; at most 4 are accepted"
    ):
        next(messages)
    assert decoded == [b"four"]


def test_a_message_that_cannot_be_decoded_is_not_worth_another_try():
    def read(data):
        raise DecodeError("protobuf's words")

    inbox = Inbox(read, 4)
    with pytest.raises(VersionDiffers, match="a message cannot be read") as caught:
        next(inbox.messages(stream(inbox, [b"a"])))
    assert not isinstance(caught.value, RETRYABLE)

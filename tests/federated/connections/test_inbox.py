import grpc
import pytest

from federated.connections.inbox import Inbox


def stream(inbox, messages, *, unseen=(), cut=False):
    """As gRPC: every message is deserialized as it arrives; of a call that was cut the last is not
    given out.
    """
    for message in messages:
        yield inbox.arrived(message)
    for message in unseen:
        inbox.arrived(message)
    if cut:
        raise grpc.RpcError()


def test_a_whole_stream_comes_as_it_is():
    inbox = Inbox()
    assert list(inbox.messages(stream(inbox, [b"a", b"", b"b"]))) == [b"a", b"", b"b"]


def test_what_arrived_before_a_cut_comes_before_the_error():
    inbox, got = Inbox(), []
    with pytest.raises(grpc.RpcError):
        for message in inbox.messages(stream(inbox, [b"a"], unseen=[b"b"], cut=True)):
            got.append(message)
    assert got == [b"a", b"b"]


def test_a_handler_that_stops_early_sees_no_error():
    inbox = Inbox()
    assert next(inbox.messages(stream(inbox, [b"a", b"b"], cut=True))) == b"a"


def test_another_error_of_the_stream_is_passed_on():
    def broken():
        raise RuntimeError("not gRPC's")
        yield

    with pytest.raises(RuntimeError, match="not gRPC's"):
        list(Inbox().messages(broken()))

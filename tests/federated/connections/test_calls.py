import contextlib

import pytest

from federated import errors
from federated.connections.calls import FIRST_MESSAGE_S, PER_CALLER, SILENCE_S, Calls


class Context:
    """The part of gRPC's context that a call needs."""

    def __init__(self):
        self.cancelled = False

    def peer(self):
        return "ipv4:127.0.0.1:1234"

    def cancel(self):
        self.cancelled = True


@pytest.fixture
def calls(clock):
    return Calls(clock=clock)


def test_a_caller_has_a_fixed_number_of_places_and_takes_none_of_another(calls):
    with contextlib.ExitStack() as stack:
        for _ in range(PER_CALLER):
            stack.enter_context(calls.of("C1", Context()))
        with (
            pytest.raises(errors.TooManyCalls, match="'C1' has 6 calls in progress"),
            calls.of("C1", Context()),
        ):
            pass
        with calls.of("C2", Context()):
            pass
    with calls.of("C1", Context()):  # their ends gave the places back
        pass


def test_a_call_without_its_first_message_ends(calls, clock):
    context = Context()
    with calls.of("C1", context):
        clock.now += FIRST_MESSAGE_S - 1
        calls.check()
        assert not context.cancelled
        clock.now += 1
        calls.check()
    assert context.cancelled


def test_a_transfer_goes_on_while_messages_come_and_ends_once_they_do_not(calls, clock):
    context = Context()
    with calls.of("C1", context) as call:
        for _ in call.following(range(20)):
            clock.now += SILENCE_S - 1
            calls.check()
        assert not context.cancelled
        clock.now += SILENCE_S
        calls.check()
    assert context.cancelled


def test_a_call_whose_caller_is_no_longer_admitted_ends_and_the_others_go_on(calls):
    def refused():
        raise errors.SessionExpired("evicted")

    first, second = Context(), Context()
    with calls.of("C1", first, refused), calls.of("C2", second):
        calls.check()
    assert first.cancelled and not second.cancelled


def test_the_connection_of_every_call_is_reported():
    told = []
    with Calls(on_call=lambda peer, caller: told.append((peer, caller))).of("C1", Context()):
        assert told == [("ipv4:127.0.0.1:1234", "C1")]

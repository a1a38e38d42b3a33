import itertools

import pytest

from federated import errors
from federated.site.retries import MAX_DAMAGED, Persistent
from runkit import backoff


class Flaky:
    """Raises the given errors one by one, then answers."""

    site = "C1"

    def __init__(self, *failures):
        self.failures, self.calls = list(failures), []

    def login(self, plan, num_examples, labels=None):
        self.calls.append("login")

    def pull(self, model):
        self.calls.append(f"pull {model}")
        if self.failures:
            raise self.failures.pop(0)
        return model.upper()


def persistent(transport, waits, **named):
    return Persistent(transport, {"a": 1}, 5, pause=waits.append, **named)


def test_pauses_grow_to_a_limit():
    assert list(itertools.islice(backoff.pauses(1.0, 10.0), 6)) == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_a_call_waits_while_the_server_is_down():
    waits, seen = [], []
    transport = Flaky(
        errors.ServerUnreachable("away"),
        errors.DamagedTransfer("cut"),
        errors.StorageTrouble("full"),
    )
    assert persistent(transport, waits, on_retry=seen.append).pull("m") == "M"
    assert waits == [0.25, 0.5, 1.0] and [type(error).__name__ for error in seen] == [
        "ServerUnreachable",
        "DamagedTransfer",
        "StorageTrouble",
    ]


def test_a_site_waits_for_days():
    waits = []
    away = [errors.ServerUnreachable("away")] * 20_000
    assert persistent(Flaky(*away), waits).pull("m") == "M"
    assert sum(waits) > 5 * 24 * 3600 and max(waits) == 30.0


def test_a_transfer_that_is_damaged_each_time_ends_with_its_reason():
    waits = []
    damaged = [errors.DamagedTransfer("checksum of chunk 7 does not match")] * MAX_DAMAGED
    away = [errors.ServerUnreachable("away")] * 100  # in between; they do not count
    server = persistent(Flaky(*damaged[1:], *away), waits)
    assert server.pull("m") == "M"  # once fewer
    server = persistent(Flaky(*damaged[1:], *away, *damaged), waits)
    with pytest.raises(
        errors.ServerMisbehaves,
        match=f"failed {MAX_DAMAGED} times to transfer what the call pull carries "
        r"\(checksum of chunk 7 does not match\)",
    ):
        server.pull("m")


def test_pauses_start_over_with_each_call():
    waits = []
    server = persistent(Flaky(errors.ServerUnreachable("away")), waits)
    server.pull("m")
    server._transport.failures.append(errors.ServerUnreachable("away"))
    server.pull("m")
    assert waits == [0.25, 0.25]


def test_a_method_is_wrapped_once_and_keeps_its_name():
    server = persistent(Flaky(), [])
    assert server.pull is server.pull and server.pull.__name__ == "pull"
    with pytest.raises(AttributeError):
        _ = server.no_such_call


def test_after_an_expired_session_the_call_is_repeated_with_a_new_login():
    waits, transport = [], Flaky(errors.SessionExpired("old"))
    assert persistent(transport, waits).pull("m") == "M"
    assert transport.calls == ["pull m", "login", "pull m"] and waits == []


def test_a_refusal_is_not_tried_again():
    transport = Flaky(errors.IncompatibleWeights("another genotype"))
    with pytest.raises(errors.IncompatibleWeights):
        persistent(transport, []).pull("m")
    assert transport.calls == ["pull m"]

import threading

import pytest

from federated.server.incoming_models import Transfer, Transfers


@pytest.fixture
def closed():
    """The names of the transfers whose files were closed, in order."""
    return []


@pytest.fixture
def begin(closed):
    """Makes the function that begins a transfer of a name."""
    return lambda name: lambda: Transfer(None, None, lambda: closed.append(name))


def test_a_second_attempt_fills_the_same_model(begin, closed):
    transfers = Transfers()
    with transfers.of("C1", "a", begin("a")) as first:
        pass
    with transfers.of("C1", "a", begin("again")) as second:
        assert second is first
    assert closed == []
    transfers.close()
    assert closed == ["a"]


def test_another_model_of_the_site_takes_its_place_and_those_of_others_stay(begin, closed):
    transfers = Transfers()
    for site, key in (("C1", "a"), ("C2", "other"), ("C1", "b")):
        with transfers.of(site, key, begin(key)):
            pass
    assert closed == ["a"]


def test_files_stay_open_while_another_thread_still_writes(begin, closed):
    transfers = Transfers()
    with transfers.of("C1", "a", begin("a")):
        with transfers.of("C1", "a", begin("again")):
            transfers.end("C1")
        assert closed == []  # the outer use is not over
    assert closed == ["a"]


def test_an_end_for_another_transfer_or_site_ends_nothing(begin, closed):
    transfers = Transfers()
    with transfers.of("C1", "a", begin("a")) as transfer:
        transfers.end("C1", begin("a")())
        transfers.end("C2")
        with transfers.of("C1", "a", begin("again")) as same:
            assert same is transfer
        transfers.end("C1", transfer)
    assert closed == ["a"]


def test_an_error_in_a_transfer_ends_its_use(begin, closed):
    transfers = Transfers()
    with pytest.raises(RuntimeError), transfers.of("C1", "a", begin("a")):
        raise RuntimeError
    transfers.end("C1")
    assert closed == ["a"]


def test_a_site_that_reads_what_it_holds_already_delays_no_other(begin):
    """`begin` of C1 ends only once C2 has had its transfer."""
    transfers, served = Transfers(), threading.Event()

    def slow():
        assert served.wait(10)
        return begin("a")()

    def first():
        with transfers.of("C1", "a", slow):
            pass

    thread = threading.Thread(target=first)
    thread.start()
    with transfers.of("C2", "b", begin("b")):
        served.set()
    thread.join(10)
    assert not thread.is_alive()

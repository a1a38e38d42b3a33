import threading

import pytest

from runkit import periodic


def test_work_is_done_again_and_again_while_the_block_runs_and_not_after_it():
    done, third = [], threading.Event()

    def work():
        done.append(threading.current_thread())
        if len(done) == 3:
            third.set()

    with periodic.calls(work, 0.001, name="worker"):
        assert third.wait(30)
        (worker,) = set(done)
        assert worker.name == "worker" and worker is not threading.current_thread()
    assert not worker.is_alive()


def test_the_first_call_is_not_at_once():
    done = []
    with periodic.calls(lambda: done.append(1), 3600.0, name="worker"):
        pass
    assert not done


def test_the_work_may_end_the_calls():
    done, over = [], threading.Event()

    def work():
        done.append(1)
        over.set()

    with periodic.calls(work, 0.001, name="worker", over=over):
        assert over.wait(30)
    assert len(done) == 1


def test_the_end_of_the_block_tells_a_call_in_progress_to_stop():
    begun, over = threading.Event(), threading.Event()
    stopped = []

    def work():
        begun.set()
        stopped.append(over.wait(30))

    with periodic.calls(work, 0.001, name="worker", over=over):
        assert begun.wait(30)
    assert stopped == [True]


def test_the_end_of_the_block_waits_no_longer_than_it_was_told_to():
    begun, go_on = threading.Event(), threading.Event()

    def work():
        begun.set()
        go_on.wait(30)

    with periodic.calls(work, 0.001, name="worker", join_s=0.0):
        assert begun.wait(30)
    assert not go_on.is_set()  # reached while the call is still in progress
    go_on.set()


def test_an_error_in_the_block_ends_the_calls_too():
    over = threading.Event()
    with (
        pytest.raises(ZeroDivisionError),
        periodic.calls(lambda: None, 3600.0, name="worker", over=over),
    ):
        raise ZeroDivisionError
    assert over.is_set()

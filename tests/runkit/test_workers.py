import os
import pathlib
import signal
import subprocess
import sys
import time

import psutil
import pytest

from runkit import workers
from tests.signals import usual

ROOT = pathlib.Path(__file__).parents[2]


def _square(value):
    return value * value


def _fail(value):
    raise ValueError(f"value {value}")


def test_results_and_errors_come_back():
    with workers.pool(2) as pool:
        assert [
            future.result() for future in [pool.submit(_square, value) for value in range(4)]
        ] == [0, 1, 4, 9]
    with pytest.raises(ValueError, match="value 3"), workers.pool(1) as pool:
        pool.submit(_fail, 3).result()


def _square_or_die(value):
    if value % 4 == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return value * value


def test_a_job_that_kills_its_process_does_not_stop_the_others():
    found = list(workers.results(_square_or_die, [(value,) for value in range(7)], 2))
    assert sorted(found) == [
        (value, None if value % 4 == 1 else value * value) for value in range(7)
    ]


def _process(value):
    return value, os.getpid()


@pytest.mark.parametrize(("jobs", "at_once"), [([(1,), (2,)], 1), ([(1,), (2,)], 0), ([(7,)], 4)])
def test_a_single_worker_or_job_runs_in_this_process_in_order(jobs, at_once):
    found = list(workers.results(_process, jobs, at_once))
    assert found == [(number, (value, os.getpid())) for number, (value,) in enumerate(jobs)]
    assert list(workers.results(_process, [], at_once)) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path, number):
    command = [sys.executable, "-m", "tests.runkit.workers_program", str(tmp_path)]
    parent = subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=usual,
    )
    deadline = time.monotonic() + 300
    while len(found := list(tmp_path.glob("*.worker"))) < 2:
        assert parent.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    running = [psutil.Process(int(path.stem)) for path in found]
    if number == signal.SIGINT:  # a terminal sends it to the whole group
        os.killpg(parent.pid, number)
    else:
        parent.send_signal(number)
    _, errors = parent.communicate(timeout=300)
    _, alive = psutil.wait_procs(running, timeout=300)
    assert not alive
    assert parent.returncode == (130 if number == signal.SIGINT else -number)
    assert "Traceback" not in errors and (number != signal.SIGINT or errors == "stopped\n"), errors

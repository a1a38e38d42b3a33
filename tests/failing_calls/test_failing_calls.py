"""A sample of the faults that `python -m tests.failing_calls` tries."""

import os
import signal
import subprocess
import sys

import pytest

from tests.failing_calls import interception, sweep
from tests.failing_calls.interception import Call, Ended, Fault
from tests.failing_calls.judgement import wrong

CALLS = [
    Call("open", "openat", "/x/a", creates=True),
    Call("open", "openat", "/x/a"),
    Call("read", "read", "/x/a"),
]


def test_every_call_fails_with_every_error_that_it_can_have():
    found = set(map(str, interception.faults(CALLS)))
    assert found == {
        *(f"open number {n}: {error}" for n in (1, 2) for error in ("EIO", "EMFILE", "EACCES")),
        "open number 1: ENOSPC",  # what is there needs no space
        "read number 1: EIO",
    }


def test_a_sample_has_every_kind_and_every_error():
    faults = list(interception.faults(CALLS))
    assert {(f.kind, f.error) for f in sweep.sample(faults, 5, seed=1)} == {
        (f.kind, f.error) for f in faults
    }


@pytest.mark.parametrize(
    ("code", "hung", "output", "problem"),
    [
        (0, False, "fine", None),
        (1, False, "error: /x/a: cannot be read", None),
        (1, False, "error: two files:\n  /x/a: cannot be read", None),
        (1, False, "error: [Errno 5] Input/output error", "names neither file nor remedy"),
        (1, False, "", "says nothing"),
        (-9, True, "", "does not end"),
        (-11, False, "", "signal 11"),
        (0, False, "Traceback (most recent call last):\n  x\nOSError", "stack trace"),
    ],
)
def test_what_is_wrong_with_an_end(code, hung, output, problem):
    found = wrong(Ended(code, hung, (), (), output), ["/x"])
    assert (problem is None) == (not found) and (problem or "") in "".join(found)


@pytest.fixture(scope="module")
def possible():
    try:
        interception.require()
    except interception.CannotIntercept as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("possible")
def test_the_nth_call_fails_and_the_others_do_not(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()

    def work():
        said = []
        for name in ("one", "two", "three"):
            try:
                os.close(os.open(folder / name, os.O_CREAT | os.O_WRONLY))
            except OSError as error:
                said.append(f"{name}: {error.strerror}")
        os.write(1, "; ".join(said).encode())
        return 0

    ended = interception.run(
        work,
        tmp_path / "output",
        seconds=60,
        kinds=["open"],
        roots=[folder],
        fault=Fault("open", 2, "EMFILE"),
    )
    assert (ended.code, ended.output) == (0, "two: Too many open files")
    assert sorted(path.name for path in folder.iterdir()) == ["one", "three"]
    assert [os.path.basename(call.path) for call in ended.calls] == ["one", "two", "three"]
    assert [os.path.basename(call.path) for call in ended.failed] == ["two"]


@pytest.mark.usefixtures("possible")
def test_a_kill_comes_before_the_nth_call_that_changes_the_disk(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()

    def work():
        for name in ("one", "two", "three"):
            os.close(os.open(folder / name, os.O_CREAT | os.O_WRONLY))
            os.close(os.open(folder / name, os.O_RDONLY))
        return 0

    def run(kinds, fault=None):
        output = tmp_path / "output"
        return interception.run(work, output, seconds=60, kinds=kinds, roots=[folder], fault=fault)

    found = list(interception.kills(run(["open"]).calls))
    assert found == [Fault("open", number, interception.KILL) for number in (1, 2, 3)]
    for path in folder.iterdir():
        path.unlink()
    ended = run(["open"], found[1])
    assert ended.killed and ended.code == -signal.SIGKILL and not wrong(ended, [folder])
    assert [path.name for path in folder.iterdir()] == ["one"]


def _swept(programs, *flags):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.failing_calls",
            *(f"--only={program}" for program in programs),
            "--seed=7",
            *flags,
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.count(" 0 failures") == len(programs)


@pytest.mark.usefixtures("possible")
def test_programs_whose_calls_fail_lose_nothing_and_go_on():
    _swept(("server", "site", "ledger", "prepare", "answer", "renew"), "--count=2")


@pytest.mark.usefixtures("possible")
def test_programs_that_are_killed_lose_nothing_and_go_on():
    _swept(("ledger", "request", "revoked"), "--kills", "--count=2")

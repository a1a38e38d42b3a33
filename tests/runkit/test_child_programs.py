import os
import signal
import subprocess
import sys

from runkit import child_programs

FOLLOWS = (
    "import threading; from runkit import child_programs; child_programs.follow_parent(); "
    "print('up', flush=True); threading.Event().wait()"
)


def started():
    process, pipe = child_programs.start(
        [sys.executable, "-c", FOLLOWS], env=os.environ, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"up\n"
    return process, pipe


def test_a_child_ends_by_sigterm_when_the_parents_end_of_the_pipe_closes():
    process, pipe = started()
    with process:
        pipe.close()  # as the system does when the parent ends
        assert process.wait(timeout=60) == -signal.SIGTERM


def test_a_program_without_such_a_parent_runs_on():
    code = f"{FOLLOWS.split('threading.Event')[0]} print('done')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"up\ndone\n"

import os
import pathlib
import select
import sys

import pytest

from tests.federated.engines.processes import Processes

ORPHAN = """
import signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
with open(sys.argv[1], "w") as pipe:
    pipe.write("up")
    pipe.flush()
    signal.pause()
"""
PARENT = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", *sys.argv[1:3]], start_new_session=True)
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/environ").exists(), reason="needs /proc")
def test_an_orphan_in_a_session_of_its_own_ends_too(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    processes, others = Processes(tmp_path), Processes(tmp_path)
    parent = processes.start("parent", sys.executable, "-c", PARENT, ORPHAN, tmp_path / "pipe")
    other = others.start("other", sys.executable, "-c", "import signal; signal.pause()")
    try:
        parent.wait(60)
        assert select.select([pipe], [], [], 60)[0] and os.read(pipe, 2) == b"up"
        assert select.select([pipe], [], [], 0)[0] == []  # it holds the pipe open
        processes.stop()
        assert select.select([pipe], [], [], 60)[0] and os.read(pipe, 1) == b""  # closed
        assert other.poll() is None
    finally:
        processes.stop()
        others.stop()
        os.close(pipe)

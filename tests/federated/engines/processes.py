"""An engine's processes and ports, for tests and the benchmark."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import time
import uuid

ROOT = pathlib.Path(__file__).parents[3]


MARK = "ENGINE_PROCESSES"


class Processes:
    """An engine's processes; their descendants end with them, on Linux.

    Engines start some of their own processes in sessions of their own, and leave others behind when
    a parent is killed. All inherit the mark in their environment, by which `stop` finds them. If
    the test itself is killed, so that `stop` is never called, they stay.
    """

    def __init__(self, folder):
        self.folder, self._running = folder, []
        self._mark = uuid.uuid4().hex

    def start(self, name, *command, **environment):
        with open(self.folder / f"{name}.log", "wb") as log:
            program = subprocess.Popen(
                list(map(str, command)),
                cwd=self.folder,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment, MARK: self._mark},
                start_new_session=True,
            )
        self._running.append(program)
        return program

    def wait(self, condition, seconds=180):
        """Waits for a condition that one of the processes makes true."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.logs()
            for program in self._running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    program.wait(0.05)

    def logs(self):
        return "\n".join(path.read_text()[-4000:] for path in sorted(self.folder.glob("*.log")))

    def stop(self):
        while self._running:
            program = self._running.pop()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.wait()
        while marked := self._marked():  # again, as one may have started another meanwhile
            for number in marked:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)

    def _marked(self):
        """Returns the numbers of all processes that carry this mark; a dead one has none."""
        mark, numbers = f"{MARK}={self._mark}".encode(), []
        for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # it has ended, or belongs to another account
                if mark in path.read_bytes().split(b"\0"):
                    numbers.append(int(path.parent.name))
        return numbers


def free_ports(count):
    """Returns different ports; asking one at a time might return the same port twice."""
    with contextlib.ExitStack() as opened:
        listening = [
            opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [one.getsockname()[1] for one in listening]


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False

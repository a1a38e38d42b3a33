"""An engine's processes and ports, for tests and the benchmark."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).parents[3]


class Processes:
    """An engine's processes, each in a separate session so that its children end with it."""

    def __init__(self, folder):
        self.folder, self._running = folder, []

    def start(self, name, *command, **environment):
        with open(self.folder / f"{name}.log", "wb") as log:
            program = subprocess.Popen(
                list(map(str, command)),
                cwd=self.folder,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
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
        for program in reversed(self._running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.wait()


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

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import time

import pytest

from federated.tensors import tensor_files
from tests.federated.engines import seeded

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture
def own_globals(tmp_path, serving, take_part):
    """The global models of rounds 1 to 3 that our own server makes of C1 and C2, over TLS."""
    initial = seeded.write_initial(tmp_path / "own.safetensors")
    server = serving(folder="own", start=initial, cross_site_evaluation=False)
    sites = ("C1", "C2")
    trainers = {site: seeded.SeededTrainer(site) for site in sites}
    take_part({site: server.connect(site) for site in sites}, trainers)
    server.join()
    return [
        tensor_files.load(tmp_path / "own" / "global" / f"round_{number:03d}.safetensors")[0]
        for number in (1, 2, 3)
    ]


class Processes:
    """An engine's processes, each in a session of its own so that its children end with it."""

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
        """Waits until a condition holds that one of the processes makes true."""
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


@pytest.fixture
def processes(tmp_path):
    folder = tmp_path / "engine"
    folder.mkdir()
    running = Processes(folder)
    yield running
    running.stop()


@pytest.fixture
def free_ports():
    """Returns different ports: asked for one after the other, the same might come twice."""

    def free(count):
        with contextlib.ExitStack() as opened:
            listening = [
                opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
            ]
            return [one.getsockname()[1] for one in listening]

    return free

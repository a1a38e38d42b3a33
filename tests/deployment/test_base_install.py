"""The base installation: small, without the packages for training, but sufficient.

It is enough for a server, an operator and the doctor.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from federated.audit import chain
from tests import waiting
from tests.deployment import guide, stand_in, test_packages

LARGEST_MB = 200
NOT_IN_IT = {"tensorflow", "keras", "numba", "matplotlib", "scipy", "nibabel", "pydicom"}
ROOT = guide.DOCS.parent
_PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> pathlib.Path:
    """A fresh virtual environment with the product's base installation."""
    folder = tmp_path_factory.mktemp("base")
    asked = [*_PIP, "download", "--quiet", "--no-deps", "--retries=0", "--timeout=10"]
    found = subprocess.run(
        [*asked, f"--dest={folder / 'probe'}", "absl-py"], capture_output=True, text=True
    )
    if found.returncode:
        reason = (found.stderr.strip().splitlines() or ["pip says nothing"])[-1]
        pytest.skip(f"no package index can be reached: {reason}")
    source = folder / "source"  # a copy, because a build writes beside the source
    for name in [
        *test_packages.files_of_the_product(),
        "setup.py",
        "pyproject.toml",
        "README.md",
    ]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    # The pip of this environment installs: to give the new one its own takes as long as the rest.
    venv = [sys.executable, "-m", "venv", "--without-pip", folder / "venv"]
    subprocess.run(venv, check=True)
    target = f"--target={_packages(folder / 'venv')}"
    subprocess.run([*_PIP, "install", "--quiet", target, source], check=True, env=_environment())
    return folder / "venv"


def _packages(environment: pathlib.Path) -> pathlib.Path:
    """Returns the folder of an environment's packages."""
    return next(environment.glob("lib/python*/site-packages"))


def _environment(**more: str) -> dict[str, str]:
    """Returns this process's environment, without its search path for modules."""
    return {**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, **more}


@pytest.mark.slow
def test_it_is_small_and_holds_nothing_that_trains(environment):
    listed = subprocess.run(
        [*_PIP, "list", "--format=json", f"--path={_packages(environment)}"],
        capture_output=True,
        text=True,
        check=True,
        env=_environment(),
    )
    names = {package["name"].lower() for package in json.loads(listed.stdout)}
    assert "c2fnas-federated-pancreas" in names and not names & NOT_IN_IT
    files = [path for path in environment.rglob("*") if path.is_file() and not path.is_symlink()]
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    print(f"the base installation has {megabytes:.0f} MB")
    assert megabytes < LARGEST_MB


class Exchange:
    """Runs steps of the guides in one folder, with a port of this machine as the server's address.

    `folder` stands for all machines: the server's kit is `server`, the site's is `kit`.
    """

    def __init__(self, folder: pathlib.Path, python: pathlib.Path):
        self._folder, self._steps = folder, guide.steps()
        self._running: dict[str, subprocess.Popen] = {}
        shutil.copy(stand_in.__file__, folder / "stand_in.py")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        program = f"{python} {folder / 'stand_in.py'}"
        self._environment = _environment(P=program, SITE="C1", GRPC_VERBOSITY="NONE")

    def start(self, step: str, **environment: str) -> subprocess.Popen:
        commands = self._steps[step].replace("fl.example.org", "localhost")
        commands = commands.replace("8443", str(self._port)).replace("C1.csr,C2.csr", "C1.csr")
        if step.startswith("server"):
            commands = commands.replace("=kit", "=server")
        if step == "server serve":
            commands = f"exec {commands.strip()} --port={self._port} --min_num_clients=1\n"
        with open(self._log(step), "wb") as log:
            process = subprocess.Popen(
                ["sh", "-euc", commands],
                cwd=self._folder,
                env={**self._environment, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._running[step] = process
        return process

    def do(self, step: str, **environment: str) -> str:
        """Runs a step to its end and returns its output."""
        assert self.start(step, **environment).wait(60) == 0, f"{step}\n{self.said(step)}"
        return self.said(step)

    def said(self, step: str) -> str:
        return self._log(step).read_text(errors="replace")

    def until(self, words: str, step: str, path: pathlib.Path | None = None) -> None:
        """Waits until the output of a running step, or the file `path`, has `words` in it."""
        path = path or self._log(step)
        waiting.until(
            lambda: path.exists() and words in path.read_text(errors="replace"),
            self._running[step],
            told=lambda: f"{step} did not say {words!r}\n{self.said(step)}",
        )

    def end(self) -> None:
        for process in self._running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait(30)

    def _log(self, step: str) -> pathlib.Path:
        return self._folder / f"{step.replace(' ', '_')}.log"


@pytest.fixture
def exchange(environment, tmp_path):
    (tmp_path / "study.flags").write_text(
        (ROOT / "experiments" / "flagfiles" / "demo.flags").read_text() + "--num_rounds=1000\n"
    )
    steps = Exchange(tmp_path, environment / "bin" / "python")
    yield steps
    steps.end()


@pytest.mark.slow
def test_a_server_an_operator_and_the_doctor_need_nothing_else(exchange, tmp_path):
    """The guides' own commands, with one site whose network is a few numbers."""
    exchange.do("hospital request")
    shutil.copy(tmp_path / "kit" / "site.csr", tmp_path / "C1.csr")
    output = exchange.do("operator provision")
    authority = re.search(r"authority's fingerprint ((?:[0-9a-f]{4} ?){8})", output)[1].strip()
    shutil.copytree(tmp_path / "federation" / "server", tmp_path / "server")
    shutil.copytree(tmp_path / "federation" / "C1", tmp_path / "answer")
    exchange.do("hospital answer", AUTHORITY=authority)
    exchange.do("hospital prepare")

    exchange.do("server doctor")
    server = exchange.start("server serve")
    exchange.until("serving on port", "server serve")
    exchange.do("hospital doctor")
    site = exchange.start("hospital join")
    log = tmp_path / "store" / "events.jsonl"
    exchange.until('"event": "aggregated"', "hospital join", log)
    exchange.do("operator pause")
    status = exchange.do("operator status")
    assert "paused" in status and re.search(r"^C1 +\w+ +30 ", status, re.MULTILINE)
    exchange.do("operator resume")
    exchange.do("operator finish")
    assert site.wait(60) == 0, exchange.said("hospital join")
    assert server.wait(60) == 0, exchange.said("server serve")
    assert "to the same bits" in exchange.do("server audit")
    events = {record["event"] for record in chain.read_chain(log)}
    assert {"finished", "rows"} <= events

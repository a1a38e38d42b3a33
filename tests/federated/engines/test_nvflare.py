"""NVFLARE's own server and clients, provisioned with its own authority, over mutual TLS."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

import pytest

pytest.importorskip("nvflare", reason="NVFLARE is not installed; it is the extra [nvflare]")

from nvflare.fuel.flare_api.flare_api import new_secure_session  # noqa: E402

from federated.engines import nvflare_job  # noqa: E402
from federated.tensors import tensor_files  # noqa: E402
from tests.federated.engines import seeded  # noqa: E402

ROOT = pathlib.Path(__file__).parents[3]
PROJECT = """
api_version: 3
name: toy
participants:
  - {{name: localhost, type: server, org: toy, fed_learn_port: {port}}}
  - {{name: C1, type: client, org: toy}}
  - {{name: C2, type: client, org: toy}}
  - {{name: lead@toy.org, type: admin, org: toy, role: project_admin}}
builders:
  - path: nvflare.lighter.impl.workspace.WorkspaceBuilder
    args: {{template_file: master_template.yml}}
  - path: nvflare.lighter.impl.static_file.StaticFileBuilder
    args: {{config_folder: config}}
  - path: nvflare.lighter.impl.cert.CertBuilder
  - path: nvflare.lighter.impl.signature.SignatureBuilder
"""
SITE_SCRIPT = """
from federated.engines import nvflare_site
from tests.federated.engines.seeded import SeededTrainer

nvflare_site.run(SeededTrainer)
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def provision(folder):
    """Returns the folder with a start-up kit for each participant."""
    (folder / "project.yml").write_text(PROJECT.format(port=free_port()))
    program = pathlib.Path(sys.executable).parent / "nvflare"
    subprocess.run(
        [program, "provision", "-p", "project.yml", "-w", "kits"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    kits = folder / "kits" / "toy" / "prod_00"
    local = kits / "localhost" / "local"
    resources = (local / "resources.json.default").read_text()
    (local / "resources.json").write_text(resources.replace("/tmp/nvflare", str(folder / "jobs")))
    return kits


class Federation:
    """NVFLARE's processes, which run in sessions of their own so that their jobs end with them."""

    def __init__(self, folder, kits):
        self.folder, self.kits, self._programs = folder, kits, []

    def start(self, name):
        role = "server" if name == "localhost" else "client"
        about = ["secure_train=true", "org=toy", "config_folder=config"]
        if role == "client":
            about.append(f"uid={name}")
        with open(self.folder / f"{name}.log", "wb") as log:
            self._programs.append(
                subprocess.Popen(
                    [
                        *(sys.executable, "-u", "-m"),
                        f"nvflare.private.fed.app.{role}.{role}_train",
                        *("-m", str(self.kits / name), "-s", f"fed_{role}.json"),
                        *("--set", *about),
                    ],
                    cwd=self.folder,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                    start_new_session=True,
                )
            )

    def logs(self):
        return "\n".join(path.read_text()[-4000:] for path in sorted(self.folder.glob("*.log")))

    def stop(self):
        for program in self._programs:
            try:
                os.killpg(program.pid, 9)
            except ProcessLookupError:
                pass
            program.wait()


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nvflare")
    running = Federation(folder, provision(folder))
    try:
        for name in ("localhost", "C1", "C2"):
            running.start(name)
        yield running
    finally:
        running.stop()


def session_of(federation, seconds=120):
    """Returns an admin session once the server and both clients are there."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            session = new_secure_session("lead@toy.org", str(federation.kits / "lead@toy.org"))
            while len(session.get_system_info().client_info) < 2:
                assert time.monotonic() < deadline, federation.logs()
                time.sleep(0.1)
            return session
        except AssertionError:
            raise
        except Exception:
            assert time.monotonic() < deadline, federation.logs()


def test_three_rounds_give_the_bits_of_our_own_service(federation, tmp_path):
    script = tmp_path / "site.py"
    script.write_text(SITE_SCRIPT)
    initial = seeded.write_initial(tmp_path / "initial.safetensors")
    job = nvflare_job.write_job(
        tmp_path / "job", site_script=script, initial=initial, num_rounds=3, num_sites=2
    )
    session = session_of(federation)
    try:
        number = session.submit_job(str(job))
        meta = session.wait_for_job(number, timeout=240, poll_interval=0.5)
        result = pathlib.Path(session.download_job_result(number, str(tmp_path / "result")))
    finally:
        session.close()
    assert meta["status"] == "FINISHED:COMPLETED", federation.logs()
    own = seeded.own_globals(tmp_path / "own")
    (folder,) = result.rglob("global")
    for number, expected in enumerate(own, start=1):
        arrays, metadata = tensor_files.load(folder / f"round_{number:03d}.safetensors")
        assert json.loads(metadata["plan"]) == seeded.toy.PLAN
        seeded.assert_same_bits(arrays, expected, f"round {number}")

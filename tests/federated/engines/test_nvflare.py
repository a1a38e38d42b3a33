"""NVFLARE's own server and clients, provisioned with its own authority, over mutual TLS."""

import contextlib
import json
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("nvflare", reason="NVFLARE is not installed; it is the extra [nvflare]")

from nvflare.fuel.flare_api.flare_api import new_secure_session

from federated.engines import nvflare_job
from federated.tensors import tensor_files
from tests.federated.engines import seeded

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


def provision(folder, port):
    """Returns the folder with a start-up kit for each participant."""
    (folder / "project.yml").write_text(PROJECT.format(port=port))
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


def start(processes, kits, name):
    role = "server" if name == "localhost" else "client"
    about = ["secure_train=true", "org=toy", "config_folder=config"]
    if role == "client":
        about.append(f"uid={name}")
    processes.start(
        name,
        *(sys.executable, "-u", "-m", f"nvflare.private.fed.app.{role}.{role}_train"),
        *("-m", kits / name, "-s", f"fed_{role}.json", "--set", *about),
    )


def session_of(processes, kits):
    """Returns an admin session once the server and both clients are there."""
    sessions = []

    def ready():
        if not sessions:
            with contextlib.suppress(Exception):  # NVFLARE raises many kinds before it is up
                sessions.append(new_secure_session("lead@toy.org", str(kits / "lead@toy.org")))
        return sessions and len(sessions[0].get_system_info().client_info) == 2

    processes.wait(ready)
    return sessions[0]


def test_three_rounds_give_the_bits_of_our_own_service(
    processes, free_ports, own_globals, tmp_path
):
    kits = provision(processes.folder, *free_ports(1))
    for name in ("localhost", "C1", "C2"):
        start(processes, kits, name)
    script = tmp_path / "site.py"
    script.write_text(SITE_SCRIPT)
    initial = seeded.write_initial(tmp_path / "initial.safetensors")
    job = nvflare_job.write_job(
        tmp_path / "job", site_script=script, initial=initial, num_rounds=3, num_sites=2
    )
    with contextlib.closing(session_of(processes, kits)) as session:
        number = session.submit_job(str(job))
        meta = session.wait_for_job(number, timeout=240, poll_interval=0.5)
        result = pathlib.Path(session.download_job_result(number, str(tmp_path / "result")))
    assert meta["status"] == "FINISHED:COMPLETED", processes.logs()
    (folder,) = result.rglob("global")
    for number, expected in enumerate(own_globals, start=1):
        arrays, metadata = tensor_files.load(folder / f"round_{number:03d}.safetensors")
        assert json.loads(metadata["plan"]) == seeded.toy.PLAN
        seeded.assert_same_bits(arrays, expected, f"round {number}")

"""NVFLARE's own server and clients, provisioned with its own authority, over mutual TLS."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import sys

from nvflare.fuel.flare_api.flare_api import NoConnection, new_secure_session

from federated.engines.engine_run import EngineRun
from federated.engines.nvflare import job as nvflare_job
from tests.federated.engines.processes import free_ports

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
from federated.engines.nvflare import site as nvflare_site
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
    """Returns an admin session once the server and both clients are up."""
    sessions = []

    def ready():
        if not sessions:
            with contextlib.suppress(Exception):  # NVFLARE raises many kinds before it is up
                sessions.append(new_secure_session("lead@toy.org", str(kits / "lead@toy.org")))
        return sessions and len(sessions[0].get_system_info().client_info) == 2

    processes.wait(ready)
    return sessions[0]


def lead(processes, initial, *, num_rounds):
    """Runs a job with C1 and C2 to its end; returns the folder of the global models."""
    kits = provision(processes.folder, *free_ports(1))
    for name in ("localhost", "C1", "C2"):
        start(processes, kits, name)
    script = processes.folder / "site.py"
    script.write_text(SITE_SCRIPT)
    run = EngineRun(
        folder=processes.folder / "rounds",
        site_script=script,
        initial=initial,
        num_rounds=num_rounds,
        num_sites=2,
    )
    job = nvflare_job.write_job(run)
    with contextlib.closing(session_of(processes, kits)) as session:
        number = session.submit_job(str(job))
        status = ""

        def finished():
            nonlocal status
            with contextlib.suppress(NoConnection):  # the server may be too busy to answer
                status = session.get_job_meta(number)["status"]
            return status.startswith("FINISHED")

        processes.wait(finished, seconds=600)
        assert status == "FINISHED:COMPLETED", processes.logs()
        result = session.download_job_result(number, str(processes.folder / "result"))
    (folder,) = pathlib.Path(result).rglob("global")
    return folder

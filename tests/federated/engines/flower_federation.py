"""Flower's own SuperLink, SuperNodes and apps, over TLS."""

from __future__ import annotations

import importlib.metadata
import pathlib
import sys

from federated.engines.engine_run import EngineRun
from federated.engines.flower import app as flower_app
from tests.federated.engines.processes import free_ports, listens

PROGRAMS = pathlib.Path(sys.executable).parent
# Later releases serve everything on one port, and read addresses from a file of their own.
ONE_PORT = tuple(map(int, importlib.metadata.version("flwr").split(".")[:2])) >= (1, 30)
SITE_SCRIPT = """
from federated.engines.flower import site as flower_site
from tests.federated.engines.seeded import SeededTrainer

app = flower_site.client_app(SeededTrainer)
"""


def start_link(processes, kits, about):
    """Starts a SuperLink; returns (port for SuperNodes, port for `flwr run`)."""
    server = kits / "server"
    tls = ["--ssl-ca-certfile", server / "ca.pem", "--ssl-certfile", server / "server.pem"]
    tls += ["--ssl-keyfile", server / "server.key"]
    program = PROGRAMS / "flower-superlink"
    if ONE_PORT:
        (port,) = free_ports(1)
        own = ["--host", "localhost", "--port", port, "--disable-runtime-dependency-installation"]
        processes.start("superlink", program, *tls, *own, **about)
        processes.wait(lambda: listens(port))
        return port, port
    fleet, control, apps = free_ports(3)
    own = ["--fleet-api-address", f"127.0.0.1:{fleet}"]
    own += ["--control-api-address", f"127.0.0.1:{control}"]
    own += ["--serverappio-api-address", f"127.0.0.1:{apps}"]
    processes.start("superlink", program, *tls, *own, **about)
    processes.wait(lambda: listens(fleet) and listens(control))
    return fleet, control


def start_node(processes, kits, about, site, fleet):
    (port,) = free_ports(1)
    own = (
        ["--host", "127.0.0.1", "--port", port]
        if ONE_PORT
        else ["--clientappio-api-address", f"127.0.0.1:{port}"]
    )
    tls = ["--root-certificates", kits / site / "ca.pem", "--superlink", f"localhost:{fleet}"]
    name = ["--node-config", f'site="{site}"']
    processes.start(site, PROGRAMS / "flower-supernode", *tls, *name, *own, **about)


def lead(processes, kits, initial, *, num_rounds):
    """Runs a federation of C1 and C2 to its end; returns the folder of the global models."""
    folder = processes.folder
    script, home, output = folder / "site.py", folder / "home", folder / "global"
    script.write_text(SITE_SCRIPT)
    home.mkdir()
    about = {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{PROGRAMS}:/usr/bin:/bin",
    }
    run = EngineRun(
        folder=folder / "rounds",
        site_script=script,
        initial=initial,
        num_rounds=num_rounds,
        num_sites=2,
    )
    app = flower_app.write_app(run, output=output)
    fleet, control = start_link(processes, kits, about)
    for site in ("C1", "C2"):
        start_node(processes, kits, about, site, fleet)
    address = f'address = "localhost:{control}"\nroot-certificates = "{kits}/C1/ca.pem"\n'
    if ONE_PORT:
        text = f'[superlink]\ndefault = "here"\n\n[superlink.here]\n{address}'
        (home / "config.toml").write_text(text)
    else:
        with open(app / "pyproject.toml", "a") as project:
            project.write('\n[tool.flwr.federations]\ndefault = "here"\n\n')
            project.write(f"[tool.flwr.federations.here]\n{address}")
    processes.start("run", PROGRAMS / "flwr", "run", app, "here", "--stream", **about)
    processes.wait((output / f"round_{num_rounds:03d}.safetensors").exists, seconds=600)
    return output

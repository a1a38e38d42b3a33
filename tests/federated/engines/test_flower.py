"""Flower's own SuperLink, SuperNodes and apps, over TLS."""

import contextlib
import importlib.metadata
import json
import pathlib
import socket
import sys

import pytest

pytest.importorskip("flwr", reason="Flower is not installed; it is the extra [flower]")

from federated.engines import flower_app
from federated.tensors import tensor_files
from tests.federated.engines import seeded

PROGRAMS = pathlib.Path(sys.executable).parent
# Later releases serve everything on one port, and read addresses from a file of their own.
ONE_PORT = tuple(map(int, importlib.metadata.version("flwr").split(".")[:2])) >= (1, 30)
SITE_SCRIPT = """
from federated.engines import flower_site
from tests.federated.engines.seeded import SeededTrainer

app = flower_site.client_app(SeededTrainer)
"""


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def start_link(processes, kits, free_ports, about):
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


def start_node(processes, kits, free_ports, about, site, fleet):
    (port,) = free_ports(1)
    own = (
        ["--host", "127.0.0.1", "--port", port]
        if ONE_PORT
        else ["--clientappio-api-address", f"127.0.0.1:{port}"]
    )
    tls = ["--root-certificates", kits / site / "ca.pem", "--superlink", f"localhost:{fleet}"]
    name = ["--node-config", f'site="{site}"']
    processes.start(site, PROGRAMS / "flower-supernode", *tls, *name, *own, **about)


def test_three_rounds_give_the_bits_of_our_own_service(
    processes, kits, free_ports, own_globals, tmp_path
):
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
    app = flower_app.write_app(
        folder / "rounds",
        site_script=script,
        initial=seeded.write_initial(folder / "initial.safetensors"),
        output=output,
        num_rounds=3,
        num_sites=2,
    )
    fleet, control = start_link(processes, kits, free_ports, about)
    for site in ("C1", "C2"):
        start_node(processes, kits, free_ports, about, site, fleet)
    address = f'address = "localhost:{control}"\nroot-certificates = "{kits}/C1/ca.pem"\n'
    if ONE_PORT:
        text = f'[superlink]\ndefault = "here"\n\n[superlink.here]\n{address}'
        (home / "config.toml").write_text(text)
    else:
        with open(app / "pyproject.toml", "a") as project:
            project.write('\n[tool.flwr.federations]\ndefault = "here"\n\n')
            project.write(f"[tool.flwr.federations.here]\n{address}")
    processes.start("run", PROGRAMS / "flwr", "run", app, "here", "--stream", **about)
    processes.wait((output / "round_003.safetensors").exists)
    for number, expected in enumerate(own_globals, start=1):
        arrays, metadata = tensor_files.load(output / f"round_{number:03d}.safetensors")
        assert json.loads(metadata["plan"]) == seeded.toy.PLAN
        seeded.assert_same_bits(arrays, expected, f"round {number}")

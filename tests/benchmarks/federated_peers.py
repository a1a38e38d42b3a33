"""The rounds of `federated_rounds` under NVFLARE and under Flower, in an environment of their own."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

from tests.benchmarks.federated_rounds import (
    ARRAYS,
    ROUNDS,
    VALUES,
    median_step,
    memory_mib,
    model_arrays,
)

_NVFLARE_SITE = """
import time
import numpy as np
import nvflare.client as flare
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
flare.init()
name = flare.get_site_name()
while flare.is_running():
    model = flare.receive()
    if model is None:
        break
    if name == "site-1":
        with open("%s", "a") as log:
            log.write(f"{time.time()} {sum(key.startswith('layer_') for key in model.params)}\\n")
    params = {key: value + value.dtype.type(0.5) for key, value in model.params.items()}
    if len(params) == 1:  # its recipe begins with one array
        parts = enumerate(np.split(*params.values(), %s))
        layers = {f"layer_{i:03d}": part for i, part in parts}
        params = {"numpy_key": np.zeros(1, np.float32), **layers}
    meta = {"NUM_STEPS_CURRENT_ROUND": 10}
    flare.send(
        FLModel(params=params, params_type=ParamsType.FULL, metrics={"dice": 0.5}, meta=meta)
    )
"""


def nvflare(sites: int) -> dict[str, float]:
    import numpy as np
    from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
    from nvflare.recipe import SimEnv

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        ends = np.cumsum([array.size for array in model_arrays().values()]).tolist()
        (folder / "site.py").write_text(_NVFLARE_SITE % (folder / "times", ends[:-1]))
        np.save(folder / "initial.npy", np.concatenate(list(model_arrays().values())))
        recipe = NumpyFedAvgRecipe(
            name="rounds",
            initial_ckpt=str(folder / "initial.npy"),
            min_clients=sites,
            num_rounds=ROUNDS + 1,
            train_script=str(folder / "site.py"),
        )
        with contextlib.redirect_stdout(sys.stderr):
            recipe.execute(
                SimEnv(
                    num_clients=sites, num_threads=sites, workspace_root=str(folder / "workspace")
                )
            )
        moments, arrays = zip(
            *(map(float, line.split()) for line in (folder / "times").read_text().splitlines()),
            strict=True,
        )
        assert set(arrays[1:]) == {min(ARRAYS, VALUES)}
    return {"seconds a round": median_step(moments[1:])}


_FLOWER_PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "rounds"
version = "1.0.0"
description = ""
license = "Apache-2.0"
dependencies = ["flwr"]

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "benchmark"

[tool.flwr.app.components]
serverapp = "rounds.server:app"
clientapp = "rounds.site:app"

[tool.flwr.app.config]
rounds = {rounds}
sites = {sites}
"""
_FLOWER_SERVER = """
import time
import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
app = ServerApp()

@app.main()
def main(grid, context):
    rounds, sites = context.run_config["rounds"], context.run_config["sites"]
    with np.load("{arrays}") as stored:
        start = ArrayRecord([stored[name] for name in sorted(stored)])
    def note(number, arrays):
        with open("{times}", "a") as log:
            log.write(f"{{time.time()}}\\n")
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites)
    strategy.start(grid=grid, initial_arrays=start, num_rounds=rounds, evaluate_fn=note)
"""
_FLOWER_SITE = """
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()

@app.train()
def train(message, context):
    arrays = [array + np.float32(0.5) for array in message.content["arrays"].to_numpy_ndarrays()]
    metrics = MetricRecord({"num-examples": 10, "dice": 0.5})
    content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
    return Message(content, reply_to=message)
"""


def _free_ports(count: int) -> list[int]:
    """Returns different free ports. Asking for one at a time might return the same one twice."""
    with contextlib.ExitStack() as opened:
        listening = [
            opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [one.getsockname()[1] for one in listening]


def flower(sites: int) -> dict[str, float]:
    import numpy as np

    programs = pathlib.Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as started:
        folder = pathlib.Path(name)
        np.savez(folder / "arrays.npz", **model_arrays())
        package = folder / "app" / "rounds"
        package.mkdir(parents=True)
        (folder / "app" / "pyproject.toml").write_text(
            _FLOWER_PROJECT.format(rounds=ROUNDS, sites=sites)
        )
        (package / "__init__.py").write_text("")
        (package / "server.py").write_text(
            _FLOWER_SERVER.format(arrays=folder / "arrays.npz", times=folder / "times")
        )
        (package / "site.py").write_text(_FLOWER_SITE)
        port, *site_ports = _free_ports(1 + sites)
        home = folder / "home"
        home.mkdir()
        (home / "config.toml").write_text(
            '[superlink]\ndefault = "here"\n\n[superlink.here]\n'
            f'address = "127.0.0.1:{port}"\ninsecure = true\n'
        )
        environment = {
            **os.environ,
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
        }
        environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"

        def start(*command: str) -> subprocess.Popen:
            program = subprocess.Popen(
                [programs / command[0], *command[1:]],
                env=environment,
                cwd=folder,
                stdout=sys.stderr,
                start_new_session=True,
            )
            started.callback(
                lambda: os.killpg(program.pid, signal.SIGKILL) if program.poll() is None else None
            )
            return program

        server = start("flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port))
        for site_port in site_ports:
            start(
                "flower-supernode",
                "--insecure",
                "--superlink",
                f"127.0.0.1:{port}",
                "--host",
                "127.0.0.1",
                "--port",
                str(site_port),
            )
        while True:  # until the server listens
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port), timeout=1),
            ):
                break
            time.sleep(0.2)
        start("flwr", "run", "app", "here", "--stream")
        log, peak, deadline = folder / "times", 0.0, time.monotonic() + 120 + 120 * ROUNDS
        while not log.exists() or len(log.read_text().split()) < ROUNDS + 1:
            peak = max(peak, memory_mib(server.pid, "VmHWM"))
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("Flower did not finish its rounds; see its messages above")
            time.sleep(0.05)
        moments = [float(line) for line in log.read_text().split()]
    return {"seconds a round": median_step(moments), "server MiB": peak}

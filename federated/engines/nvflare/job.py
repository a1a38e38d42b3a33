"""Writes an NVFLARE job that federates a `SiteTrainer`."""

from __future__ import annotations

import os
import pathlib
import shutil

from federated.engines.plan_check import read_initial
from runkit import atomic

_SERVER = "federated.engines.nvflare.server"


def write_job(
    folder: str | os.PathLike,
    *,
    site_script: str | os.PathLike,
    initial: str | os.PathLike,
    num_rounds: int,
    num_sites: int,
) -> pathlib.Path:
    """Writes a job for NVFLARE's admin client or API to submit; returns its folder.

    The job holds copies of the script and the initial model. NVFLARE's own `FedJob` would also copy
    those modules of this package that the job names, but not what they import.

    Args:
      folder: folder of the job, which must not exist; its name becomes the job's name.
      site_script: Python file that every site runs; see `nvflare.site`.
      initial: safetensors file of global model 0, with the plan in its metadata.
      num_sites: a round waits for all of them.
    Raises:
      ValueError: as `plan_check.read_initial`, before anything is written.
    """
    read_initial(initial)
    folder = pathlib.Path(folder)
    custom, config = folder / "app" / "custom", folder / "app" / "config"
    custom.mkdir(parents=True)
    config.mkdir()
    script, model = pathlib.Path(site_script).name, pathlib.Path(initial).name
    shutil.copy(site_script, custom / script)
    shutil.copy(initial, custom / model)
    controller = {
        "num_clients": num_sites,
        "num_rounds": num_rounds,
        "persistor_id": "persistor",
        "aggregator": {"path": f"{_SERVER}.WeightedMean", "args": {}},
    }
    server = {
        "format_version": 2,
        "workflows": [
            {
                "id": "controller",
                "path": "nvflare.app_common.workflows.fedavg.FedAvg",
                "args": controller,
            }
        ],
        "components": [
            {
                "id": "persistor",
                "path": f"{_SERVER}.NamedArraysPersistor",
                "args": {"initial": model},
            }
        ],
    }
    executor = {
        "path": "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor",
        "args": {
            "execution_mode": "in_process",
            "task_script_path": script,
            "params_exchange_format": "raw",
            "server_expected_format": "raw",
        },
    }
    client = {"format_version": 2, "executors": [{"tasks": ["train"], "executor": executor}]}
    about = {
        "name": folder.name,
        "resource_spec": {},
        "min_clients": num_sites,
        "deploy_map": {"app": ["@ALL"]},
    }
    atomic.write_json(config / "config_fed_server.json", server)
    atomic.write_json(config / "config_fed_client.json", client)
    atomic.write_json(folder / "meta.json", about)
    return folder

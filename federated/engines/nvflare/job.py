"""Writes an NVFLARE job that federates a `SiteTrainer`."""

from __future__ import annotations

import pathlib
import shutil

from federated.engines.engine_run import EngineRun
from runkit import atomic

_SERVER = "federated.engines.nvflare.server"
_INITIAL = "initial.safetensors"  # of the job, whatever the given file is called


def write_job(run: EngineRun) -> pathlib.Path:
    """Writes a job for NVFLARE's admin client or API to submit; returns its folder.

    The job holds copies of the script and the initial model. NVFLARE's own `FedJob` would also copy
    those modules of this package that the job names, but not what they import.
    """
    with run.writing() as temporary:
        _write(run, temporary)
    return run.folder


def _write(run: EngineRun, folder: pathlib.Path) -> None:
    custom, config = folder / "app" / "custom", folder / "app" / "config"
    custom.mkdir(parents=True)
    config.mkdir()
    shutil.copy(run.site_script, custom / run.site_script.name)
    shutil.copy(run.initial, custom / _INITIAL)
    controller = {
        "num_clients": run.num_sites,
        "num_rounds": run.num_rounds,
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
                "args": {"initial": _INITIAL},
            }
        ],
    }
    executor = {
        "path": "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor",
        "args": {
            "execution_mode": "in_process",
            "task_script_path": run.site_script.name,
            "params_exchange_format": "raw",
            "server_expected_format": "raw",
        },
    }
    client = {"format_version": 2, "executors": [{"tasks": ["train"], "executor": executor}]}
    about = {
        "name": run.folder.name,
        "resource_spec": {},
        "min_clients": run.num_sites,
        "deploy_map": {"app": ["@ALL"]},
    }
    atomic.write_json(config / "config_fed_server.json", server)
    atomic.write_json(config / "config_fed_client.json", client)
    atomic.write_json(folder / "meta.json", about)

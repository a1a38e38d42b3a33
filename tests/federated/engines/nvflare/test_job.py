import json

import pytest

from federated.engines.engine_run import EngineRun
from tests.federated import toy


@pytest.fixture
def job(without_engine, tmp_path):
    """The folder of a job of seven rounds at two sites."""
    script = tmp_path / "my_site.py"
    script.write_text("print('a site')\n")
    plan = {**toy.PLAN, "schedule": {"num_rounds": 7}}
    toy.write_initial(tmp_path / "first.safetensors", plan=plan)
    nvflare_job = without_engine("federated.engines.nvflare.job", "2.9.0")
    return nvflare_job.write_job(
        EngineRun(
            folder=tmp_path / "rounds",
            site_script=script,
            initial=tmp_path / "first.safetensors",
            num_rounds=7,
            num_sites=2,
        )
    )


def read(path):
    return json.loads(path.read_text())


def test_a_job_holds_the_script_and_the_initial_model(job, tmp_path):
    custom = job / "app" / "custom"
    for copy, name in (("my_site.py",) * 2, ("initial.safetensors", "first.safetensors")):
        assert (custom / copy).read_bytes() == (tmp_path / name).read_bytes()


def test_every_round_waits_for_every_site(job):
    meta, config = read(job / "meta.json"), read(job / "app" / "config" / "config_fed_server.json")
    assert meta["name"] == "rounds" and meta["min_clients"] == 2
    ((controller,), (persistor,)) = config["workflows"], config["components"]
    assert (controller["args"]["num_clients"], controller["args"]["num_rounds"]) == (2, 7)
    assert controller["args"]["persistor_id"] == persistor["id"]
    assert persistor["args"] == {"initial": "initial.safetensors"}  # beside the script


def test_the_classes_that_a_job_names_are_there(job, without_engine):
    """Compared as text, because their base classes are NVFLARE's."""
    config = read(job / "app" / "config" / "config_fed_server.json")
    named = [
        config["workflows"][0]["args"]["aggregator"]["path"],
        config["components"][0]["path"],
    ]
    package = without_engine("federated.engines.nvflare", "2.9.0").__path__[0]
    with open(f"{package}/server.py", encoding="utf-8") as file:
        source = file.read()
    for path in named:
        module, _, name = path.rpartition(".")
        assert module == "federated.engines.nvflare.server" and f"class {name}(" in source


def test_weights_travel_as_they_are(job):
    (entry,) = read(job / "app" / "config" / "config_fed_client.json")["executors"]
    args = entry["executor"]["args"]
    assert entry["tasks"] == ["train"] and args["task_script_path"] == "my_site.py"
    assert args["params_exchange_format"] == args["server_expected_format"] == "raw"

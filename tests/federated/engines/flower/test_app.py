import ast
import dataclasses

import pytest

from federated.engines.engine_run import EngineRun
from tests.federated import toy


@pytest.fixture
def flower_app(without_engine):
    return without_engine("federated.engines.flower.app", "1.23.0")


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "my_site.py"
    path.write_text("app = None\n")
    return path


@pytest.fixture
def initial(tmp_path):
    plan = {**toy.PLAN, "schedule": {"num_rounds": 7}}
    return toy.write_initial(tmp_path / '"first".safetensors', plan=plan)


@pytest.fixture
def run(script, initial, tmp_path):
    return EngineRun(
        folder=tmp_path / "rounds",
        site_script=script,
        initial=initial,
        num_rounds=7,
        num_sites=2,
    )


def test_an_app_holds_the_sites_script_and_a_server_with_the_runs_settings(
    flower_app, script, initial, run
):
    folder = flower_app.write_app(run, output="/srv/out", publisher="charite")
    package = folder / "rounds"
    assert (package / "site.py").read_text() == script.read_text()
    assert (package / "__init__.py").read_text() == ""
    (call,) = (
        node.value
        for node in ast.parse((package / "server.py").read_text()).body
        if isinstance(node, ast.Assign)
    )
    assert [ast.literal_eval(argument) for argument in call.args] == [
        str(initial),
        "/srv/out",
    ]
    assert {word.arg: ast.literal_eval(word.value) for word in call.keywords} == {
        "num_rounds": 7,
        "num_sites": 2,
    }
    lines = (folder / "pyproject.toml").read_text().splitlines()
    for line in (
        'name = "rounds"',
        'publisher = "charite"',
        'serverapp = "rounds.server:app"',
        'clientapp = "rounds.site:app"',
    ):
        assert lines.count(line) == 1


@pytest.mark.parametrize(
    "name", ["my-app", "2nd", "class", "None", "federated", "numpy", "json", "sys"]
)
def test_a_folder_that_cannot_be_the_apps_module_is_refused(flower_app, run, tmp_path, name):
    with pytest.raises(
        ValueError, match=rf"{name}: the folder's name is the app's module.* give it"
    ):
        flower_app.write_app(
            dataclasses.replace(run, folder=tmp_path / "out" / name), output="/srv/out"
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["initial", "output"])
def test_a_relative_path_is_refused(flower_app, run, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    relative = {"initial": run.initial.name, "output": "srv/out"}
    paths = {"initial": run.initial, "output": "/srv/out", name: relative[name]}
    with pytest.raises(ValueError, match=rf"{name} is '.*give the absolute path on the machine of"):
        flower_app.write_app(
            dataclasses.replace(run, initial=paths["initial"]), output=paths["output"]
        )
    assert not run.folder.exists()


@pytest.mark.parametrize(
    "text", ["app = None\n", "from here import app\n", "import here as app\n", "def app(): ...\n"]
)
def test_a_script_may_define_app_in_any_way(flower_app, run, text):
    run.site_script.write_text(text)
    flower_app.write_app(run, output="/srv/out")
    assert (run.folder / "rounds" / "site.py").read_text() == text


@pytest.mark.parametrize(
    "text", ["", "print(app)\n", "def make():\n    app = None\n", "application = None\n"]
)
def test_a_script_without_app_is_refused(flower_app, run, text):
    run.site_script.write_text(text)
    with pytest.raises(ValueError, match=r"my_site.py, which does not define `app`"):
        flower_app.write_app(run, output="/srv/out")
    assert not run.folder.exists()

import ast

import pytest


@pytest.fixture
def flower_app(without_engine):
    return without_engine("federated.engines.flower.app", "1.23.0")


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "my_site.py"
    path.write_text("app = None\n")
    return path


def test_an_app_holds_the_sites_script_and_a_server_with_the_runs_settings(
    flower_app, script, tmp_path
):
    folder = flower_app.write_app(
        tmp_path / "rounds",
        site_script=script,
        initial='/models/"first".safetensors',
        output="/srv/out",
        num_rounds=7,
        num_sites=2,
        publisher="charite",
    )
    package = folder / "rounds"
    assert (package / "site.py").read_text() == script.read_text()
    assert (package / "__init__.py").read_text() == ""
    (call,) = (
        node.value
        for node in ast.parse((package / "server.py").read_text()).body
        if isinstance(node, ast.Assign)
    )
    assert [ast.literal_eval(argument) for argument in call.args] == [
        '/models/"first".safetensors',
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


def test_a_folder_that_python_cannot_import_is_refused(flower_app, script, tmp_path):
    with pytest.raises(ValueError, match=r"my-app: .*give it letters, digits and '_'"):
        flower_app.write_app(
            tmp_path / "my-app",
            site_script=script,
            initial="a",
            output="b",
            num_rounds=1,
            num_sites=1,
        )
    assert not (tmp_path / "my-app").exists()

import ast
import json
import os
import pathlib
import sys

import nbclient
import nbformat
import numpy as np
import pytest

import experiments
from experiments.reports import table1_report
from federated.tensors import tensor_files
from tests.experiments import run_folder
from tests.experiments.study import GENOTYPE

NOTEBOOKS = sorted((pathlib.Path(experiments.__file__).parent / "notebooks").glob("*.ipynb"))


def python_of(cell):
    return "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_only_calls_and_keeps_no_output(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
            assert not [
                node for node in ast.walk(ast.parse(python_of(cell))) if isinstance(node, defined)
            ], cell.source
            assert cell.outputs == [] and cell.execution_count is None, (
                f"{path.name}: strip the outputs of cell {cell.id}"
            )


@pytest.fixture
def this_python(tmp_path, monkeypatch):
    """A kernel "python3" that is this interpreter, whatever is installed beside it."""
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(
        json.dumps({"argv": command, "display_name": "Python 3", "language": "python"})
    )
    root = pathlib.Path(experiments.__file__).parents[1]
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    )
    return "python3"


@pytest.fixture
def finished(tmp_path, monkeypatch):
    folder = tmp_path / "runs" / "demo"
    run_folder.leave_traces(folder)
    # Four cells, because the notebook builds the network. The file of the genotype is gone.
    plan = json.dumps({"genotype": GENOTYPE})
    weights = {"stem/first/kernel": np.zeros((3, 3, 3, 1, 4), np.float32)}
    tensor_files.save(folder / "initial.safetensors", weights, {"plan": plan})
    table1_report.write(
        folder,
        run_folder.rows(),
        config={**run_folder.CONFIGURATION, "genotype": "mine.json"},
        wall_seconds={},
    )
    monkeypatch.setenv("RUN_FOLDER", str(folder))
    return folder


def executed(name, kernel, folder):
    """Runs a notebook and returns cell id -> outputs."""
    (path,) = [path for path in NOTEBOOKS if path.stem == name]
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=240, kernel_name=kernel, resources={"metadata": {"path": str(folder)}}
    ).execute()
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def pictures(outputs):
    return [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]


def test_the_notebook_of_table_1_runs_on_a_finished_run(finished, this_python):
    outputs = executed("table1", this_python, finished)
    (table,) = outputs["table"]
    assert "| C1_baseline | 85.0 (81.5) |" in table.data["text/markdown"]
    for cell in ("table-figure", "pictures", "curves", "timeline"):
        (picture,) = pictures(outputs[cell])
        assert len(picture) > 1000, cell


def test_the_systems_notebook_draws_figures_1_to_3(finished, this_python):
    outputs = executed("system", this_python, finished)
    for cell in ("fig1", "genotype", "full-size", "vae"):
        assert len(pictures(outputs[cell])) == 1, cell


def test_the_systems_notebook_says_so_if_a_run_has_no_branch(finished, this_python):
    run_folder.change_table(finished, lambda content: content["configuration"].update(vae="none"))
    outputs = executed("system", this_python, finished)
    assert len(pictures(outputs["genotype"])) == 1 and not pictures(outputs["vae"])
    assert "without the VAE branch" in outputs["vae"][0]["text"]


def test_the_notebook_of_cases_draws_figures_4_and_5(finished, this_python):
    run_folder.leave_cases(finished)
    outputs = executed("cases", this_python, finished)
    assert len(pictures(outputs["fig4"])) == 2
    assert [output.data["text/html"].count("data:image/") for output in outputs["browser"]] == [
        8,
        12,
    ]


def test_the_studys_notebook_shows_table_verdicts_and_page(tmp_path, this_python, monkeypatch):
    folder = tmp_path / "study"
    run_folder.leave_study(folder)
    monkeypatch.setenv("STUDY_FOLDER", str(folder))
    outputs = executed("study", this_python, tmp_path)
    assert "| FL_global | 80.0" in outputs["table"][0].data["text/markdown"]
    assert "iframe" in outputs["page"][0].data["text/html"]

import ast
import json
import os
import pathlib
import sys

import nbclient
import nbformat
import pytest

import experiments
from experiments import report
from tests.experiments import run_folder

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
            assert not [node for node in ast.walk(ast.parse(python_of(cell))) if isinstance(node, defined)], cell.source
            assert cell.outputs == [] and cell.execution_count is None, f"{path.name}: strip the outputs of cell {cell.id}"


@pytest.fixture
def this_python(tmp_path, monkeypatch):
    """A kernel "python3" that is this interpreter, whatever is installed beside it."""
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "Python 3", "language": "python"}))
    root = pathlib.Path(experiments.__file__).parents[1]
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])]))
    return "python3"


def test_the_notebook_of_table_1_runs_on_a_finished_run(tmp_path, this_python, monkeypatch):
    folder = tmp_path / "runs" / "demo"
    run_folder.leave_traces(folder)
    report.write(folder, run_folder.rows(), config=run_folder.CONFIGURATION, wall_seconds={})
    monkeypatch.setenv("RUN_FOLDER", str(folder))
    (path,) = [path for path in NOTEBOOKS if path.name == "table1.ipynb"]
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=60, kernel_name=this_python, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    (table,) = outputs["table"]
    assert "| C1_baseline | 85.0 (81.5) |" in table.data["text/markdown"]
    for cell in ("table-figure", "pictures", "curves", "timeline"):
        (picture,) = outputs[cell]
        assert len(picture.data["image/png"]) > 1000, cell

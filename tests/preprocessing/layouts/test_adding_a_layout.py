"""The steps of "Add a dataset layout" in CONTRIBUTING.md, followed to the letter."""

import pathlib
import re
import subprocess
import sys
import textwrap

from preprocessing import layouts, manifest
from tests.preprocessing.layouts.files import touch

ROOT = pathlib.Path(__file__).parents[3]


# `list_cases` in a process whose table of layouts has the new entry
PROGRAM = """
import runpy, sys
from preprocessing import layouts
layouts.MODULES[{name!r}] = {module!r}
runpy.run_module("experiments.list_cases", run_name="__main__", alter_sys=True)
"""


def section():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.search(r"^### Add a dataset layout\n(.*?)^##", text, re.MULTILINE | re.DOTALL)[1]


def test_the_example_of_the_guide_becomes_a_layout_of_list_cases(tmp_path):
    (module,) = re.findall(r"```python\n(.*?)```", section(), re.DOTALL)
    ((name, place),) = re.findall(r'`"(\w+)": "([\w.]+)"` in `MODULES`', section())
    assert place == f"{layouts.__name__}.{name}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(module), encoding="utf-8")
    touch(tmp_path / "scans" / "p1", "ct.nii.gz")
    touch(tmp_path / "scans" / "p 2", "ct.nii.gz")
    touch(tmp_path / "masks" / "p 2", "mask.nii.gz")
    touch(tmp_path / "masks" / "p3", "mask.nii.gz")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PROGRAM.format(name=name, module=name),
            f"--layout={name}",
            "--site=C1",
            f"--images={tmp_path / 'scans'}",
            f"--labels={tmp_path / 'masks'}",
            f"--output={tmp_path / 'manifest.json'}",
        ],
        cwd=ROOT,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "labels without a scan of the same name: 1, e.g. p3" in done.stdout
    # The id of a case is the name of its folder, so only "p 2" was changed.
    assert "and were changed: 1, e.g. p 2/ct.nii.gz to p_2" in done.stdout
    assert [
        (case.case_id, case.image.relative_to(tmp_path).as_posix(), case.label is None)
        for case in manifest.read(tmp_path / "manifest.json").cases
    ] == [("p_2", "scans/p 2/ct.nii.gz", False), ("p1", "scans/p1/ct.nii.gz", True)]


def test_the_guide_names_what_exists():
    for path in re.findall(r"`((?:preprocessing|tests)/[\w./]*)`", section()):
        assert (ROOT / path).exists(), path
    assert "_FORMATS" in (ROOT / "preprocessing" / "manifest.py").read_text(encoding="utf-8")

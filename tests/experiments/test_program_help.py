"""--help of every program: purpose, example, its flags with required ones first.

Wrong flags give an error of one line.
"""

import ast
import re
import subprocess
import sys

import pytest

from tests.experiments.programs import PROGRAMS, ROOT, fresh

_CONDITIONAL = {("request", "site"), ("operate", "site"), ("serve", "models")}


@pytest.fixture(scope="module")
def slow_packages_refuse(tmp_path_factory):
    """A folder of packages that raise when imported.

    They replace packages whose import takes a second or more and which --help does not need.
    """
    folder = tmp_path_factory.mktemp("slow packages")
    for name in ("tensorflow", "scipy", "matplotlib", "numba", "nibabel", "pydicom"):
        (folder / f"{name}.py").write_text(
            f"raise ImportError('{name} is imported before it is needed')\n"
        )
    return folder


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_shows_the_programs_own_flags(program, slow_packages_refuse):
    done = fresh(program, "--help", path=slow_packages_refuse)
    text, source = done.stdout, PROGRAMS[program]
    assert done.returncode == 0 and done.stderr == "", done.stderr
    doc = ast.get_docstring(ast.parse(source))
    assert text.startswith(doc.splitlines()[0]) and f"python -m experiments.{program} " in text
    assert "repeat this option" not in text
    own = re.findall(r"""flags\.DEFINE_\w+\(\s*"(\w+)\"""", source)
    shared = (
        ["--seed=N", "--patch_size=", "--num_rounds="] if "define_experiment()" in source else []
    )
    for flag in [*(f"--{name}=" for name in own), *shared]:
        assert flag in text or flag[:-1].replace("--", "--[no]") in text, flag
    listed = re.findall(r"^  --(?:\[no\])?(\w+)", text, re.M)
    assert len(set(listed)) == len(listed) and not {
        "verbosity",
        "pdb",
        "run_with_pdb",
        "only_check_args",
    } & set(listed)
    # what `main` asks for by `required` is what --help shows first
    needed = set(re.findall(r"""experiment_flags\.required\(\s*"(\w+)\"""", source))
    if "experiment_flags.site_folder(" in source:
        needed.add("site_folder")
    first = text[text.index("Required:") :].split("\n\n")[0] if needed else ""
    assert needed <= set(re.findall(r"^  --(\w+)", first, re.M)) | {
        flag for name, flag in _CONDITIONAL if name == program
    }
    assert listed[: len(re.findall(r"^  --", first, re.M))] == re.findall(
        r"^  --(\w+)", first, re.M
    )


def test_help_into_a_pipe_that_closes_is_no_error():
    command = f"{sys.executable} -m experiments.join --help | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.startswith("Takes part in a federation") and done.stderr == ""

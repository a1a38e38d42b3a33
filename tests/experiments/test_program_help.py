"""--help of every program: what it does, an example, its own flags, the required ones first; and
wrong flags in one line.
"""

import ast
import codecs
import re
import subprocess
import sys

import pytest

from tests.experiments.programs import PROGRAMS, ROOT, run

_CONDITIONAL = {("request", "site"), ("operate", "site"), ("serve", "models")}


@pytest.fixture(scope="module")
def slow_packages_refuse(tmp_path_factory):
    """A folder of packages that raise where a program imports them; each takes a second or more,
    and help needs none.
    """
    folder = tmp_path_factory.mktemp("slow packages")
    for name in ("tensorflow", "scipy", "matplotlib", "numba", "nibabel", "pydicom"):
        (folder / f"{name}.py").write_text(
            f"raise ImportError('{name} is imported before it is needed')\n"
        )
    return folder


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_shows_the_programs_own_flags(program, slow_packages_refuse):
    done = run(program, "--help", path=slow_packages_refuse)
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


def test_no_profile_starts_no_table_of_weeks(tmp_path):
    done = run("table1", folder=tmp_path)
    assert (
        done.returncode == 1
        and "days on two cores" in done.stderr
        and "experiments/flagfiles/demo.flags" in done.stderr
    )
    assert not list(tmp_path.iterdir())


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_flag_file_is_read_in_the_encoding_that_it_names(tmp_path, encoding):
    (tmp_path / "study.flags").write_text(
        "# größe\n\n--site=C1\n// a comment\n--output=made\n--cases=1\n--quux\n", encoding=encoding
    )
    done = run("synthesize", "--flagfile=study.flags", folder=tmp_path)
    assert done.returncode == 1 and done.stderr.splitlines() == [
        "error: study.flags, line 7: unknown flag --quux (--help lists the flags)"
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("--cases=1\n--filtres=8\n", "study.flags, line 2: unknown flag --filtres"),
        ("--case=1\n", "study.flags, line 1: unknown flag --case; did you mean --cases?"),
        ("--cases=some\n", "study.flags, line 1: --cases is 'some': "),
        (
            "--flagfile=study.flags\n",
            "study.flags, line 1: --flagfile=study.flags: this flag file includes itself",
        ),
        (
            "--flagfile=absent.flags\n",
            "study.flags, line 1: --flagfile=absent.flags: cannot be read (No such file or directory)",
        ),
        ("cases=1\n", "unexpected argument 'cases=1'"),
        (
            "--cases=1\n".encode("utf-16-le"),
            "--flagfile=study.flags: contains zero bytes, perhaps UTF-16",
        ),
        ("--output=gr\xf6\xdfe\n".encode("latin-1"), "--flagfile=study.flags: is not UTF-8"),
        (codecs.BOM_UTF16_LE + b"-", "--flagfile=study.flags: is not UTF-16"),
    ],
)
def test_what_is_wrong_in_a_flag_file_is_named_with_its_place(tmp_path, content, words):
    (tmp_path / "study.flags").write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )
    done = run("synthesize", "--flagfile=study.flags", folder=tmp_path)
    assert (
        done.returncode == 1
        and done.stderr.startswith(f"error: {words}")
        and done.stderr.count("\n") == 1
    ), done.stderr


@pytest.mark.parametrize(
    ("name", "words"), [("absent.flags", "No such file"), (".", "Is a directory")]
)
def test_a_flag_file_that_is_not_there(tmp_path, name, words):
    done = run("synthesize", f"--flagfile={name}", folder=tmp_path)
    assert (
        done.returncode == 1
        and f"error: --flagfile={name}: cannot be read ({words}" in done.stderr
        and done.stderr.count("\n") == 1
    )


def test_flags_count_in_their_order_wherever_they_stand(tmp_path):
    (tmp_path / "inner.flags").write_text("--cases=1\n")
    (tmp_path / "outer.flags").write_text("--cases=2\n--flagfile=inner.flags\n")
    for flags, cases in (
        (["--cases=-3", "--flagfile=outer.flags"], None),
        (["--flagfile", "outer.flags", "--cases=-4"], -4),
    ):
        done = run("synthesize", *flags, "--output=made", "--site=C1", folder=tmp_path)
        assert done.returncode == (0 if cases is None else 1), done.stderr
        assert cases is None or str(cases) in done.stderr
    assert len(list((tmp_path / "made").glob("**/*.nii.gz"))) == 2  # one scan and its label


def test_a_full_disk_is_one_line_with_the_file_what_is_free_and_what_to_do(tmp_path):
    (tmp_path / "program.py").write_text(
        "import errno\nfrom experiments import flags\n"
        "def main(argv):\n    raise OSError(errno.ENOSPC, 'No space left on device', 'best.safetensors')\nflags.run(main, resumes=True)\n"
    )
    command = [sys.executable, tmp_path / "program.py"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}
    )
    words = r"error: best\.safetensors: cannot be written \(No space left on device\); [\d.]+ MB are free there\. Free space and run the same "
    assert done.returncode == 1 and re.fullmatch(
        words + r"command again: finished parts are kept, and the run continues after them\n",
        done.stderr,
    )


def test_a_package_that_the_base_installation_leaves_out_is_named_with_the_remedy(tmp_path):
    code = (
        "import sys\nsys.modules['psutil'] = None\nsys.argv = ['prepare', '--manifest=m.json', '--site_folder=s']\n"
        "import runpy\nrunpy.run_module('experiments.prepare', run_name='__main__')\n"
    )
    (tmp_path / "m.json").write_text('{"site": "C1", "cases": []}')
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "needs the package psutil" in done.stderr and "pip install '.[site]'" in done.stderr

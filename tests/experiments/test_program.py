"""The wrapper of every program: each error in one line with its remedy."""

import re
import subprocess
import sys

import pytest

from tests import forked


def test_a_full_disk_is_one_line_with_the_file_what_is_free_and_what_to_do(tmp_path):
    (tmp_path / "program.py").write_text(
        "import errno\nfrom experiments import program\n"
        "def main(argv):\n    raise OSError(errno.ENOSPC, 'No space left on device', 'best.safetensors')\nprogram.run(main, resumes=True)\n"
    )
    done = forked.run("program", folder=tmp_path)
    words = r"error: best\.safetensors: cannot be written \(No space left on device\); [\d.]+ MB are free there\. Free space and run the same "
    assert done.returncode == 1 and re.fullmatch(
        words + r"command again: finished parts are kept, and the run continues after them\n",
        done.stderr,
    )


@pytest.mark.parametrize(
    ("call", "path", "words"),
    [
        ("open", "absent/Köln.json", "no such file or directory; correct the path"),
        ("open", "folder", "is a directory; give the path of a file"),
        ("os.mkdir", "file/inside", "not a directory; correct the path"),
        ("open", "x" * 300, "file name too long; choose a shorter name"),
        ("open", "loop", "too many levels of symbolic links; remove the link"),
        ("os.rmdir", "full", "directory not empty"),
    ],
)
def test_an_error_about_a_path_names_it_first_and_says_what_to_do(call, path, words, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "full" / "inner").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "program.py").write_text(
        f"import os\nfrom experiments import program\nprogram.run(lambda argv: {call}({path!r}))\n",
        encoding="utf-8",
    )
    done = forked.run("program", folder=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith(f"error: {path}: {words}")
    assert done.stderr.count("\n") == 1 and "Errno" not in done.stderr


def test_an_error_that_says_more_than_the_system_keeps_its_words(tmp_path):
    (tmp_path / "program.py").write_text(
        "import errno\nfrom experiments import program\n"
        "def main(argv):\n    raise PermissionError(errno.EACCES, 'a link; remove it', 'kit')\n"
        "program.run(main)\n"
    )
    done = forked.run("program", folder=tmp_path)
    assert (done.returncode, done.stderr) == (1, "error: kit: a link; remove it\n")


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

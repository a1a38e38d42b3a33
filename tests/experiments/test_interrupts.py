"""Ctrl-C in every program: one line and exit code 130, whatever the program was doing."""

import pathlib
import signal
import subprocess
import sys

import pytest

from tests.experiments.programs import PROGRAMS, ROOT, fresh

_INTERRUPT = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"


@pytest.fixture(autouse=True)
def in_the_foreground():
    """Starts programs as a terminal does.

    The tests themselves may have been started in the background and ignore Ctrl-C.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("program", PROGRAMS)
def test_while_it_imports(tmp_path, program):
    (tmp_path / "absl.py").write_text(_INTERRUPT)
    done = fresh(program, path=tmp_path)
    assert (done.returncode, done.stderr) == (
        130,
        "stopped by Ctrl-C before it began; run the same command again\n",
    )


@pytest.mark.parametrize("program", ["dryrun", "init_model"])
def test_within_an_import_that_makes_another_error_of_it(tmp_path, program):
    (tmp_path / "tensorflow.py").write_text(
        "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept BaseException:\n    pass\nraise ImportError('half loaded')\n"
    )
    done = fresh(program, *(["--output=x"] if program == "init_model" else []), path=tmp_path)
    assert done.returncode == 130 and "Traceback" not in done.stderr, done.stderr
    assert (
        done.stderr.startswith("stopped by Ctrl-C; run the same command again to ")
        and done.stderr.count("\n") == 1
    )


@pytest.mark.parametrize(("resumes", "words"), [(True, "to resume"), (False, "to start over")])
def test_while_it_works(tmp_path, resumes, words):
    (tmp_path / "program.py").write_text(
        "import os, signal, threading\nfrom experiments import program\ndef main(argv):\n    os.kill(os.getpid(), signal.SIGINT)\n"
        f"    threading.Event().wait()\nprogram.run(main, resumes={resumes})\n"
    )
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stderr) == (
        130,
        f"stopped by Ctrl-C; run the same command again {words}\n",
    )


def test_a_program_that_was_started_in_the_background_goes_on(tmp_path):
    """A shell without job control starts it so that it ignores Ctrl-C.

    Ctrl-C is meant for the program in the foreground.
    """
    (tmp_path / "absl.py").write_text(_INTERRUPT + "import sys\nsys.exit(7)\n")
    ignoring = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        done = fresh("status", path=tmp_path)
    finally:
        signal.signal(signal.SIGINT, ignoring)
    assert done.returncode == 7 and pathlib.Path(tmp_path / "absl.py").is_file()

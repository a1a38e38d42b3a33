"""Programs of the product, each a fork of a process that has already imported TensorFlow.

This halves the time of a short program. A forked program is a separate process like any other, with
its own flags, folder, environment and output: its own modules are imported in it, TensorFlow has
not computed anything before, and it can be killed. A fork does not test that the program finds its
packages by itself; `test_programs` starts the main programs as a user does.
"""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Container, Mapping, Sequence

from experiments.run.processes import Program, ProgramGroup

ROOT = pathlib.Path(__file__).parents[1]
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.preloaded"])


class Process:
    """As a subprocess.Popen, as far as tests and `ProgramGroup` use one."""

    def __init__(self, process: multiprocessing.process.BaseProcess):
        self._process = process
        self.pid = process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    poll = returncode.fget

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


def start(
    module: str,
    arguments: Sequence[object],
    *,
    out,
    errors,
    folder=ROOT,
    environment: Mapping[str, str] | None = None,
) -> Process:
    """Starts `python -m module arguments`, which appends to the files `out` and `errors`."""
    given = (
        module,
        list(map(str, arguments)),
        str(folder),
        dict(os.environ if environment is None else environment),
        str(out),
        str(errors),
        _compiled().name if sys.dont_write_bytecode else None,
    )
    for file in (out, errors):
        pathlib.Path(file).touch()
    process = _FORKS.Process(target=_be, args=given, name=module)
    process.start()
    return Process(process)


def run(
    module: str, *arguments: object, folder=ROOT, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess:
    """Runs a program to its end, like subprocess.run with captured output.

    Bytes that are not UTF-8 become surrogates.
    """
    with tempfile.TemporaryDirectory() as said:
        files = [pathlib.Path(said) / name for name in ("stdout", "stderr")]
        process = start(
            module, arguments, out=files[0], errors=files[1], folder=folder, environment=environment
        )
        try:
            process.wait(1800)
        finally:
            process.kill()
        out, errors = (file.read_text(encoding="utf-8", errors="surrogateescape") for file in files)
        return subprocess.CompletedProcess([module, *arguments], process.returncode, out, errors)


class Group(ProgramGroup):
    """A `ProgramGroup` that forks its programs.

    Programs of another Python and those named by `fresh` are started as usual.
    """

    def __init__(self, log_folder: pathlib.Path, *, fresh: Container[str] = ()):
        super().__init__(log_folder)
        self._fresh = fresh

    def start(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        *,
        log: str | None = None,
        python: str = sys.executable,
    ) -> Program:
        if python != sys.executable or name in self._fresh:
            return super().start(name, module, arguments, log=log, python=python)
        path = self._log_folder / f"{log or name}.log"
        program = Program(
            name,
            path,
            start(module, arguments, out=path, errors=path, environment=self._environment),
        )
        self._programs.append(program)
        return program


@functools.cache
def _compiled() -> tempfile.TemporaryDirectory:
    """A folder for compiled modules, where Python is told to keep none beside the sources.

    Without it, every program would compile the product's modules again, most of its start.
    """
    return tempfile.TemporaryDirectory(prefix="compiled_for_tests_")


def _be(
    module: str,
    arguments: list[str],
    folder: str,
    environment: dict[str, str],
    out: str,
    errors: str,
    compiled: str | None,
) -> None:
    """Becomes the program. Its SystemExit ends the process with its code."""
    for file, descriptor in ((out, 1), (errors, 2)):
        opened = os.open(file, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    if compiled is not None:
        sys.pycache_prefix, sys.dont_write_bytecode = compiled, False
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path.insert(0, folder)
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # a process of `multiprocessing` leaves them out

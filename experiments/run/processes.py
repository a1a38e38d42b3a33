"""Runs programs side by side: writes log files, shows their progress, sums their memory."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import psutil

from runkit import child_programs, printable, progress

_POLL_S = 0.2
_LINE_EVERY_S = 60.0  # where standard error is not a terminal
# How often the programs log their progress: what the terminal shows is never older.
_PROGRESS_EVERY_S = 15.0
# lines written by this product, not by a library
_OWN_LINE = re.compile(rf"^(?:{progress.PREFIX}|error: |.*\] (?:event|site|model)=)")
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class ProgramFailed(ValueError):
    """A program ended with an error; the message has its name, exit code, log and last lines."""


class GroupTerminated(BaseException):
    """SIGTERM arrived while programs ran. Not an Exception, so that handlers do not catch it."""


@dataclasses.dataclass
class Program:
    """A started program.

    Attributes:
      name: its name on the terminal, e.g. "C1".
      log: the file with its standard output and error.
    """

    name: str
    log: pathlib.Path
    process: subprocess.Popen

    def latest_line(self) -> str:
        """Returns the newest log line with progress, an event or an error; else the newest line."""
        lines = self._tail(16384)
        own = [line for line in lines if _OWN_LINE.match(line)]
        return (own or lines or [""])[-1].removeprefix(progress.PREFIX)

    def explain(self) -> str:
        """Returns a message about its failure: name, exit code, log file and last lines."""
        tail = self._tail(8192)
        errors = [line for line in tail if line.startswith(("error:", "FATAL", "Traceback"))]
        words = "\n  ".join(
            errors[-1:] if errors and errors[-1].startswith("error:") else tail[-12:]
        )
        return (
            f"{self.name} ended with exit code {self.process.returncode}; "
            f"its log is {self.log}\n  {words}"
        )

    def _tail(self, limit: int) -> list[str]:
        """Returns the lines in the last `limit` bytes of the log."""
        with open(self.log, "rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - limit))
            text = stream.read().decode("utf-8", errors="replace")
        pieces = (
            printable.text(_CONTROL.sub("", piece).strip(), limit=2000)
            for piece in re.split(r"[\r\n]", text)
        )
        return [piece for piece in pieces if piece]


class ProgramGroup:
    """The programs of one run. A context manager, which stops programs still running on exit.

    When this process is killed, its programs end too. SIGTERM ends them first and then this
    process, with a line on standard error.

    Args:
      environment: variables added to this process's environment for the programs.
      python: the interpreter that runs the programs.

    Attributes:
      peak_memory_bytes: highest sum of the resident memory of this process and all programs seen
          while waiting.
    """

    def __init__(
        self,
        log_folder: str | os.PathLike,
        *,
        environment: dict[str, str] | None = None,
        python: str = sys.executable,
    ):
        self._log_folder = pathlib.Path(log_folder)
        self._log_folder.mkdir(parents=True, exist_ok=True)
        self._environment = {
            progress.EVERY: str(_PROGRESS_EVERY_S),
            **os.environ,
            **(environment or {}),
        }
        self._programs: list[Program] = []
        self._python = python
        self._pipes: list[BinaryIO] = []
        self._terminated = False
        self._before: Any = None  # the earlier handler of SIGTERM, as `signal.signal` returns it
        self.peak_memory_bytes = 0

    def __enter__(self) -> ProgramGroup:
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        ):
            self._before = signal.signal(signal.SIGTERM, self._terminate)
        return self

    def _terminate(self, number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the programs are already being ended
        self._terminated = True
        raise GroupTerminated

    def __exit__(self, *error: object) -> None:
        running = [program for program in self._programs if program.process.poll() is None]
        for program in running:
            program.process.terminate()
        for program in running:
            try:
                program.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                program.process.kill()
                program.process.wait()
        for pipe in self._pipes:
            pipe.close()
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
        if self._terminated:
            sys.stderr.write("stopped by SIGTERM; run the same command again to resume\n")
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGTERM)

    def start(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        *,
        log: str | None = None,
        python: str | None = None,
    ) -> Program:
        """Starts `python -m module arguments`, its output appended to `<log folder>/<log>.log`.

        Args:
          log: the log file's name without suffix; by default `name`.
          python: an interpreter other than the group's.
        """
        path = self._log_folder / f"{log or name}.log"
        with open(path, "ab") as stream:
            process, pipe = child_programs.start(
                [python or self._python, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=self._environment,
            )
        self._pipes.append(pipe)
        program = Program(name, path, process)
        self._programs.append(program)
        return program

    def wait(self, programs: Sequence[Program], what: str) -> None:
        """Waits until all `programs` have succeeded, showing their progress.

        Args:
          programs: the programs to wait for.
          what: the stage's name on the terminal.
        Raises:
          ProgramFailed: as soon as one of them ends with an error.
        """
        display = _Display(what)
        while True:
            self._watch_memory()
            for program in programs:
                if program.process.poll() not in (None, 0):
                    display.close()
                    raise ProgramFailed(program.explain())
            waiting = [program for program in programs if program.process.poll() is None]
            if not waiting:
                display.close()
                return
            display.show([f"{program.name}: {program.latest_line()}" for program in programs])
            time.sleep(_POLL_S)

    def wait_for(
        self, ready: Callable[[], bool], program: Program, what: str, timeout_s: float
    ) -> None:
        """Waits until `ready()`.

        Raises:
          ProgramFailed: if `program` ends first, or after `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            if program.process.poll() is not None:
                raise ProgramFailed(program.explain())
            if time.monotonic() > deadline:
                raise ProgramFailed(
                    f"{program.name}: {what} took more than {timeout_s:.0f} s; "
                    f"its log is {program.log}"
                )
            time.sleep(0.05)

    def _watch_memory(self) -> None:
        total = 0
        own = psutil.Process()
        for process in (own, *own.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.Error:  # ended since it was listed
                continue
        self.peak_memory_bytes = max(self.peak_memory_bytes, total)


class _Display:
    """Redraws a few lines on a terminal; elsewhere, prints a line per program every minute."""

    def __init__(self, what: str):
        self._what = what
        self._start = time.monotonic()
        self._interactive = sys.stderr.isatty()
        self._drawn = 0
        self._next = self._start + (0 if self._interactive else _LINE_EVERY_S)

    def show(self, lines: list[str]) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (0.5 if self._interactive else _LINE_EVERY_S)
        width = os.get_terminal_size(sys.stderr.fileno()).columns - 1 if self._interactive else 160
        head = f"{self._what}  {progress.elapsed(now - self._start)}"
        if self._interactive:
            self._erase()
            for line in (head, *(f"  {line}" for line in lines)):
                sys.stderr.write(line[:width] + "\n")
            self._drawn = len(lines) + 1
        else:
            sys.stderr.write("".join(f"{head}  {line}"[: 2 * width] + "\n" for line in lines))
        sys.stderr.flush()

    def close(self) -> None:
        self._erase()
        sys.stderr.flush()

    def _erase(self) -> None:
        if self._drawn:
            sys.stderr.write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0

"""A program of `experiments` whose system calls fail, run again afterwards."""

from __future__ import annotations

import dataclasses
import errno
import os
import pathlib
import runpy
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence

from tests.failing_calls import interception, judgement
from tests.failing_calls.interception import Call, Ended, Fault

_LIMIT_S = 120.0
_SUBJECTS = ("localhost:",)  # what an error about no file names
Contents = Mapping[str, bytes]


class Command:
    """A program with its inputs and outputs.

    Args:
      module: such as "experiments.prepare".
      inputs: folder of its inputs; its calls there fail too.
      output: folder that it makes.
      arguments: its flags.
      kept: returns the part of `output` that must be the same in the end.
      confirmed: returns the problems with the program's output and files, given its output, its
        files and the expected files.
      done: what the same command may say with exit code 1, because its work is done.
      finds: whether exit code 1 may report what the program found, instead of an error.
      constant: whether the program prints the same whenever it ends without an error.
      before: called in the process first.
      start: called before each trial; it makes the files inside `output` that the program reads.
      seconds: a program that has not ended after this time is taken to hang.
    """

    def __init__(
        self,
        name: str,
        module: str,
        inputs: pathlib.Path,
        output: pathlib.Path,
        arguments: Sequence[object],
        *,
        kept: Callable[[pathlib.Path], Contents],
        confirmed: Callable[[str, Contents, Contents], list[str]] = lambda *_: [],
        done: str = "",
        finds: bool = False,
        constant: bool = False,
        before: Callable[[], None] = lambda: None,
        start: Callable[[], None] = lambda: None,
        seconds: float = _LIMIT_S,
    ):
        self.name, self._module = name, module
        self._inputs, self._output, self._arguments = inputs, output, arguments
        self._kept, self._confirmed = kept, confirmed
        self._done, self._finds, self._constant = done, finds, constant
        self._before, self._start, self._seconds = before, start, seconds
        self._expected: Contents = {}
        self._printed = ""

    def calls(self, kinds: Collection[str]) -> Sequence[Call]:
        ended = self._run(kinds, None, again=False)
        if problems := self._wrong(ended):
            raise AssertionError("; ".join(problems))
        if ended.code:
            raise AssertionError(ended.output[-2000:])
        self._expected, self._printed = self._kept(self._output), ended.output
        return ended.calls

    def trial(self, fault: Fault) -> tuple[Sequence[Call], list[str]]:
        ended = self._run([fault.kind], fault, again=False)
        problems = self._wrong(ended, fault)
        if self._output.exists():
            problems += self._confirmed(ended.output, self._kept(self._output), self._expected)
        if ended.code == 0:
            problems += self._differences("it ends without an error, but")
            if self._constant and ended.output != self._printed:
                problems.append(f"it ends without an error, but prints {ended.output[-800:]}")
        second = self._run((), None, again=True)
        again = second.code == 1 and self._done and self._done in second.output
        if second.hung or (second.code and not again):
            problems.append(f"the same command does not go on: {second.output[-400:]}")
        else:
            problems += self._differences("the same command leaves")
        return ended.failed, problems

    def _run(self, kinds: Collection[str], fault: Fault | None, *, again: bool) -> Ended:
        if not again:
            shutil.rmtree(self._output, ignore_errors=True)
            self._start()
        return interception.run(
            self._be,
            self._output.with_name(f"{self._output.name}.log"),
            seconds=self._seconds,
            kinds=kinds,
            roots=[self._inputs, self._output],
            fault=fault,
        )

    def _be(self) -> int:
        self._before()
        sys.argv = [self._module, *map(str, self._arguments)]
        os.chdir(self._inputs)
        runpy.run_module(self._module, run_name="__main__", alter_sys=True)
        return 0

    def _wrong(self, ended: Ended, fault: Fault | None = None) -> list[str]:
        names = [self._inputs, self._output, *_SUBJECTS]
        if self._finds and ended.code == 1 and "error: " not in ended.output:
            ended = dataclasses.replace(ended, output=f"error: {ended.output}")
        problems = judgement.wrong(ended, names)
        if ended.code > 0 and fault is not None and not problems and not _tells(ended, fault):
            problems.append(f"does not tell the reason: {ended.output[-400:]}")
        return problems

    def _differences(self, what: str) -> list[str]:
        found = self._kept(self._output)
        names = sorted(
            name
            for name in {*found, *self._expected}
            if found.get(name) != self._expected.get(name)
        )
        return [f"{what} other content in {', '.join(names)}"] if names else []


def _tells(ended: Ended, fault: Fault) -> bool:
    """Returns whether the error is the system's own, and not taken for another, e.g. a forgery.

    gRPC has words of its own for those of sockets.
    """
    if fault.kind not in interception.FILES:
        return True
    reason = os.strerror(getattr(errno, fault.error)).lower()
    return reason in ended.output.lower()


def files(folder: pathlib.Path, pattern: str = "*") -> dict[str, bytes]:
    """Returns the files below a folder by their paths in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob(pattern))
        if path.is_file()
    }

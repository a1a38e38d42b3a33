"""Judges how a program ended after its system calls failed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from tests.failing_calls.interception import Ended

_TRACE = "Traceback (most recent call last)"


def door(main: Callable[[list[str]], int]) -> int:
    """Runs `main` like every program of the product, with its messages and exit codes."""
    from experiments import program
    from federated.errors import FederationError

    sys.argv = ["program"]
    program.run(main, resumes=True, expected=(FederationError,))
    return 0


def wrong(ended: Ended, names: Sequence[object]) -> list[str]:
    """Returns the ways in which a program misbehaved, whatever its system calls returned.

    Args:
      names: names of the program's files and of other subjects; a message that ends the program
        must contain one of them.
    """
    found = []
    lines = ended.output.splitlines()
    if ended.hung:
        found.append(f"does not end: {' | '.join(lines[-3:])}")
    elif ended.code < 0 and not ended.killed:
        found.append(f"ended by signal {-ended.code}")
    if _TRACE in ended.output:
        after = [line for line in lines[_last(lines) :] if line.strip()]
        found.append(f"shows a stack trace: {' | '.join(after[-4:])}")
    elif ended.code > 0:
        errors = [number for number, line in enumerate(lines) if line.startswith("error: ")]
        told = lines[errors[0] :] if errors else []
        if not told:
            found.append(f"ends with code {ended.code} and says nothing: {' | '.join(lines[-3:])}")
        elif not any(str(name) in line for line in told for name in names):
            found.append(f"names neither file nor remedy: {' | '.join(told)}")
    return found


def _last(lines: Sequence[str]) -> int:
    return max(number for number, line in enumerate(lines) if _TRACE in line)

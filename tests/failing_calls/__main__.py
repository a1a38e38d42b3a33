"""The n-th system call of a program fails, or the program is killed before it.

    .venv/py3.11/bin/python -m tests.failing_calls
    .venv/py3.11/bin/python -m tests.failing_calls --kills
    .venv/py3.11/bin/python -m tests.failing_calls --only=server --kind=sync --count=50
    .venv/py3.11/bin/python -m tests.failing_calls --only=server --skip=400      resume after 400

Each call that opens, reads, writes, syncs, renames, resizes, makes, removes or lists one of the
program's own files, and each call on a socket, fails once with each error that the system can give
for it. This program ends with an error if a program then shows a stack trace, does not end, loses
what was confirmed, ends with a message that does not name the file, or does not resume with the
same command. With --kills, the program is killed instead before each call that changes the disk.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import tempfile

from tests.failing_calls import interception, sweep

_SHOWN_EVERY = 25  # faults


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=sweep.NAMES, action="append")
    parser.add_argument("--kind", choices=tuple(interception.ERRORS), action="append")
    parser.add_argument("--error", action="append", help="such as EIO; all by default")
    parser.add_argument("--kills", action="store_true", help="kill the program instead")
    parser.add_argument("--count", type=int, help="faults of each program; all by default")
    parser.add_argument("--skip", type=int, default=0, help="leave out this many, tried before")
    parser.add_argument("--number", type=int, help="only this call of its kind")
    parser.add_argument("--in-a-row", type=int, default=1, help="calls that fail one after another")
    parser.add_argument("--seed", type=int, default=1)
    flags = parser.parse_args()
    os.environ["GRPC_VERBOSITY"] = "NONE"
    found = 0
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        for name in flags.only or sweep.NAMES:
            found += _sweep(name, pathlib.Path(folder) / name, flags)
    sys.exit(bool(found))


def _sweep(name: str, folder: pathlib.Path, flags: argparse.Namespace) -> int:
    work = sweep.workload(name, folder)
    calls = [
        call
        for call in work.calls(sweep.kinds_of(name))
        if not flags.kind or call.kind in flags.kind
    ]
    faults = [
        fault
        for fault in (
            interception.kills(calls)
            if flags.kills
            else interception.faults(calls, count=flags.in_a_row)
        )
        if (not flags.error or fault.error in flags.error)
        and (not flags.number or fault.first == flags.number)
    ]
    total = len(faults)
    faults = sweep.sample(faults, flags.count, seed=flags.seed)[flags.skip :]
    cost = len(faults) * sweep.SECONDS[name] / 60
    print(
        f"{name}: {len(calls)} calls, {total} faults, {len(faults)} to try, "
        f"about {cost:.0f} min on one core",
        flush=True,
    )
    took = sweep.began()

    def progress(done: int, reached: int) -> None:
        if done % _SHOWN_EVERY == 0:
            print(
                f"  {done} of {len(faults)}, {reached} reached, {took():.0f} s; go on with "
                f"--skip={flags.skip + done}",
                flush=True,
            )

    reached, failures = sweep.try_all(
        work,
        faults,
        on_failure=lambda failure: print(f"  {failure}", flush=True),
        progress=progress,
    )
    print(f"{name}: {reached} faults took effect, {len(failures)} failures, {took():.0f} s")
    return len(failures)


def _memory() -> str | None:
    """Returns a folder in memory if there is one, because thousands of runs are written."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


if __name__ == "__main__":
    main()

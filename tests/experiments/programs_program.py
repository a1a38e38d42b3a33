"""Starts a program as experiments.table1 does, prints its process id, and waits for it.

python -m tests.experiments.programs_program <log folder> <module> [argument ...]
"""

from __future__ import annotations

import sys

from experiments.run import processes
from runkit import interrupts


def main(folder: str, module: str, *arguments: str) -> None:
    with processes.ProgramGroup(folder) as group:
        program = group.start("one", module, arguments)
        print(program.process.pid, flush=True)
        group.wait([program], "one")


if __name__ == "__main__":
    interrupts.raise_instead()
    main(*sys.argv[1:])

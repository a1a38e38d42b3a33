"""What goes wrong with the disks of a story: kills, errors, full disks, and bytes that change."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable

from tests.simulated.scheduler import Killed
from tests.simulated.story import SERVER
from tests.simulated.world import Machine, World


def striking(world: World) -> Callable[[str, str], object]:
    """Returns a function that lets the troubles of a machine come before an operation on its disk.

    It takes the name of the machine and the kind of operation, and returns what runs there; see
    `disk.Disks` and `database.Databases`. Every story calls it thousands of times.
    """
    machines = world.machines

    def strike(name: str, kind: str) -> object:
        machine = machines[name]
        program = machine.program
        if world.unharmed:
            return program
        if program is None or program.dead:
            raise Killed
        machine.operations = number = machine.operations + 1
        if number in machine.by_operation:
            _let_come(world, machine, kind, number)
        if (
            machine.full_until
            and world.schedule.now < machine.full_until
            and kind in ("write", "create", "commit")
        ):
            _raise(kind, errno.ENOSPC)
        return program

    return strike


def _let_come(world: World, machine: Machine, kind: str, number: int) -> None:
    """Lets the troubles come that a story has for one operation."""
    for trouble in machine.by_operation.pop(number):
        world.trouble_for(trouble.size)
        if trouble.kind == "kill":
            world.kill(machine.name, restart_s=trouble.size)
            raise Killed
        if trouble.kind == "full":
            machine.full_until = world.schedule.now + trouble.size
        elif trouble.kind == "error":
            _raise(kind, errno.EIO)


def rot(world: World) -> None:
    """Changes a byte of an update that the server holds."""
    for path, node in sorted(world.disks.files(SERVER).items()):
        if path.startswith("store/spool/"):
            node.content[-1] ^= 0x40
            node.mtime_ns += 1
            world.rotten.add(path.split(".")[-2])
            return


def _raise(kind: str, number: int) -> None:
    if kind in ("commit", "statement"):
        full = number == errno.ENOSPC
        raise sqlite3.OperationalError("database or disk is full" if full else "disk I/O error")
    raise OSError(number, os.strerror(number))

"""What goes wrong with the disks of a story: kills, errors, full disks, and bytes that change."""

from __future__ import annotations

import errno
import os
import sqlite3

from tests.simulated.scheduler import Killed
from tests.simulated.story import SERVER
from tests.simulated.world import World


def strike(world: World, name: str, kind: str) -> None:
    """Lets the troubles of a machine come before an operation on its disk.

    Args:
      name: of the machine.
      kind: of operation; see `disk.Disks` and `database.Databases`.
    """
    if world.unharmed:
        return
    machine = world.machines[name]
    if machine.program is None or machine.program.dead:
        raise Killed
    number = machine.operations = machine.operations + 1
    for trouble in machine.by_operation.pop(number, ()) if machine.by_operation else ():
        world.trouble_for(trouble.size)
        if trouble.kind == "kill":
            world.kill(name, restart_s=trouble.size)
            raise Killed
        if trouble.kind == "full":
            machine.full_until = world.schedule.now + trouble.size
        elif trouble.kind == "error":
            _raise(kind, errno.EIO)
    if (
        machine.full_until
        and world.schedule.now < machine.full_until
        and kind in ("write", "create", "commit")
    ):
        _raise(kind, errno.ENOSPC)


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

"""Child programs that end when their parent ends, even if the parent is killed.

Parent and child each hold one end of a pipe. When the parent ends, the system closes its end of the
pipe, which the child notices.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

_VARIABLE = "RUNKIT_LEASH"  # the descriptor of the child's end
_LIMIT_S = 30.0  # time for an orderly end


def start(
    command: Sequence[str], *, env: Mapping[str, str], **options: Any
) -> tuple[subprocess.Popen[Any], BinaryIO]:
    """Starts a program that calls `follow_parent`; returns it and the parent's end of the pipe.

    Keep the parent's end open for as long as the program may run.

    Args:
      options: passed on to `subprocess.Popen`.
    """
    child_end, parent_end = os.pipe()
    try:
        process = subprocess.Popen(
            command, env={**env, _VARIABLE: str(child_end)}, pass_fds=(child_end,), **options
        )
    except BaseException:
        os.close(parent_end)
        raise
    finally:
        os.close(child_end)
    return process, os.fdopen(parent_end, "wb")


def follow_parent() -> None:
    """Ends this program by SIGTERM once its parent is gone. Does nothing unless `start` started it.

    If the program has not ended 30 seconds after the signal, it is ended at once.
    """
    # Remove it from the environment: programs that this one starts must not use its pipe.
    name = os.environ.pop(_VARIABLE, "")
    if not name:
        return
    descriptor = int(name)
    os.set_inheritable(descriptor, False)
    # On Linux the kernel sends the signal itself. A thread would have to wait for the interpreter
    # lock, which a library may hold for a long time.
    signalled = hasattr(fcntl, "F_SETSIG")
    if signalled:
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGTERM)
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)
        # Already readable: the parent ended before this was set up, so no signal will come.
        signalled = not select.select([descriptor], [], [], 0)[0]
    threading.Thread(
        target=_wait, args=(descriptor, signalled), name="parent-watch", daemon=True
    ).start()


def _wait(descriptor: int, signalled: bool) -> None:
    os.read(descriptor, 1)  # nothing is ever sent: returns when the parent's end is closed
    if not signalled:
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_LIMIT_S)
    os._exit(1)

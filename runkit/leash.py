"""Programs that end with the program that started them, however that one ends.

Each holds one end of a pipe of its own; the system closes the other end when the program that
started it is gone.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Any

_VARIABLE = "RUNKIT_LEASH"  # descriptor of the end that a started program holds
_LIMIT_S = 30.0  # for ending in good order


def start(
    command: Sequence[str], *, env: Mapping[str, str], **how: Any
) -> tuple[subprocess.Popen, Any]:
    """Starts a program as `subprocess.Popen` does; returns it and what must be kept as long as it
    may run.

    The program has to call `follow`.
    """
    held, own = os.pipe()
    try:
        process = subprocess.Popen(
            command, env={**env, _VARIABLE: str(held)}, pass_fds=(held,), **how
        )
    except BaseException:
        os.close(own)
        raise
    finally:
        os.close(held)
    return process, os.fdopen(own, "wb")


def follow() -> None:
    """Makes this program end by SIGTERM once the program that started it with a leash is gone;
    without one it does nothing.

    A program that does not end in good order within half a minute is ended all the same.
    """
    name = os.environ.pop(
        _VARIABLE, ""
    )  # programs that this one starts hold a leash of their own, or none
    if not name:
        return
    held = int(name)
    os.set_inheritable(held, False)
    told = hasattr(
        fcntl, "F_SETSIG"
    )  # Linux sends the signal itself: a thread waits for its turn while a library works
    if told:
        fcntl.fcntl(held, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(held, fcntl.F_SETSIG, signal.SIGTERM)
        fcntl.fcntl(held, fcntl.F_SETFL, fcntl.fcntl(held, fcntl.F_GETFL) | os.O_ASYNC)
        told = not select.select([held], [], [], 0)[0]  # else the other end was closed before
    threading.Thread(target=_wait, args=(held, told), name="leash", daemon=True).start()


def _wait(held: int, told: bool) -> None:
    os.read(held, 1)  # nothing is ever sent: it returns when the other end is closed
    if not told:
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_LIMIT_S)
    os._exit(1)

"""Programs that end with the program that started them, however that one ends.

Each holds one end of a pipe; the other end is closed by the system when the program that started them is gone.
"""

from __future__ import annotations

import os
import signal
import threading

_VARIABLE = "RUNKIT_LEASH"  # descriptor of the end that a started program holds
_LIMIT_S = 30.0  # for ending in good order


class Leash:
    """What started programs hold: give `environment` and `descriptors` (as `pass_fds`) to `subprocess.Popen`."""

    def __init__(self):
        held, own = os.pipe()
        self._held, self._own = os.fdopen(held, "rb"), os.fdopen(own, "wb")  # closed with this object, too

    @property
    def environment(self) -> dict[str, str]:
        return {_VARIABLE: str(self._held.fileno())}

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (self._held.fileno(),)

    def close(self) -> None:
        """Ends the programs that still run."""
        self._own.close()
        self._held.close()


def follow() -> None:
    """Makes this program end by SIGTERM once the program that started it with a leash is gone; without one it does nothing.

    A program that does not end in good order within half a minute is ended all the same.
    """
    name = os.environ.pop(_VARIABLE, "")  # programs that this one starts hold a leash of their own, or none
    if not name:
        return
    os.set_inheritable(int(name), False)
    threading.Thread(target=_wait, args=(int(name),), name="leash", daemon=True).start()


def _wait(held: int) -> None:
    os.read(held, 1)  # nothing is ever sent: it returns when the other end is closed
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_LIMIT_S)
    os._exit(1)

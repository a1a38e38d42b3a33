"""Signal handling of programs started by tests.

It must not depend on how the tests themselves were started.
"""

from __future__ import annotations

import signal


def usual() -> None:
    """Restores default handlers; pass it to subprocess as `preexec_fn`.

    A test run under `nohup`, or in the background of a script, ignores signals, and so would the
    programs it starts.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)

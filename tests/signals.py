"""What a program that is started by a test does on a signal must not depend on how the tests
themselves were started.
"""

from __future__ import annotations

import signal


def usual() -> None:
    """Given to subprocess as `preexec_fn`: a test run behind `nohup`, or in the background of a
    script, ignores signals, and so would its programs.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)

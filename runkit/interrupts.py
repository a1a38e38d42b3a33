"""Ctrl-C: the program prints one line on how to resume and exits with code 130."""

from __future__ import annotations

import os
import signal
import sys
import threading
import types
from collections.abc import Callable
from typing import NoReturn

EXIT_CODE = 130  # what shells report for a program ended by SIGINT
_BEFORE = "stopped by Ctrl-C before it began; run the same command again\n"
_received = False


def end_at_once() -> None:
    """Makes Ctrl-C end the process inside the signal handler, until `raise_instead` is called.

    Use it while modules are being imported: there is nothing to clean up yet, and an interrupted
    import may raise any error in place of KeyboardInterrupt.
    """
    _handle(_end)


def raise_instead() -> None:
    """Makes Ctrl-C raise KeyboardInterrupt, as usual, and records it for `received`."""
    _handle(_raise)


def note(number: int) -> None:
    """Records a signal for `received`; for programs with their own handler."""
    global _received
    _received = _received or number == signal.SIGINT


def received() -> bool:
    """Returns whether Ctrl-C was pressed, even if the KeyboardInterrupt became another error."""
    return _received


def end(line: str) -> NoReturn:
    """Prints a line on standard error and raises SystemExit with code 130.

    A second Ctrl-C ends the process at once.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.stdout.flush()
    # The terminal has shown ^C, perhaps after a progress bar: start a new line.
    sys.stderr.write(("\n" if sys.stderr.isatty() else "") + line + "\n")
    sys.stderr.flush()
    sys.exit(EXIT_CODE)


def _handle(handler: Callable[[int, types.FrameType | None], None]) -> None:
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread may set handlers
    # A program that a shell started in the background ignores SIGINT and must continue to do so.
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _end, _raise):
        signal.signal(signal.SIGINT, handler)


def _end(number: int, frame: types.FrameType | None) -> None:
    os.write(2, _BEFORE.encode())  # buffered streams are unsafe in a signal handler
    os._exit(EXIT_CODE)


def _raise(number: int, frame: types.FrameType | None) -> None:
    note(number)
    raise KeyboardInterrupt

"""Ctrl-C: one line that says how to go on, and exit code 130, whatever the program is doing."""

from __future__ import annotations

import os
import signal
import sys
import threading
import types

EXIT_CODE = 130  # what shells report for a program that SIGINT ended
_BEFORE = "stopped by Ctrl-C before it began; run the same command again\n"
_received = False


def end_at_once() -> None:
    """From now on Ctrl-C ends the process inside the signal handler, until `raise_instead`.

    For the time while modules are imported: there is nothing to tidy up yet, and an interrupted
    import may raise any error in place of KeyboardInterrupt.
    """
    _handle(_end)


def raise_instead() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt, as usual, and is remembered: see `received`."""
    _handle(_raise)


def note(number: int) -> None:
    """Remembers a signal, for a program that has a handler of its own."""
    global _received
    _received = _received or number == signal.SIGINT


def received() -> bool:
    """Returns whether Ctrl-C was pressed, also where the KeyboardInterrupt was caught or became
    another error.
    """
    return _received


def end(line: str) -> None:
    """Raises SystemExit with exit code 130 after a line on standard error. Ctrl-C pressed again
    ends the process at once.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.stdout.flush()
    sys.stderr.write(
        ("\n" if sys.stderr.isatty() else "") + line + "\n"
    )  # the terminal has shown ^C, perhaps behind a bar
    sys.stderr.flush()
    sys.exit(EXIT_CODE)


def _handle(handler) -> None:
    # A program that a shell started in the background ignores SIGINT, and goes on ignoring it.
    if threading.current_thread() is threading.main_thread() and signal.getsignal(
        signal.SIGINT
    ) in (
        signal.default_int_handler,
        _end,
        _raise,
    ):
        signal.signal(signal.SIGINT, handler)


def _end(number: int, frame: types.FrameType | None) -> None:
    os.write(2, _BEFORE.encode())  # a handler may not use buffered streams
    os._exit(EXIT_CODE)


def _raise(number: int, frame: types.FrameType | None) -> None:
    note(number)
    raise KeyboardInterrupt

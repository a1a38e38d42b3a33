"""Makes a program mark in the recording which of its lines asks for a sync."""

from __future__ import annotations

import os
import pathlib
import sys

from tests.power_loss import recording

_PRODUCT = pathlib.Path(__file__).parents[2]
_PACKAGES = ("runkit", "federated", "preprocessing", "c2fnas", "experiments")


def announce() -> None:
    """Wraps os.fsync, so that each call is preceded by a mark that names the calling function.

    If that function is in `runkit`, the mark also names its caller.
    """
    for name in ("fsync", "fdatasync"):
        setattr(os, name, _wrapped(getattr(os, name)))


def _wrapped(call):
    def announced(descriptor):
        recording.mark(f"sync {_asker()}")
        return call(descriptor)

    return announced


def _asker() -> str:
    frame, names = sys._getframe(2), []
    while frame is not None:
        path = pathlib.Path(frame.f_code.co_filename)
        if path.is_relative_to(_PRODUCT):
            package, *rest = path.relative_to(_PRODUCT).with_suffix("").parts
            if package in _PACKAGES:
                names.append(".".join((package, *rest, frame.f_code.co_name)))
                if package != "runkit" or names[-1] == "runkit.private.make":
                    break
        frame = frame.f_back
    return " < ".join(names)

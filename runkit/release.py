"""The running release of this product."""

from __future__ import annotations

import importlib.metadata

NAME = "c2fnas-federated-pancreas"
UNKNOWN = "unknown"


def version() -> str:
    """Returns the installed version, or UNKNOWN if the source tree is used without installation."""
    try:
        return importlib.metadata.version(NAME)
    except importlib.metadata.PackageNotFoundError:
        return UNKNOWN

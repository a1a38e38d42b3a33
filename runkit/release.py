"""Which release of this product runs."""

from __future__ import annotations

import importlib.metadata

NAME = "c2fnas-federated-pancreas"


def version() -> str:
    """Returns the installed version, "unknown" where the source tree is used without installation."""
    try:
        return importlib.metadata.version(NAME)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"

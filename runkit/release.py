"""The running release of this product, and of the libraries that affect its numbers."""

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


def stack() -> str:
    """Returns the installed libraries that affect the numbers, with their versions.

    For example "tensorflow 2.21.0, keras 3.15.1, numpy 2.3.1".
    """
    found = []
    for package in ("tensorflow", "keras", "tensorflow-addons", "numpy"):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)

"""The releases of an engine with which the adapters are tested."""

from __future__ import annotations

import importlib.metadata
import re

Release = tuple[int, int]


def require_release(package: str, first: Release, last: Release, *, extra: str) -> None:
    """Raises ImportError unless a release from `first` to `last` is installed.

    Args:
      package: name of the engine in the package index.
      first, last: major and minor number, both inclusive.
      extra: this product's extra that installs a suitable release.
    """
    wanted = f"{package} {first[0]}.{first[1]} to {last[0]}.{last[1]}"
    remedy = f"in an environment of its own: pip install '.[{extra}]'"
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise ImportError(f"{package} is not installed; install {wanted} {remedy}") from None
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or not first <= (int(numbers[1]), int(numbers[2])) <= last:
        raise ImportError(f"{package} {version} does not fit; install {wanted} {remedy}")

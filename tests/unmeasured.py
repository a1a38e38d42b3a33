"""Keeps coverage measurement out of a test's subprocess.

This is for subprocesses that count their own modules, page faults or bytes, or that may write only
a few.
"""

from __future__ import annotations

import os


def environment() -> dict[str, str]:
    """Returns this process's environment, without what makes a new process measure coverage."""
    return {name: text for name, text in os.environ.items() if not name.startswith("COVERAGE_")}

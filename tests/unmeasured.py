"""For tests whose subprocess counts its own modules, page faults or bytes, or may write only a few:
coverage, which would otherwise start in it too, stays out.
"""

from __future__ import annotations

import os


def environment() -> dict[str, str]:
    """Returns this process's environment, without what makes a new process measure coverage."""
    return {name: text for name, text in os.environ.items() if not name.startswith("COVERAGE_")}

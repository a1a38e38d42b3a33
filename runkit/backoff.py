"""Growing pauses between retries."""

from __future__ import annotations

from collections.abc import Iterator


def pauses(first_s: float = 0.25, longest_s: float = 30.0) -> Iterator[float]:
    """Yields the seconds to wait before each retry: doubling, up to `longest_s`."""
    wait_s = first_s
    while True:
        yield wait_s
        wait_s = min(longest_s, 2.0 * wait_s)

"""Tells what a soak costs before it begins."""

from __future__ import annotations


def tell(what: str, seconds: float) -> None:
    """Prints how long `what` takes on a core of its own."""
    time = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    print(f"{what}: about {time} on one core", flush=True)

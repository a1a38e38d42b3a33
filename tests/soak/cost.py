"""Prints the cost of a soak test before it starts."""

from __future__ import annotations


def tell(what: str, seconds: float) -> None:
    """Prints how long `what` takes on its own core."""
    time = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    print(f"{what}: about {time} on one core", flush=True)

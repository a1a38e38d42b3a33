"""Short names for groups of a network's weights, as patterns of their canonical names."""

from __future__ import annotations

from collections.abc import Iterable

# `*` matches any text, including slashes. The patterns become part of a federation's plan.
GROUPS: dict[str, tuple[str, ...]] = {
    "norms": ("*/gamma", "*/beta"),  # scale and shift of every instance norm
    "head": ("end/classifier/*",),  # the last convolution, whose output is the logits
    "vae": ("vae/*",),  # the VAE branch
}


def patterns(names: Iterable[str]) -> tuple[str, ...]:
    """Returns patterns of canonical names: those of a group, or the entry itself.

    Args:
      names: names of groups, or patterns, e.g. ("norms", "cell03/*").
    """
    listed = [pattern for name in names for pattern in GROUPS.get(name, (name,))]
    return tuple(dict.fromkeys(listed))

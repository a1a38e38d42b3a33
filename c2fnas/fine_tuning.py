"""Training from another training's weights: what is taken over, and what may stay as it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from c2fnas import named_weights
from c2fnas.genotype import Genotype

if TYPE_CHECKING:
    from c2fnas.network import Network

_VAE = "vae/"


def encoder_prefixes(genotype: Genotype) -> tuple[str, ...]:
    """Returns the prefixes of the encoder's weights by canonical name: the stem and the cells up to
    the deepest.
    """
    return ("stem/", *(f"cell{number:02d}/" for number in range(1, genotype.encoder_end + 1)))


def complete(
    network: Network, weights: Mapping[str, np.ndarray], *, seed: int
) -> dict[str, np.ndarray]:
    """Returns `weights` with what a training of `network` needs beyond them.

    A model may come without its VAE branch, which changes no prediction, or with one that the
    network has not: the branch then starts anew from `seed`, or is left out.

    Raises:
      ValueError: naming every other weight that is missing, unexpected or of another shape.
    """
    start = (
        named_weights.initial(network, seed)
        if not any(name.startswith(_VAE) for name in weights)
        else {}
    )
    branch = {name: array for name, array in start.items() if name.startswith(_VAE)}
    kept = {
        name: array
        for name, array in weights.items()
        if network.vae is not None or not name.startswith(_VAE)
    }
    completed = {**kept, **branch}
    named_weights.check(network, completed)
    return completed

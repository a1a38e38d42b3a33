"""Fine-tuning: training that starts from the weights of another training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from c2fnas import named_weights
from c2fnas.genotype import Genotype

if TYPE_CHECKING:
    from c2fnas.network import Network


def encoder_prefixes(genotype: Genotype) -> tuple[str, ...]:
    """Returns the prefixes of the canonical names of the encoder's weights.

    The encoder is the stem and the cells up to the last one on the deepest level.
    """
    return ("stem/", *(f"cell{number:02d}/" for number in range(1, genotype.encoder_end + 1)))


def complete(
    network: Network, weights: Mapping[str, np.ndarray], *, seed: int
) -> dict[str, np.ndarray]:
    """Returns the weights with which a training of `network` starts from a model's weights.

    A model without a VAE branch gets new initial values for it; a branch that the network does not
    have is left out.

    Args:
      network: the network to train.
      weights: the model's weights, canonical name -> float32 array.
      seed: seed of the branch's initial values.
    Raises:
      ValueError: naming every other weight that is missing, unexpected or of another shape.
    """
    completed = named_weights.without_vae(weights)
    if network.vae is not None:
        has_branch = len(completed) < len(weights)
        source = weights if has_branch else named_weights.initial(network, seed)
        branch = (name for name in source if name.startswith(named_weights.VAE_PREFIX))
        completed |= {name: source[name] for name in branch}
    named_weights.check(network, completed)
    return completed

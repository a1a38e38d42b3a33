"""The server's part: takes the masks off a sum, and reads the mean of the updates slab by slab."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import numpy as np

from federated.secure_aggregation import keys, masks, shamir
from federated.secure_aggregation.keys import Context
from federated.secure_aggregation.masks import Mask
from federated.secure_aggregation.ring import WORD, Ring
from federated.secure_aggregation.roster import Roster
from federated.tensors.weights import TensorSpec, dtype_runs
from federated.wire.messages import SumPost


class CannotOpen(Exception):
    """The shares that sites revealed do not open the sum."""


class _Source(Protocol):
    @property
    def specs(self) -> tuple[TensorSpec, ...]: ...

    def read_range(self, start: int, size: int) -> bytes: ...


def masks_of_sum(
    context: Context,
    roster: Roster,
    *,
    survivors: Collection[str],
    dropped: Collection[str],
    commitments: Mapping[str, bytes],
    revealed: Mapping[str, SumPost],
) -> list[Mask]:
    """Returns the masks that are left in the sum of the survivors, to be taken off.

    Args:
      dropped: sites that shared and whose masked update is not in the sum.
      commitments: site to what fixes its self mask.
      revealed: site to the shares that it revealed.
    Returns:
      The masks with the signs with which they are in the sum: the self masks of the survivors, and
      those that survivors have with sites that dropped out.
    Raises:
      CannotOpen: naming the site whose secret the shares do not give.
    """
    found = []
    for site in sorted(survivors):
        secret = _secret(site, roster, context, {k: p.self_masks for k, p in revealed.items()})
        if keys.commitment(secret, context, site) != commitments[site]:
            raise CannotOpen(f"the shares of the self mask of site {site!r} do not fit together")
        found.append(Mask(keys.self_seed(secret, context, site)))
    for site in sorted(dropped):
        private = _secret(site, roster, context, {k: p.mask_keys for k, p in revealed.items()})
        if keys.public_key(private) != roster.keys[site].masking_key:
            raise CannotOpen(f"the shares of the masking key of site {site!r} do not fit together")
        for other in survivors:
            theirs = roster.keys[other].masking_key
            seed = keys.pair_seed(private, theirs, context, site, other)
            found.append(masks.pair_mask(other, site, seed))
    return found


def _secret(
    site: str, roster: Roster, context: Context, shares: Mapping[str, Mapping[str, bytes]]
) -> bytes:
    given = {roster.place(by): each[site] for by, each in shares.items() if site in each}
    threshold = context.settings.threshold
    if len(given) < threshold:
        raise CannotOpen(f"{len(given)} shares of site {site!r}; expected {threshold}")
    try:
        return shamir.combine({place: given[place] for place in sorted(given)[:threshold]})
    except ValueError as error:
        raise CannotOpen(f"the shares of site {site!r} do not fit together") from error


class OpenedMean:
    """The weighted mean of the updates in an opened sum, as a model that is read piece by piece.

    Each piece adds the same stretch of every masked update and takes the masks off, so no more of
    them is in memory than of plain updates. Threads may read different pieces.

    Args:
      updates: the masked updates.
      left: the masks that are in their sum.
      model: the global model that the sites trained from; the mean has its tensors.
      num_examples: training cases of all sites in the sum.
    """

    def __init__(
        self,
        updates: Collection[_Source],
        left: Collection[Mask],
        model: _Source,
        ring: Ring,
        num_examples: int,
    ):
        self.specs = model.specs
        self._updates, self._model = tuple(updates), model
        self._masks = [mask.opposite() for mask in left]
        self._ring, self._num_examples = ring, num_examples
        self._runs, first = [], 0
        for dtype, begin, nbytes in dtype_runs(self.specs):
            self._runs.append((dtype, begin, begin + nbytes, first))
            first += nbytes // dtype.itemsize

    def read_range(self, start: int, size: int) -> bytes:
        """Returns `size` bytes of the mean, in the model's dtypes, from byte `start` on."""
        pieces = []
        for dtype, begin, end, first in self._runs:
            low, high = max(start, begin), min(start + size, end)
            if low < high:
                number = first + (low - begin) // dtype.itemsize
                pieces.append(self._piece(dtype, low, high - low, number))
        return b"".join(pieces)

    def _piece(self, dtype: np.dtype, start: int, size: int, first: int) -> bytes:
        model = np.frombuffer(self._model.read_range(start, size), dtype)
        total, nbytes = np.zeros(model.size, WORD), model.size * WORD.itemsize
        for update in self._updates:
            words = np.frombuffer(update.read_range(first * WORD.itemsize, nbytes), WORD)
            np.add(total, words, out=total)
        masks.add(total, self._masks, first)
        return self._ring.mean(total, model, self._num_examples).astype(dtype).tobytes()

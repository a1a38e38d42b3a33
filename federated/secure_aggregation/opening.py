"""The server's part: removes the masks from a sum and reads the mean update slab by slab."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple, Protocol

import numpy as np

from federated.secure_aggregation import keys, masks, shamir
from federated.secure_aggregation.keys import Context
from federated.secure_aggregation.masks import Mask
from federated.secure_aggregation.ring import WORD, Ring
from federated.secure_aggregation.roster import Roster
from federated.tensors.weights import TensorSpec, dtype_runs
from federated.wire.messages import SumPost

# Choices of shares to try for one secret: all of them with up to 13 sites. Each takes milliseconds.
_MAX_CHOICES = 2000


class CannotOpen(Exception):
    """The shares that sites revealed do not open the sum."""


class Opened(NamedTuple):
    """The masks that remain in a sum, and the sites that revealed a wrong share."""

    masks: list[Mask]
    liars: tuple[str, ...]


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
) -> Opened:
    """Returns the masks that remain in the sum of the survivors and have to be removed.

    If more sites than the threshold have revealed shares, some of the shares may be wrong.

    Args:
      dropped: sites that sent shares and whose masked update is not in the sum.
      commitments: site -> the commitment to its self mask.
      revealed: site -> the shares that it revealed.
    Returns:
      The masks with the signs that they have in the sum: the self masks of the survivors, and the
      masks that survivors have in common with sites that dropped out.
    Raises:
      CannotOpen: naming the site whose secret cannot be recovered from the shares.
    """
    found, liars = [], set()
    of_masks = {by: post.self_masks for by, post in revealed.items()}
    for site in sorted(survivors):
        fits = functools.partial(_is_fixed_by, commitments[site], context, site)
        secret, wrong = _secret(site, roster, context, of_masks, fits)
        found.append(Mask(keys.self_seed(secret, context, site)))
        liars.update(wrong)
    of_keys = {by: post.mask_keys for by, post in revealed.items()}
    for site in sorted(dropped):
        fits = functools.partial(_is_private_of, roster.keys[site].masking_key)
        private, wrong = _secret(site, roster, context, of_keys, fits)
        liars.update(wrong)
        for other in survivors:
            theirs = roster.keys[other].masking_key
            seed = keys.pair_seed(private, theirs, context, site, other)
            found.append(masks.pair_mask(other, site, seed))
    return Opened(found, tuple(sorted(liars)))


def _is_fixed_by(commitment: bytes, context: Context, site: str, secret: bytes) -> bool:
    return keys.commitment(secret, context, site) == commitment


def _is_private_of(public: bytes, secret: bytes) -> bool:
    return keys.public_key(secret) == public


def _secret(
    site: str,
    roster: Roster,
    context: Context,
    shares: Mapping[str, Mapping[str, bytes]],
    fits: Callable[[bytes], bool],
) -> tuple[bytes, list[str]]:
    """Returns (a site's secret, the sites whose shares do not belong to it)."""
    given = {by: each[site] for by, each in shares.items() if site in each}
    threshold = context.settings.threshold
    by_place = {roster.place(by): share for by, share in given.items()}
    if len(by_place) < threshold:
        raise CannotOpen(f"{len(by_place)} shares of site {site!r}; expected {threshold}")
    for number, places in enumerate(_choices(sorted(by_place), threshold)):
        chosen = {place: by_place[place] for place in places}
        try:
            secret = shamir.combine(chosen)
        except ValueError:
            continue
        if fits(secret):
            wrong = shamir.differing(chosen, by_place) if number else []
            return secret, [roster.sites[place - 1] for place in wrong]
    raise CannotOpen(
        f"the shares of site {site!r} that {', '.join(sorted(given))} revealed do not fit together"
    )


def _choices(places: list[int], threshold: int) -> Iterator[tuple[int, ...]]:
    """Yields up to `_MAX_CHOICES` choices of places whose shares to try.

    Runs of neighbouring places come first, so that an early choice avoids a single wrong share.
    """
    round_about = [*places, *places]
    runs = (tuple(round_about[at : at + threshold]) for at in range(len(places)))
    return itertools.islice(
        itertools.chain(runs, itertools.combinations(places, threshold)), _MAX_CHOICES
    )


class OpenedMean:
    """The weighted mean of the updates in an opened sum, as a model that is read piece by piece.

    For each piece, the same range of every masked update is added and the masks are removed, so it
    takes no more memory than plain updates. Threads may read different pieces.

    Args:
      updates: the masked updates.
      left: the masks that remain in their sum.
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
        """Returns `size` bytes of the mean, in the model's dtypes, beginning at byte `start`."""
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

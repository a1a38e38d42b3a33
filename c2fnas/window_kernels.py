"""The two loops of a sliding window that touch every logit, compiled: one pass over memory each,
where NumPy would need several.

Compiled at the first call of a process, in half a second. No operation is reordered or fused
(numba's default), so results are the same on every processor, and they release the interpreter, so
that threads can share the planes of a window.
"""

from __future__ import annotations

import numba
import numpy as np

_compiled = numba.njit(nogil=True)
_NOT_FINITE = np.int32(
    0x7F800000
)  # all bits of the exponent of a float32: infinite or not a number


@_compiled
def add_weighted(sums, logits, weights, place, fresh, begin, end):
    """Adds the planes `begin` to `end` of a window, weighted, to the sums at its place; where no
    window has been, sets them.

    Args:
      sums: float32 [planes, y, z * classes]; plane x lies at x modulo their number. Changed.
      logits: float32 [x, y, z * classes] of the window.
      weights: of the window along each axis, float32 [x], [y] and [z * classes].
      place: (x, y, z * classes) of the window's first value.
      fresh: (x, y, z * classes) within the window, from where on along all three axes no window has
          been.
    Returns:
      Whether all the logits are finite.
    """
    at_x, at_y, at_z = place
    fresh_x, fresh_y, fresh_z = fresh
    weights_x, weights_y, weights_z = weights
    bits = logits.view(np.int32)
    largest = np.int32(0)
    for x in range(begin, end):
        plane = (at_x + x) % sums.shape[0]
        for y in range(logits.shape[1]):
            weight = weights_x[x] * weights_y[y]
            seen = fresh_z if x >= fresh_x and y >= fresh_y else logits.shape[2]
            # the loops run over arrays from their start to their end, which the compiler turns into
            # vector instructions
            row, target = logits[x, y], sums[plane, at_y + y, at_z : at_z + logits.shape[2]]
            seen_row, seen_target = row[:seen], target[:seen]
            for z in range(seen_row.shape[0]):
                seen_target[z] += weight * weights_z[z] * seen_row[z]
            new_row, new_target, new_weights = row[seen:], target[seen:], weights_z[seen:]
            for z in range(new_row.shape[0]):
                new_target[z] = weight * new_weights[z] * new_row[z]
            row_bits = bits[x, y]
            for z in range(row_bits.shape[0]):
                largest = max(largest, row_bits[z] & _NOT_FINITE)
    return largest < _NOT_FINITE


@_compiled
def likeliest(logits, mask):
    """Writes the class with the highest logit, the lower one where two are equal.

    Args:
      logits: float32 [x, y, z, classes].
      mask: uint8 [x, y, z], written.
    """
    for x in range(logits.shape[0]):
        for y in range(logits.shape[1]):
            row, winners = logits[x, y], mask[x, y]
            for z in range(winners.shape[0]):
                winner, best = np.uint8(0), row[z, 0]
                for class_ in range(1, row.shape[1]):
                    if row[z, class_] > best:
                        winner, best = np.uint8(class_), row[z, class_]
                winners[z] = winner

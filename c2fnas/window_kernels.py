"""The two loops of a sliding window that touch every logit, compiled.

Each makes one pass over memory, where NumPy would need several. They are compiled at the first call
in a process, in one to two seconds. No operation is reordered or fused (numba's default), so
results are the same on every processor. They release the interpreter lock, so threads can share the
planes of a window.
"""

from __future__ import annotations

import numba
import numpy as np

_compiled = numba.njit(nogil=True)
# all exponent bits of a float32; all are set only in infinities and NaN
_NOT_FINITE = np.int32(0x7F800000)


@_compiled
def add_weighted(sums, logits, weights, place, fresh, begin, end):
    """Adds weighted planes of a window to the sums, or sets sums that no window has reached yet.

    Args:
      sums: float32 [planes, y, z * classes], changed in place. Plane x lies at index x modulo the
        number of planes.
      logits: float32 [x, y, z * classes] of the window.
      weights: weights of the window along each axis, float32 [x], [y] and [z * classes].
      place: (x, y, z * classes) of the window's first value.
      fresh: (x, y, z * classes) within the window; values beyond it along all three axes are set
        rather than added.
      begin, end: the planes `begin` to `end` - 1 of the window are added.
    Returns:
      Whether all logits of these planes are finite.
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
            # The compiler turns loops over whole arrays into vector instructions.
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
    """Writes the class with the highest logit to a mask; in a tie, the lowest class.

    Args:
      logits: float32 [x, y, z, classes].
      mask: uint8 [x, y, z], written in place.
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

"""The sparse vector technique: a noisy selection of an update's values, which get noise as well.

The selection is Algorithm 1 of Li et al. 2019 (arXiv 1910.00962), the standard technique of Lyu, Su
and Li 2017 (Algorithm 7): a value is shared if its size plus noise reaches a threshold plus noise,
until q values are shared. Three differences from programs that are in use make the sum of the three
epsilons the true guarantee:

* A patient may turn a value from -gamma into gamma, so one answer moves by up to 2 gamma. The
  sizes, which are compared, are between 0 and gamma and move by up to gamma.
* The search ends with the q-th accepted value. Choosing q at random from all values that were
  accepted at once would cost more than epsilon 2.
* The noise of an answer is for q answers, not for one.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from federated.privacy.noise import LAPLACE_BITS, Bits, grid, laplace, on_grid, system_bits

_BLOCK = 2**18  # values compared at a time
# Each value is queried at most this often. Fewer than q are shared then, which costs no more.
MAX_PASSES = 100


@dataclasses.dataclass(frozen=True)
class SparseVector:
    """The parameters for one size of a model.

    Attributes:
      answers: q, the largest number of values that are shared.
      gamma: values are clipped to the range from -gamma to gamma.
      threshold: independent of the data.
      epsilon1, epsilon2, epsilon3: spent on the threshold, on all comparisons together, and on all
        answers together.
    """

    answers: int
    gamma: float
    threshold: float
    epsilon1: float
    epsilon2: float
    epsilon3: float

    @property
    def epsilon(self) -> float:
        """The cost of one update, with delta 0."""
        return self.epsilon1 + self.epsilon2 + self.epsilon3

    @property
    def threshold_scale(self) -> float:
        return self.gamma / self.epsilon1

    @property
    def query_scale(self) -> float:
        return 2.0 * self.answers * self.gamma / self.epsilon2

    @property
    def answer_scale(self) -> float:
        return 2.0 * self.answers * self.gamma / self.epsilon3


def shared(
    values: np.ndarray, with_: SparseVector, bits: Bits = system_bits
) -> tuple[np.ndarray, np.ndarray]:
    """Selects the values to share and adds noise to them.

    Returns:
      (Which values are shared, bool [values]; the noisy values, float64 [values], 0 if not shared).
    """
    limited = np.clip(values, -with_.gamma, with_.gamma)
    chosen = _chosen(np.abs(limited), with_, bits)
    cell = grid(with_.answer_scale, LAPLACE_BITS)
    most = np.floor(with_.gamma / cell)  # rounding must not exceed gamma
    whole = np.clip(on_grid(limited[chosen], cell), -most, most)
    whole += on_grid(laplace(chosen.size, bits) * with_.answer_scale, cell)
    found, answers = np.zeros(values.size, dtype=bool), np.zeros(values.size)
    found[chosen] = True
    answers[chosen] = np.clip(whole * cell, -with_.gamma, with_.gamma)
    return found, answers


def lyu_epsilon2(epsilon1: float, answers: int) -> float:
    """Returns the epsilon of the comparisons that makes them most accurate (Lyu et al. 2017)."""
    return epsilon1 * float(2.0 * answers) ** (2.0 / 3.0)


def _chosen(sizes: np.ndarray, with_: SparseVector, bits: Bits) -> np.ndarray:
    """Returns the numbers of the accepted values, in an order that does not depend on the data."""
    # The order need not be secret, only independent of the data.
    order = np.random.default_rng(int.from_bytes(bits(16), "little")).permutation(sizes.size)
    limit = with_.threshold + float(laplace(1, bits)[0]) * with_.threshold_scale
    found: list[np.ndarray] = []
    missing = with_.answers
    for _ in range(MAX_PASSES):
        left = []
        for start in range(0, order.size, _BLOCK):
            asked = order[start : start + _BLOCK]
            above = sizes[asked] + laplace(asked.size, bits) * with_.query_scale >= limit
            taken = asked[above][:missing]
            found.append(taken)
            missing -= taken.size
            if not missing:
                return np.concatenate(found)
            left.append(asked[~above])
        order = np.concatenate(left)
        if not order.size:
            break
    return np.concatenate(found)

"""Which case is for training, which for validation, which for test: seeded, and the same whatever the order of the files."""

from __future__ import annotations

from collections.abc import Sequence

from runkit.randomness import generator

SPLITS = ("training", "validation", "test")
PAPER_COUNTS = {"C1": (252, 84, 84), "C2": (286, 100, 100)}  # Wang et al. 2020, section 2.2


def split_counts(cases: int, ratio: Sequence[float] = (0.6, 0.2, 0.2)) -> tuple[int, int, int]:
    """Returns cases per split: validation and test rounded from their shares, training the rest.

    Args:
      cases: size of the cohort.
      ratio: shares or counts of training, validation and test; only their proportion matters.
    """
    total = float(sum(ratio))
    validation, test = (int(cases * share / total + 0.5) for share in ratio[1:])
    return cases - validation - test, validation, test


def split_cases(
    case_ids: Sequence[str], *, seed: int, counts: Sequence[int] | None = None, ratio: Sequence[float] = (0.6, 0.2, 0.2)
) -> dict[str, tuple[str, ...]]:
    """Returns split -> case ids, drawn without replacement; cases beyond `counts` are in no split.

    Raises:
      ValueError: if the counts ask for more cases than there are, or leave a split empty.
    """
    counts = split_counts(len(case_ids), ratio) if counts is None else tuple(counts)
    if sum(counts) > len(case_ids):
        raise ValueError(
            f"split {','.join(map(str, counts))} takes {sum(counts)} cases, the cohort has {len(case_ids)}; take fewer or add cases"
        )
    if len(counts) != 3 or min(counts) < 1:
        raise ValueError(
            f"split {','.join(map(str, counts))} of {len(case_ids)} cases leaves training, validation or test empty; at least 5 cases are needed"
        )
    ordered = sorted(case_ids)
    shuffled = [ordered[i] for i in generator(seed, "split").permutation(len(ordered))]
    result, start = {}, 0
    for split, count in zip(SPLITS, counts, strict=True):
        result[split] = tuple(sorted(shuffled[start : start + count]))
        start += count
    return result

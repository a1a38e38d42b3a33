"""Which case trains, which validates, which tests: seeded, and never a matter of the order of
files.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from runkit.randomness import generator

SPLITS = ("training", "validation", "test")
PAPER_COUNTS = {"C1": (252, 84, 84), "C2": (286, 100, 100)}  # Wang et al. 2020, section 3


def split_cases(
    case_ids: Iterable[str],
    *,
    seed: int,
    counts: Sequence[int] | None = None,
    ratio: Sequence[float] = (0.6, 0.2, 0.2),
) -> dict[str, tuple[str, ...]]:
    """Splits cases into training, validation and test, at random but the same for the same cases
    and seed.

    Args:
      case_ids: in any order; the split does not depend on it.
      counts: cases in each split; any further cases are in none.
      ratio: without `counts`, the shares, in any unit: the paper's counts scale to the cohort.
    Returns:
      Split name -> sorted case ids.
    Raises:
      ValueError: for a case listed twice, or counts or a ratio that cannot be met.
    """
    ids = sorted(case_ids)
    if len(set(ids)) < len(ids):
        raise ValueError(
            f"case {next(a for a, b in itertools.pairwise(ids) if a == b)!r} is listed twice; give each scan its own id"
        )
    sizes = scaled_counts(len(ids), ratio) if counts is None else tuple(int(c) for c in counts)
    if len(sizes) != 3 or min(sizes) < 0 or sizes[0] < 1:
        raise ValueError(
            f"counts are {tuple(sizes)}; expected cases for {', '.join(SPLITS)}, at least one for training"
        )
    if sum(sizes) > len(ids):
        raise ValueError(
            f"a split into {' + '.join(map(str, sizes))} needs {sum(sizes)} cases, the cohort has {len(ids)}; lower the counts"
        )
    order = [ids[i] for i in generator(seed, "split").permutation(len(ids))]
    result, start = {}, 0
    for name, size in zip(SPLITS, sizes, strict=True):
        result[name] = tuple(sorted(order[start : start + size]))
        start += size
    return result


def scaled_counts(cases: int, ratio: Sequence[float]) -> tuple[int, int, int]:
    """Returns `cases` shared out by `ratio`, largest remainders first; from three cases on no share
    is empty.

    Raises:
      ValueError: without a case, or for a ratio that is not three shares above 0.
    """
    if cases < 1:
        raise ValueError("the cohort has no case to split; list at least one usable case")
    if len(ratio) != 3 or not all(r > 0 for r in ratio):
        raise ValueError(
            f"ratio is {tuple(ratio)}; expected three shares above 0, e.g. (0.6, 0.2, 0.2)"
        )
    exact = [cases * r / sum(ratio) for r in ratio]
    counts = [int(e + 1e-9) for e in exact]  # 0.6 * 5 must not lose a case to rounding
    for i in sorted(range(3), key=lambda i: counts[i] - exact[i])[: cases - sum(counts)]:
        counts[i] += 1
    for i in range(3):
        if counts[i] == 0 and cases >= 3:
            counts[counts.index(max(counts))] -= 1
            counts[i] = 1
    return tuple(counts)


def listed_split(
    case_ids: Iterable[str], lists: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """Splits cases by a list made before, e.g. a committed one. A listed case that is not among
    them (it was refused) drops out.

    Returns:
      Split name -> sorted case ids.
    Raises:
      ValueError: where a list is missing, a case is in two of them, a case is in none, or a split
          is left empty.
    """
    missing = [name for name in SPLITS if name not in lists]
    if missing:
        raise ValueError(
            f"the split list lacks {', '.join(missing)}; give the case ids of {', '.join(SPLITS)}"
        )
    everyone = [case_id for name in SPLITS for case_id in lists[name]]
    twice = sorted({case_id for case_id in everyone if everyone.count(case_id) > 1})
    if twice:
        raise ValueError(f"the split list has case {twice[0]!r} twice; a case is in one split only")
    ids = set(case_ids)
    unknown = sorted(ids - set(everyone))
    if unknown:
        raise ValueError(
            f"case {unknown[0]!r} and {len(unknown) - 1} more are in no split of the list; use the list of this dataset"
        )
    result = {name: tuple(sorted(ids & set(lists[name]))) for name in SPLITS}
    empty = [name for name, own in result.items() if not own]
    if empty:
        raise ValueError(
            f"no case of the list's {', '.join(empty)} is here; use the list of this dataset"
        )
    return result

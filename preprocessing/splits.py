"""Splits cases into training, validation and test; the order of files does not matter."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from preprocessing.axes import three
from runkit import printable
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
    """Splits cases at random into training, validation and test.

    The same cases and seed give the same split.

    Args:
      case_ids: in any order; the split does not depend on it.
      counts: cases in each split; further cases are in no split.
      ratio: shares of the splits if `counts` is None, in any unit, so that the paper's counts can
        be given.
    Returns:
      Split name -> sorted case ids.
    Raises:
      ValueError: if a case is listed twice, or counts or ratio cannot be met.
    """
    ids = sorted(case_ids)
    if len(set(ids)) < len(ids):
        twice = next(a for a, b in itertools.pairwise(ids) if a == b)
        raise ValueError(f"case {twice!r} is listed twice; give each scan its own id")
    sizes = scaled_counts(len(ids), ratio) if counts is None else tuple(int(c) for c in counts)
    only_tests = tuple(sizes[:2]) == (0, 0) and sum(sizes) > 0  # a site that only evaluates
    if len(sizes) != 3 or min(sizes) < 0 or (sizes[0] < 1 and not only_tests):
        raise ValueError(
            f"counts are {tuple(sizes)}; expected cases for {', '.join(SPLITS)}, "
            "at least one for training, or cases for test only"
        )
    if sum(sizes) > len(ids):
        raise ValueError(
            f"a split into {' + '.join(map(str, sizes))} needs {sum(sizes)} cases, "
            f"the cohort has {len(ids)}; lower the counts"
        )
    order = [ids[i] for i in generator(seed, "split").permutation(len(ids))]
    result, start = {}, 0
    for name, size in zip(SPLITS, sizes, strict=True):
        result[name] = tuple(sorted(order[start : start + size]))
        start += size
    return result


def scaled_counts(cases: int, ratio: Sequence[float]) -> tuple[int, int, int]:
    """Divides a number of cases by `ratio`, with the largest-remainder method.

    With three cases or more, no share is 0.

    Raises:
      ValueError: if `cases` is below 1, or the ratio is not three shares above 0.
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
    return three(counts)


def listed_split(
    case_ids: Iterable[str], lists: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """Splits cases by existing lists, such as those of this repository.

    Listed cases that are not among `case_ids`, because they were refused, are left out.

    Args:
      lists: split name -> case ids.
    Returns:
      Split name -> sorted case ids.
    Raises:
      ValueError: if a list is missing or holds something other than case ids, a case is in two
        lists or in none, or a split is empty.
    """
    if not isinstance(lists, Mapping):
        raise ValueError(
            f"the split list is a {type(lists).__name__}; expected a JSON object with the case ids "
            f"of {', '.join(SPLITS)}"
        )
    missing = [name for name in SPLITS if name not in lists]
    if missing:
        raise ValueError(
            f"the split list lacks {', '.join(missing)}; give the case ids of {', '.join(SPLITS)}"
        )
    for name in SPLITS:
        own = lists[name]
        if not isinstance(own, list | tuple) or not all(isinstance(case, str) for case in own):
            raise ValueError(
                f"`{name}` of the split list is {printable.text(repr(own))}; expected a list of "
                "case ids, each a text"
            )
    listed = Counter(case_id for name in SPLITS for case_id in lists[name])
    repeated = sorted(case_id for case_id, count in listed.items() if count > 1)
    if repeated:
        raise ValueError(
            f"the split list has case {repeated[0]!r} twice; list each case in one split only"
        )
    ids = set(case_ids)
    unknown = sorted(ids - set(listed))
    if unknown:
        raise ValueError(
            f"case {unknown[0]!r} and {len(unknown) - 1} more are in no split of the list; "
            "use the list of this dataset"
        )
    result = {name: tuple(sorted(ids & set(lists[name]))) for name in SPLITS}
    empty = [name for name, own in result.items() if not own]
    if empty:
        raise ValueError(
            f"none of the cases that the list gives for {', '.join(empty)} is here; "
            "use the list of this dataset"
        )
    return result

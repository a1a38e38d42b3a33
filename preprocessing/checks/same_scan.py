"""Finds cases that are the same scan under another name.

The copy may have another file format or axis order, or be cropped along the patient. Each axial
slice has a mark, a hash of a subset of its voxels; scans that share many marks are the same scan.
NIH Pancreas-CT once listed one patient three times, cropped differently. If such copies are in
different splits, test data leak into training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from preprocessing import rules
from preprocessing.case_list import Case
from preprocessing.rules import IntegrityError, broken
from preprocessing.volume import Volume

_INT16 = (-32768, 32767)
_SAMPLES = 48  # along x and y
_LEAST_SPREAD_HU = 20.0  # slices of air above the patient look the same in all scans
_AIR_HU = np.int16(-1024)
_SHARE = 0.3  # least share of the shorter scan's marks
_FEWEST = 4


def refusals(
    cases: Iterable[Case],
    marks: Mapping[str, Sequence[str]],
    label_sha256: Mapping[str, str | None],
) -> dict[str, IntegrityError]:
    """Returns the cases that are refused because of one listed before them: case_id -> error.

    Args:
      cases: those that pass by themselves, in the order of the manifest.
      marks, label_sha256: case_id -> marks of the slices, and hash of the label.
    """
    cases = list(cases)
    twins = same_scans({case.case_id: marks[case.case_id] for case in cases})
    labels: dict[str, str] = {}
    found: dict[str, IntegrityError] = {}
    for case in cases:
        digest = label_sha256[case.case_id]
        if case.case_id in twins:
            problem = f"is the scan of case {twins[case.case_id]}"
            found[case.case_id] = broken(rules.SAME_SCAN, case.image, problem)
        elif (
            digest is not None
            and (first := labels.setdefault(digest, case.case_id)) != case.case_id
        ):
            problem = f"is also the label of case {first}, which has another scan"
            found[case.case_id] = broken(rules.SAME_LABEL, case.required_label, problem)
    return found


def slice_marks(image: Volume) -> tuple[str, ...]:
    """Returns the distinct marks of the axial slices of a CT in RAS+, sorted."""
    steps = [max(1, n // _SAMPLES) for n in image.shape[:2]]
    # slices first and contiguous, because each is hashed by itself
    thinned = np.ascontiguousarray(image.array[:: steps[0], :: steps[1]].transpose(2, 0, 1))
    whole = (np.rint(thinned).clip(*_INT16) if thinned.dtype.kind == "f" else thinned).astype("<i2")
    # readers differ on padding below air: some return air, others -2000
    whole = np.maximum(whole, _AIR_HU)
    spread = whole.std(axis=(1, 2), dtype=np.float32)
    size = repr(image.shape[:2]).encode()
    marks = {
        hashlib.blake2b(size + whole[k].tobytes(), digest_size=6).hexdigest()
        for k in np.flatnonzero(spread >= _LEAST_SPREAD_HU)
    }
    return tuple(sorted(marks))


def same_scans(marks: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Returns repeated case -> the case listed before it whose scan it is.

    Args:
      marks: case -> its marks, in the order of the manifest.
    """
    owner: dict[str, list[str]] = {}
    found: dict[str, str] = {}
    for case, own in marks.items():
        shared: dict[str, int] = {}
        for mark in own:
            for earlier in owner.get(mark, ()):
                shared[earlier] = shared.get(earlier, 0) + 1
        for earlier, count in shared.items():
            if count >= max(_FEWEST, _SHARE * min(len(own), len(marks[earlier]))):
                found[case] = earlier
                break
        else:
            for mark in own:
                owner.setdefault(mark, []).append(case)
    return found

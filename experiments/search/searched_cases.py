"""A record of the sites' prepared cases, which must be the same when a search is resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from preprocessing.case_source import required_ids
from preprocessing.case_store import CaseStore


def record(stores: Sequence[CaseStore], splits: Sequence[str]) -> dict[str, Any]:
    """Returns the sites in order, with the number and digest of each split's cases.

    Other cases, labels or splits would make later scores incomparable with earlier ones. A case's
    part in the digest is its number and the fingerprint of the files and settings it was made from.

    Args:
      stores: prepared cases of each site.
      splits: the splits that the search uses.
    Raises:
      ValueError: for a site that is given twice, or that has no case of a split; otherwise this
        would be noticed only after a training.
    """
    sites = [store.site for store in stores]
    if repeated := sorted({site for site in sites if sites.count(site) > 1}):
        raise ValueError(
            f"--site_folders has site {repeated[0]} more than once; give one folder per site"
        )
    return {
        "sites": sites,
        **{store.site: {split: _of_split(store, split) for split in splits} for store in stores},
    }


def _of_split(store: CaseStore, split: str) -> dict[str, Any]:
    cases = [store.open(case_id) for case_id in required_ids(store, split)]
    text = "\n".join(f"{case.number} {case.fingerprint}" for case in cases)
    return {"cases": len(cases), "digest": hashlib.sha256(text.encode()).hexdigest()[:16]}

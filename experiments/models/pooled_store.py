"""Several sites' prepared cases as one store, for the upper bound with all data in one place."""

from __future__ import annotations

from collections.abc import Sequence

from preprocessing import declared_labels
from preprocessing.case_source import PreparedCase
from preprocessing.case_store import CaseStore


class PooledStore:
    """The cases of several stores, named `<site>/<case_id>`.

    Each case stays in the split of its own site, so no test case is trained on.

    Args:
      stores: stores that were prepared with the same spacing and window.
    Raises:
      ValueError: for fewer than two stores, two stores of one site, or stores whose settings
        differ.
    """

    site = "pooled"

    def __init__(self, stores: Sequence[CaseStore]):
        names = [store.site for store in stores]
        if len(stores) < 2 or len(set(names)) < len(names):
            raise ValueError(
                "pooled training needs the case stores of at least two sites, each once; given "
                f"{', '.join(names) or 'none'}"
            )
        first = stores[0]
        for store in stores[1:]:
            if store.settings != first.settings:
                raise ValueError(
                    f"{store.root}: was prepared with {store.settings}, {first.root} with "
                    f"{first.settings}; prepare both with the same flag file"
                )
        self._stores = {store.site: store for store in stores}
        self.declared = declared_labels.merged(store.declared for store in stores)

    def case_ids(self, split: str | None = None) -> tuple[str, ...]:
        """Returns the names of all cases, or of those in one split."""
        return tuple(
            f"{site}/{case_id}"
            for site, store in self._stores.items()
            for case_id in store.case_ids(split)
        )

    def open(self, case_id: str) -> PreparedCase:
        """Opens a case by its name `<site>/<case_id>`; raises ValueError for an unknown site."""
        site, _, own = case_id.partition("/")
        if site not in self._stores:
            raise ValueError(
                f"no case {case_id!r}; expected <site>/<case_id> of {', '.join(self._stores)}"
            )
        return self._stores[site].open(own)

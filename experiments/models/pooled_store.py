"""Several sites' prepared cases as one store, for the upper bound that needs all data in one place."""

from __future__ import annotations

from collections.abc import Sequence

from preprocessing import declared_labels
from preprocessing.case_source import PreparedCase
from preprocessing.case_store import CaseStore


class PooledStore:
    """The cases of several stores side by side; each case keeps the split that its own site gave
    it, so no test case is trained on.

    Args:
      stores: prepared alike (spacing and window); a case is named `<site>/<case_id>` here.
    Raises:
      ValueError: for fewer than two stores, two of one site, or stores of different settings.
    """

    site = "pooled"

    def __init__(self, stores: Sequence[CaseStore]):
        names = [store.site for store in stores]
        if len(stores) < 2 or len(set(names)) < len(names):
            raise ValueError(
                f"pooled training needs the case stores of two sites or more, each once; given {', '.join(names) or 'none'}"
            )
        first = stores[0]
        for store in stores[1:]:
            if store.settings != first.settings:
                raise ValueError(
                    f"{store.root}: was prepared with {store.settings}, {first.root} with {first.settings}; prepare both with one flag file"
                )
        self._stores = {store.site: store for store in stores}
        self.declared = declared_labels.merged(store.declared for store in stores)

    def case_ids(self, split: str | None = None) -> tuple[str, ...]:
        return tuple(
            f"{site}/{case_id}"
            for site, store in self._stores.items()
            for case_id in store.case_ids(split)
        )

    def open(self, case_id: str) -> PreparedCase:
        site, _, own = case_id.partition("/")
        if site not in self._stores:
            raise ValueError(
                f"no case {case_id!r}; expected <site>/<case_id> of {', '.join(self._stores)}"
            )
        return self._stores[site].open(own)

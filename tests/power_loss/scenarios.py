"""The scenarios of power cuts: name, recording, check, and the syncs that may be missing."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import types
from collections.abc import Callable, Sequence

from tests.federated.programs import results
from tests.power_loss import checkpoints, federation, preparation, recording, spending
from tests.power_loss.disk import Operation
from tests.preprocessing.preparation.test_pipeline import contents

NAMES = ("server", "site", "all", "ledger", "prepare", "checkpoints")

# Syncs that keep no promise but save time, with the reason: what is lost is made again at the next
# start, and the result is the same.
_AGAIN = "what is lost is done again, with the same result"
_OPTIONAL = {
    "server": {
        "federated.storage.best_models._link": "every start compares the model with its record",
    },
    "site": {
        "federated.site.journal": _AGAIN,
        "federated.tensors.tensor_files": _AGAIN,
        "runkit.private.make": _AGAIN,
    },
    "ledger": {"federated.site.journal": f"{_AGAIN}; new noise is counted again"},
    "prepare": {
        "preprocessing.preparation.pipeline._clean": "for a killed run, and here none was killed",
    },
}

# called with a folder as a cut left it, and with the marks before the cut
Check = Callable[[pathlib.Path, Sequence[str]], None]


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A recorded program. `below` are the folders that lose power, None for all."""

    name: str
    operations: Sequence[Operation]
    below: tuple[str, ...] | None
    check: Check

    def syncs(self) -> list[tuple[str, frozenset[str]]]:
        """Returns the functions that sync in the folders that lose power, with their syncs' texts.

        SQLite's syncs count as one, because its PRAGMA synchronous controls all of them.
        """
        texts = {
            operation.text
            for operation in self.operations
            if operation.kind == "sync"
            and (self.below is None or operation.place.split("/")[0] in (*self.below, "."))
        }
        sqlite = frozenset(text for text in texts if text.startswith("SQLite"))
        one_by_one = [(text, frozenset({text})) for text in sorted(texts - sqlite)]
        return one_by_one + ([("PRAGMA synchronous", sqlite)] if sqlite else [])

    def optional(self, text: str) -> str | None:
        reasons = _OPTIONAL.get(self.name, {})
        return next((why for part, why in reasons.items() if part in text), None)


class Recordings:
    """Records each program once, however many scenarios use it.

    Args:
      folder: a new folder for the programs' files.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder = folder

    def scenario(self, name: str) -> Scenario:
        """Raises `recording.CannotRecord`."""
        if name == "checkpoints":
            return Scenario(name, self._recorded(checkpoints), None, checkpoints.check)
        if name == "ledger":
            return Scenario(name, self._recorded(spending), None, spending.check)
        if name == "prepare":
            operations, check = self._preparation
            return Scenario(name, operations, None, check)
        operations, check = self._federation
        return Scenario(name, operations, federation.CUT[name], check)

    @functools.cache  # noqa: B019 - lives as long as the recordings
    def _recorded(self, program: types.ModuleType) -> Sequence[Operation]:
        root = self._folder / program.__name__
        root.mkdir(parents=True)
        return recording.record(program.command(root), root)

    @functools.cached_property
    def _preparation(self) -> tuple[Sequence[Operation], Check]:
        root, scans = self._folder / "preparation", self._folder / "scans"
        root.mkdir(parents=True)
        preparation.make_scans(scans)
        operations = recording.record(preparation.command(root, scans), root)
        expected = contents(root / "site")
        return operations, functools.partial(preparation.check, scans=scans, expected=expected)

    @functools.cached_property
    def _federation(self) -> tuple[Sequence[Operation], Check]:
        root, kits = self._folder / "federation", self._folder / "kits"
        root.mkdir(parents=True)
        federation.prepare(kits)
        operations = recording.record(federation.command(root, kits), root)
        expected = results(root / federation.STORE, federation.ROUNDS)
        return operations, functools.partial(federation.check, kits=kits, expected=expected)

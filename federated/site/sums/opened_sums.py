"""The sums that a site has helped to open, one line for each on disk, and never two of one round.

Two sums of the same round that differ by a site give away that site's update: one minus the other.
So a site that has revealed shares for the sum of some sites reveals none for that of others: not in
another exchange, and not after the run was taken back, when the same cases train from the same
model. As every sum takes the shares of more than half of the sites, the server cannot find enough
others for a second one. The same sum again tells nothing more.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Collection
from typing import Any

from federated import errors
from federated.wire.messages import SumPlace
from runkit import atomic, printable


class OpenedSums:
    """The sums of one run that this site has helped to open.

    Args:
      folder: the site's journal, which only this account may enter.
      run: the run's id.
      repeats: in how many sums this site helps although it helped with another one of the round.
    Raises:
      ValueError: for a file that this class did not write.
    """

    def __init__(self, folder: pathlib.Path, run: str, *, repeats: int = 0):
        self._path, self._run, self._allowed = folder / "opened_sums.jsonl", run, repeats
        self._repeated = 0
        self._rounds: dict[int, dict[frozenset[str], int]] = {}  # -> how often it had gone back
        self._sets: dict[frozenset[str], frozenset[str]] = {}  # thousands of rounds, few sets
        for record in self._read():
            if record["run"] == run:
                place = SumPlace(record["discarded"], record["round"], record["exchange"])
                self._count(place, frozenset(record["sites"]))

    def check(self, place: SumPlace, sites: Collection[str]) -> None:
        """Checks that this site may help to open the sum of `sites`.

        Raises:
          PolicyRefused: for another sum of a round of which it has opened one, after the run was
            taken back.
          StaleUpdate: without that, in another exchange. The site sits it out: sites that have
            revealed nothing in the round yet may be enough.
        """
        others = self._others(place.round, frozenset(sites))
        if not others or self._repeated < self._allowed:
            return
        before, discarded = next(reversed(others.items()))
        kind = errors.StaleUpdate if discarded == place.discarded else errors.PolicyRefused
        raise kind(
            f"the server asks to open the sum of {_named(sites)} in round {place.round}, after "
            f"that of {_named(before)}: one minus the other would give away updates of single "
            "sites. If a site was evicted, and the sites agree that this may be seen, start this "
            f"site with --repeated_sums={self._repeated + 1}"
        )

    def note(self, place: SumPlace, sites: Collection[str]) -> None:
        """Makes durable that shares for the sum of `sites` are about to leave; raises as `check`.

        A sum that is noted already is not noted again.
        """
        self.check(place, sites)
        found = frozenset(sites)
        if found in self._rounds.get(place.round, ()):
            return
        line = json.dumps({"run": self._run, **vars(place), "sites": sorted(found)}) + "\n"
        is_new = not self._path.exists()
        with atomic.naming(self._path):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with open(descriptor, "a", encoding="utf-8") as stream:
                stream.write(line)
                stream.flush()
                os.fsync(stream.fileno())
            if is_new:
                atomic.sync_directory(self._path.parent)
        self._count(place, found)

    def _others(self, number: int, sites: frozenset[str]) -> dict[frozenset[str], int]:
        """Returns the sums of a round that were opened, none if that of `sites` is among them."""
        opened = self._rounds.get(number, {})
        return {} if sites in opened else opened

    def _count(self, place: SumPlace, sites: frozenset[str]) -> None:
        self._repeated += bool(self._others(place.round, sites))
        sites = self._sets.setdefault(sites, sites)
        self._rounds.setdefault(place.round, {}).setdefault(sites, place.discarded)

    def _read(self) -> list[dict[str, Any]]:
        """Returns the lines. One that a kill left half-written is removed: nothing had left."""
        if not self._path.exists():
            return []
        with atomic.naming(self._path):
            content = self._path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            if whole != content:
                os.truncate(self._path, len(whole))
        try:
            records = [json.loads(line) for line in whole.splitlines()]
            for record in records:
                SumPlace(record["discarded"], record["round"], record["exchange"])
                if not (
                    isinstance(record["run"], str)
                    and isinstance(record["round"], int)
                    and all(isinstance(site, str) for site in record["sites"])
                ):
                    raise ValueError("other values")
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self._path}: not what this program writes there; restore it, or give the run a "
                "new folder"
            ) from error
        return records


def _named(sites: Collection[str]) -> str:
    return printable.text(", ".join(sorted(sites)))

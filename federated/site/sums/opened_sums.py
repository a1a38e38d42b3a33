"""The sums that a site has helped to open, one line per sum on disk, and never two of one round.

Two sums of the same round that differ by a site reveal that site's update: one minus the other. So
a site that has revealed shares for the sum of some sites does not reveal any for the sum of others,
either in another exchange or after rounds were discarded, when the same cases train from the same
model. As every sum needs the shares of more than half of the sites, the server cannot find enough
others for a second one. Opening the same sum again reveals nothing more.
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

NAME = "opened_sums.jsonl"


class OpenedSums:
    """The sums of one run that this site has helped to open.

    Args:
      folder: the site's journal, which only this account may enter.
      run: the run's id.
      repeats: number of sums that this site helps to open although it has helped with another one
        of the same round.
    Raises:
      ValueError: if this class did not write the file.
    """

    def __init__(self, folder: pathlib.Path, run: str, *, repeats: int = 0):
        self._path, self._run, self._allowed = folder / NAME, run, repeats
        self._repeated = self._size = 0  # sums beyond the first of a round; bytes of whole lines
        self._named = False  # whether the file's name survives a power cut
        self._rounds: dict[int, dict[frozenset[str], int]] = {}  # -> number of discards before
        self._sets: dict[frozenset[str], frozenset[str]] = {}  # thousands of rounds, few sets
        for record in self._read():
            if record["run"] == run:
                place = SumPlace(record["discarded"], record["round"], record["exchange"])
                self._count(place, frozenset(record["sites"]))

    def check(self, place: SumPlace, sites: Collection[str]) -> None:
        """Checks that this site may help to open the sum of `sites`.

        Raises:
          PolicyRefused: if it has opened another sum of the round, before rounds were discarded.
          StaleUpdate: if it has opened another sum of the round in an earlier exchange. The site
            then sits this exchange out: sites that have not revealed anything in the round yet may
            be enough.
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
        """Records durably that shares for the sum of `sites` are about to leave.

        A sum that is already recorded is not recorded again. Raises as `check` does.
        """
        self.check(place, sites)
        found = frozenset(sites)
        if found in self._rounds.get(place.round, ()):
            return
        record = {"run": self._run, **vars(place), "sites": sorted(found)}
        line = (json.dumps(record) + "\n").encode("utf-8")
        with atomic.naming(self._path):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with open(descriptor, "ab") as stream:
                stream.truncate(self._size)  # a full disk may have taken half a line
                stream.write(line)
                stream.flush()
                os.fsync(stream.fileno())
            if not self._named:
                atomic.sync_directory(self._path.parent)
                self._named = True
        self._size += len(line)
        self._count(place, found)

    def _others(self, number: int, sites: frozenset[str]) -> dict[frozenset[str], int]:
        """Returns the opened sums of a round, or none if that of `sites` is among them."""
        opened = self._rounds.get(number, {})
        return {} if sites in opened else opened

    def _count(self, place: SumPlace, sites: frozenset[str]) -> None:
        self._repeated += bool(self._others(place.round, sites))
        sites = self._sets.setdefault(sites, sites)
        self._rounds.setdefault(place.round, {}).setdefault(sites, place.discarded)

    def _read(self) -> list[dict[str, Any]]:
        """Returns the lines.

        A last line that a kill or a power cut left incomplete is removed: nothing had left.
        """
        if not self._path.exists():
            return []
        with atomic.naming(self._path):
            content = self._path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            last = whole[whole.rfind(b"\n", 0, -1) + 1 :]
            if b"\0" in last:  # not synced
                whole = whole[: -len(last)]
            self._size = len(whole)
            # A killed process may not have synced its last line, which counts from now on.
            with open(self._path, "rb+") as stream:
                stream.truncate(len(whole))
                os.fsync(stream.fileno())
            atomic.sync_directory(self._path.parent)
            self._named = True
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

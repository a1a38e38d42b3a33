"""The ledger of the privacy that a site has spent in a run; it survives restarts.

    <journal>/privacy/ledger.json

The file is replaced atomically and synced before noise is drawn, so that after a kill or a power
cut a site may count an update that never left, but every update that left is counted.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from federated.errors import DifferentRun, PolicyRefused
from federated.privacy.policy import PrivacyPolicy, weaker
from federated.privacy.releases import Release
from runkit import atomic, formats, private

FORMAT = 1  # of ledger.json
_ABOUT_THE_RUN = ("budget", "delta", "accountant", "tell_epsilon")
_KINDS = ("gaussian", "pure", "none")
_REMEDY = "restore it from a backup. Without it nobody knows what was spent"


def path_in(folder: str | os.PathLike) -> pathlib.Path:
    """Returns the path of the ledger in a folder."""
    return pathlib.Path(folder) / "ledger.json"


@dataclasses.dataclass(frozen=True)
class Spent:
    """One update for which noise was drawn, or that left without noise."""

    round: int
    release: Release


class PrivacyLedger:
    """The ledger in a folder that is private to this account.

    Attributes:
      path: its file.
      spent: one entry per update, in order.
      unfiltered_rounds: number of rounds, as far as known, that the site had trained without a
        policy before this one; 0 only if there were none.
    Raises:
      ValueError: if the file is not JSON, was not written by this class, or was written by a newer
        release.
    """

    def __init__(self, folder: str | os.PathLike):
        self.path = path_in(private.folder(folder))
        private.refuse_link(self.path)
        self.spent: tuple[Spent, ...] = ()
        self.unfiltered_rounds = 0
        self._run = self._site = ""
        self._policy: dict[str, Any] = {}
        self.exists = self.path.exists()
        for leftover in atomic.leftovers(self.path.parent):
            leftover.unlink(missing_ok=True)
        if self.exists:
            self._read()

    def enter(
        self, run: str, site: str, policy: Mapping[str, Any], *, unfiltered_rounds: int = 0
    ) -> None:
        """Begins or continues the ledger of a site in a run.

        Args:
          policy: from `PrivacyPolicy.to_json`.
          unfiltered_rounds: the attribute, for a new ledger.
        Raises:
          The errors of `check`.
        """
        self.check(run, site, policy)
        if not self.exists:
            self.unfiltered_rounds = unfiltered_rounds
        if not self.exists or self._policy != dict(policy):
            self._run, self._site, self._policy = run, site, dict(policy)
            self._write(self.spent)

    def spend(self, round_number: int, release: Release) -> None:
        """Records an update. On return the entry is durable, and noise may be drawn."""
        self._write((*self.spent, Spent(round_number, release)))

    @property
    def releases(self) -> tuple[Release, ...]:
        """The releases so far.

        They include one without a guarantee if there were rounds before the policy.
        """
        before = (Release("none"),) if self.unfiltered_rounds else ()
        return (*before, *(entry.release for entry in self.spent))

    def check(self, run: str, site: str, policy: Mapping[str, Any]) -> bool:
        """Returns whether an earlier update does not satisfy the present policy.

        Raises:
          DifferentRun: if the ledger is that of another run.
          PolicyRefused: if it is that of another site, or the policy is weaker than before.
        """
        if not self.exists:
            return False
        if self._run != run:
            raise DifferentRun(
                f"{self.path}: is the ledger of run {self._run}, the server leads {run}; move "
                f"{self.path.parents[2]} away (it holds what the earlier run left, and what it "
                "spent) and start again. What the same patients spent in both runs adds up"
            )
        if self._site != site:
            raise PolicyRefused(
                f"{self.path}: is the ledger of site {self._site}, not of {site}; use the folder "
                "of this site"
            )
        if found := weaker(policy, self._policy):
            raise PolicyRefused(
                f"{self.path}: the privacy policy of a run is never weakened: {'; '.join(found)}. "
                "Go on with the earlier one; a later run can have another"
            )
        return _content(policy) != _content(self._policy)

    def _read(self) -> None:
        found = formats.read_json(self.path, FORMAT, remedy=_REMEDY)
        try:
            self._run, self._site = _text(found["run"]), _text(found["site"])
            self.unfiltered_rounds = _count(found["unfiltered_rounds"])
            self._policy = _policy(found["policy"])
            self.spent = tuple(map(_spent, _list(found["spent"])))
        except (KeyError, TypeError, ValueError, OverflowError, PolicyRefused) as error:
            raise ValueError(
                f"{self.path}: not what this program writes there; {_REMEDY}"
            ) from error

    def _write(self, spent: tuple[Spent, ...]) -> None:
        atomic.write_json(
            self.path,
            {
                "format": FORMAT,
                "run": self._run,
                "site": self._site,
                "policy": self._policy,
                "unfiltered_rounds": self.unfiltered_rounds,
                "spent": [
                    {"round": entry.round, **dataclasses.asdict(entry.release)} for entry in spent
                ],
            },
        )
        self.spent, self.exists = spent, True


def _content(policy: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a policy on which the content of an update depends."""
    return {name: value for name, value in policy.items() if name not in _ABOUT_THE_RUN}


def _policy(found: Any) -> dict[str, Any]:
    """Returns a policy with all its settings: `weaker` could not tell what a missing one was."""
    if PrivacyPolicy(**found).to_json() != found:
        raise ValueError
    return dict(found)


def _spent(entry: Any) -> Spent:
    kind, amount = entry["kind"], entry["amount"]
    if kind not in _KINDS or isinstance(amount, bool) or not isinstance(amount, int | float):
        raise TypeError
    if not (math.isfinite(amount) and (amount > 0 or kind == "none")):
        raise ValueError
    return Spent(_count(entry["round"]), Release(kind, float(amount)))


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError
    return value

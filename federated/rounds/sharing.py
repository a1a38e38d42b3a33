"""Which arrays of a model are sent between sites and server: share, keep, receive.

The rules are part of the plan, as patterns of array names, so that every site, the server and the
audit use the same ones. An array that matches no pattern is shared.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from federated import errors
from runkit import printable

PLAN_KEY = "sharing"
_LISTED = 6  # names listed in one message


@dataclasses.dataclass(frozen=True)
class ShareRules:
    """Patterns of array names, as in `fnmatch`: `*` matches any text, slashes included.

    Attributes:
      keep: arrays that never leave a site; each site has its own.
      receive: arrays that sites take from the server and never send, so that they remain as in the
        initial model.
    Raises:
      ValueError: if a pattern is empty or not a string.
    """

    keep: tuple[str, ...] = ()
    receive: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for rule, patterns in (("keep", self.keep), ("receive", self.receive)):
            for pattern in patterns:
                if not isinstance(pattern, str) or not pattern:
                    raise ValueError(
                        f"{rule} has the pattern {pattern!r}; expected the name of an array, or a "
                        "pattern such as '*/gamma'"
                    )

    def __bool__(self) -> bool:
        return bool(self.keep or self.receive)

    def to_plan(self) -> dict[str, Any]:
        """Returns the entry for a plan.

        It is empty if everything is shared, as in every plan made before there were rules.
        """
        listed = {"keep": list(self.keep), "receive": list(self.receive)}
        return {PLAN_KEY: {key: value for key, value in listed.items() if value}} if self else {}

    def of(self, names: Iterable[str]) -> Sharing:
        """Applies the rules to the arrays of a model.

        Raises:
          ValueError: saying what to change, if a pattern matches no array, an array is both kept
            and received, or no array remains to share.
        """
        names = tuple(names)
        kept = _matching("keep", self.keep, names)
        received = _matching("receive", self.receive, names)
        if both := sorted(kept & received):
            raise ValueError(
                f"{printable.some(both, _LISTED)} would be kept and received; let each array match "
                f"one of the two, keep ({', '.join(self.keep)}) or "
                f"receive ({', '.join(self.receive)})"
            )
        shared = frozenset(names) - kept - received
        if names and not shared:
            raise ValueError(
                f"keep ({', '.join(self.keep) or 'nothing'}) and receive "
                f"({', '.join(self.receive) or 'nothing'}) leave none of the model's "
                f"{len(names)} arrays to share, so no site would learn from another; "
                "name fewer arrays, or train each site alone"
            )
        return Sharing(shared, kept, received)


@dataclasses.dataclass(frozen=True)
class Sharing:
    """The arrays of one model as three sets: shared, kept, received; each array is in one."""

    shared: frozenset[str]
    kept: frozenset[str]
    received: frozenset[str]

    @property
    def everything(self) -> bool:
        """Whether all arrays are shared."""
        return not self.kept and not self.received

    def check_sent(self, names: Collection[str], *, what: str) -> None:
        """Checks the names of the arrays that a site sends, or is about to send.

        Raises:
          IncompatibleWeights: if one is kept or only received, or a shared one is missing.
        """
        for found, rule in (
            (sorted(self.kept.intersection(names)), "keeps at the site"),
            (sorted(self.received.intersection(names)), "only lets sites receive"),
        ):
            if found:
                raise errors.IncompatibleWeights(
                    f"{what} holds {printable.some(found, _LISTED)}, which the plan {rule}; "
                    "install the same release at both ends and send only shared arrays",
                    reasons=[errors.Reason(name, "not_shared", "not shared") for name in found],
                )
        if not self.everything and (missing := sorted(self.shared.difference(names))):
            raise errors.IncompatibleWeights(
                f"{what} lacks {printable.some(missing, _LISTED)}, which the plan shares; send "
                "every shared array",
                reasons=[errors.Reason(name, "missing", "missing") for name in missing],
            )


def of_plan(plan: Mapping[str, Any]) -> ShareRules:
    """Returns the rules of a plan; without an entry, everything is shared.

    Raises:
      ValueError: if the entry is not of the form that `ShareRules.to_plan` returns.
    """
    entry = plan.get(PLAN_KEY, {})
    if not (
        isinstance(entry, Mapping)
        and entry.keys() <= {"keep", "receive"}
        and all(isinstance(patterns, (list, tuple)) for patterns in entry.values())
    ):
        raise ValueError(
            f"the plan's {PLAN_KEY!r} is {entry!r}; expected "
            "{'keep': [patterns], 'receive': [patterns]}, with either or both"
        )
    return ShareRules(**{key: tuple(patterns) for key, patterns in entry.items()})


def _matching(rule: str, patterns: Iterable[str], names: Collection[str]) -> frozenset[str]:
    found: set[str] = set()
    for pattern in patterns:
        matched = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not matched:
            shown = printable.some(sorted(names), _LISTED) or "none"
            raise ValueError(
                f"{rule} has the pattern {pattern!r}, which matches none of the model's arrays "
                f"({shown}); correct it or leave it out"
            )
        found.update(matched)
    return frozenset(found)

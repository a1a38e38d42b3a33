"""The exchange by which sites mask their updates and open the sum, as a pure state machine.

    keys     each site that has trained sends public keys; the round's own policy ends this phase
    share    each seals shares of its secrets for every other
    mask     each uploads its masked update
    consent  each signs for the sites whose updates have arrived
    reveal   a threshold of them opens the sum

A later phase ends when every site that is expected has done its part, or at its deadline with those
that have. If fewer than the threshold have, the exchange is given up, and the round begins another
one with fresh keys.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Literal

from federated import errors
from federated.rounds import rounds
from federated.rounds.rounds import Policy, Round, Update

Phase = Literal["keys", "share", "mask", "consent", "reveal"]
PHASES: tuple[Phase, ...] = ("keys", "share", "mask", "consent", "reveal")
MAX_EXCHANGES = 1000  # in one round, so that no server keeps sites at it for ever


@dataclasses.dataclass(frozen=True, kw_only=True)
class SumPolicy:
    """When a phase ends."""

    threshold: int  # sites that every phase needs
    phase_deadline_s: float  # of each phase after the keys


@dataclasses.dataclass(frozen=True)
class Exchange:
    """An exchange of the open round.

    Attributes:
      number: from 1, and one more each time that the round had to begin again.
      opened_at: when the phase began, in seconds of the round's clock.
      done: site to when it did its part in this phase.
      closed: phase to the sites that did their part, of each phase before.
      again: sites whose sum may have been opened in an exchange before; sites help to open no other
        in this round, so it should become the same one. Empty if none was.
    """

    number: int
    opened_at: float
    phase: Phase = "keys"
    done: Mapping[str, float] = dataclasses.field(default_factory=dict)
    closed: Mapping[Phase, frozenset[str]] = dataclasses.field(default_factory=dict)
    again: frozenset[str] = frozenset()

    @property
    def members(self) -> frozenset[str] | None:
        """The sites that this phase is for; None for all."""
        if self.phase == "keys":
            return None
        return self.closed[PHASES[PHASES.index(self.phase) - 1]]

    @property
    def survivors(self) -> frozenset[str]:
        """The sites whose masked updates are in the sum, once they are fixed."""
        return self.closed.get("mask", frozenset())

    @property
    def dropped(self) -> frozenset[str]:
        """The sites that shared and are not in the sum."""
        return self.closed.get("share", frozenset()) - self.survivors


def check(state: Exchange, site: str, phase: str, number: int) -> None:
    """Checks that a site may act in a phase now.

    Raises:
      StaleUpdate: if the exchange is another one, in another phase, or without this site.
    """
    if number != state.number or phase != state.phase:
        raise errors.StaleUpdate(
            f"site {site!r} is at {phase!r} of exchange {number}, the round at {state.phase!r} of "
            f"exchange {state.number}; ask for the next task"
        )
    if state.members is not None and site not in state.members:
        raise errors.StaleUpdate(
            f"site {site!r} takes no part in {phase!r} of exchange {number}, because it missed an "
            "earlier phase; ask for the next task"
        )


def acted(state: Exchange, site: str, *, now: float) -> Exchange:
    """Returns `state` after a site did its part; a repetition changes nothing."""
    check(state, site, state.phase, state.number)
    return dataclasses.replace(state, done={site: now, **state.done})


def task_of(state: Exchange, site: str) -> Phase | None:
    """Returns the phase in which `site` has to act now, None if it has to wait."""
    if site in state.done or (state.members is not None and site not in state.members):
        return None
    return state.phase


def gathering(state: Exchange, opened: Round, policy: Policy) -> Round:
    """Returns the round as it would be if the keys that have come were its updates: its policy
    decides when the phase of the keys is over. Only its maximum of sites counts, the first ones.
    """
    gathered = dataclasses.replace(opened, received={}, min_reached_at=None)
    first = sorted(state.done.items(), key=lambda entry: (entry[1], entry[0]))
    for site, at in first[: policy.max_num_clients]:
        update = Update(site, opened.number, 1, "")
        gathered = rounds.accept(gathered, update, policy=policy, now=at)
    return gathered


def outcome(
    state: Exchange, absent: Collection[str], policy: SumPolicy, *, since: float, now: float
) -> Literal["wait", "next", "failed"]:
    """Returns what becomes of a phase after the keys.

    Args:
      absent: sites that were evicted or have been silent for too long.
      since: the deadline counts from here if that is later than the beginning of the phase: from
        the end of a pause, or from the last bytes of an upload.
    """
    members = state.members or frozenset()
    enough = len(state.done) >= policy.threshold
    if members <= state.done.keys() or (state.phase == "reveal" and enough):
        return "next" if enough else "failed"
    if enough and members - state.done.keys() <= set(absent):
        return "next"
    if now < deadline(state, policy, since=since):
        return "wait"
    return "next" if enough else "failed"


def deadline(state: Exchange, policy: SumPolicy, *, since: float) -> float:
    """Returns when the phase ends at the latest."""
    return max(state.opened_at, since) + policy.phase_deadline_s


def advanced(state: Exchange, *, now: float) -> Exchange:
    """Returns the next phase, for the sites that did their part in this one. If all are there whose
    sum may have been opened before, the masks are for them alone.
    """
    done = frozenset(state.done)
    if state.phase == "share" and state.again and state.again <= done:
        done = state.again
    following = PHASES[PHASES.index(state.phase) + 1]
    closed = {**state.closed, state.phase: done}
    return Exchange(state.number, now, following, {}, closed, state.again)


def restarted(state: Exchange, *, now: float) -> Exchange:
    """Returns the first phase of the next exchange, in place of one that was given up."""
    again = state.survivors if state.phase == "reveal" else state.again
    return Exchange(state.number + 1, now, again=again)

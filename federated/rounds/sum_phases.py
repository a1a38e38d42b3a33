"""The exchange by which sites mask their updates and open the sum, as a pure state machine.

    keys     each site that has trained sends public keys; the round's own policy ends this phase
    share    each site seals shares of its secrets for every other site
    mask     each site uploads its masked update
    consent  each site signs the list of sites whose updates have arrived
    reveal   a threshold of the sites opens the sum

Each later phase ends when every expected site has done its part or, at its deadline, with the sites
that have. If these are fewer than the threshold, the exchange is abandoned, and the round begins
another one with new keys.
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
MAX_EXCHANGES = 1000  # in one round, so that no server can keep sites busy forever


@dataclasses.dataclass(frozen=True, kw_only=True)
class SumPolicy:
    """The conditions under which a phase ends."""

    threshold: int  # number of sites that every phase needs
    phase_deadline_s: float  # for each phase after the keys


@dataclasses.dataclass(frozen=True)
class Exchange:
    """An exchange of the open round.

    Attributes:
      number: 1 for the first exchange of the round, and one more for each that followed.
      opened_at: when the phase began, in seconds of the round's clock.
      done: site -> when it did its part in this phase.
      closed: each earlier phase -> the sites that did their part in it.
      again: sites whose sum may have been opened in an earlier exchange. Sites help to open only
        one sum in a round, so this exchange should form the same one. Empty if there was none.
    """

    number: int
    opened_at: float
    phase: Phase = "keys"
    done: Mapping[str, float] = dataclasses.field(default_factory=dict)
    closed: Mapping[Phase, frozenset[str]] = dataclasses.field(default_factory=dict)
    again: frozenset[str] = frozenset()

    @property
    def members(self) -> frozenset[str] | None:
        """The sites that take part in this phase; None for all."""
        if self.phase == "keys":
            return None
        return self.closed[PHASES[PHASES.index(self.phase) - 1]]

    @property
    def survivors(self) -> frozenset[str]:
        """The sites whose masked updates are in the sum, once they are fixed."""
        return self.closed.get("mask", frozenset())

    @property
    def dropped(self) -> frozenset[str]:
        """The sites that sent shares and are not in the sum."""
        return self.closed.get("share", frozenset()) - self.survivors


def check(state: Exchange, site: str, phase: str, number: int) -> None:
    """Checks that a site may act in a phase now.

    Raises:
      StaleUpdate: if this is another exchange, is in another phase, or does not include the site.
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
    """Returns `state` after a site has done its part; a repetition changes nothing."""
    check(state, site, state.phase, state.number)
    return dataclasses.replace(state, done={site: now, **state.done})


def task_of(state: Exchange, site: str) -> Phase | None:
    """Returns the phase in which `site` has to act now; None if it has to wait."""
    if site in state.done or (state.members is not None and site not in state.members):
        return None
    return state.phase


def gathering(state: Exchange, opened: Round, policy: Policy) -> Round:
    """Returns the round as it would be if the keys received so far were its updates.

    The round's policy thus decides when the phase of the keys is over. If there are more sites than
    its maximum, the first ones count.
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
    """Decides whether a phase after the keys continues ("wait"), ends ("next") or failed.

    Args:
      absent: sites that were evicted or have been silent for too long.
      since: end of a pause, or arrival of the last bytes of an upload. The deadline counts from
        here if that is later than the beginning of the phase.
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
    """Returns the latest time at which the phase ends."""
    return max(state.opened_at, since) + policy.phase_deadline_s


def advanced(state: Exchange, *, now: float) -> Exchange:
    """Returns the next phase, for the sites that did their part in this one.

    If all sites are present whose sum may have been opened before, the masks are for them alone.
    """
    done = frozenset(state.done)
    if state.phase == "share" and state.again and state.again <= done:
        done = state.again
    following = PHASES[PHASES.index(state.phase) + 1]
    closed = {**state.closed, state.phase: done}
    return Exchange(state.number, now, following, {}, closed, state.again)


def restarted(state: Exchange, *, now: float) -> Exchange:
    """Returns the first phase of the next exchange, which replaces an abandoned one."""
    again = state.survivors if state.phase == "reveal" else state.again
    return Exchange(state.number + 1, now, again=again)

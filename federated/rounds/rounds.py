"""A round as a pure state machine: which update counts, whom it waits for and when it is over. No
clock, no lock, no file.

A round is open from `opened_at`. It is over
  at once, when every site that it may still expect has pushed (`max_num_clients`, less those that
  left); `wait_after_min_clients_s` after the minimum was there, else; `round_deadline_s` after it
  was opened at the latest, where there is a deadline.
While bytes of a missing site still arrive, the last two move on with them, by `max_extension_s` at
most: a slow link is no failure. A deadline that passes below the minimum starts another attempt,
which keeps the updates that are there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from federated.errors import StaleUpdate, UnknownSite

LATE = ("discard", "keep")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """How many sites a round takes and how long it waits for the late ones."""

    min_num_clients: int
    max_num_clients: int
    num_rounds: int
    wait_after_min_clients_s: float = 10.0
    round_deadline_s: float | None = None
    progress_grace_s: float = 60.0  # after the last bytes of a transfer under way
    max_extension_s: float = 6 * 3600.0
    late_updates: Literal["discard", "keep"] = (
        "discard"  # keep: an update of the round before counts in the open one, once
    )

    def __post_init__(self):
        if not 1 <= self.min_num_clients <= self.max_num_clients:
            raise ValueError(
                f"min_num_clients is {self.min_num_clients}, max_num_clients {self.max_num_clients}; expected 1 <= minimum <= maximum"
            )
        if self.num_rounds < 1:
            raise ValueError(f"num_rounds is {self.num_rounds}; expected at least 1")
        for name in ("wait_after_min_clients_s", "progress_grace_s", "max_extension_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected seconds, 0 or more")
        if self.round_deadline_s is not None and not self.round_deadline_s > 0:
            raise ValueError(
                f"round_deadline_s is {self.round_deadline_s}; expected seconds, more than 0, or none"
            )
        if self.late_updates not in LATE:
            raise ValueError(
                f"late_updates is {self.late_updates!r}; expected one of {', '.join(LATE)}"
            )


@dataclasses.dataclass(frozen=True)
class Update:
    """What the round needs to know of an update; its arrays are spooled under the digest."""

    site: str
    round: int  # that it was trained for
    num_examples: int
    sha256: str


class Arrival(NamedTuple):
    """An update under way: since when its bytes come without a gap longer than the grace, and when
    the last ones came.
    """

    since: float
    last: float


@dataclasses.dataclass(frozen=True)
class Round:
    """An open round: it starts from global model `number - 1` and makes global model `number`.

    Attributes:
      opened_at, min_reached_at: seconds, as all moments here; of one clock that is never set.
      arriving: of each site whose update is under way.
      absent: sites that left, or were sent away: not waited for.
      counted_before: sites whose updates are in global model `number - 1`.
    """

    number: int  # from 1
    received: Mapping[str, Update] = dataclasses.field(default_factory=dict)
    min_reached_at: float | None = None
    opened_at: float = 0.0
    attempt: int = 1
    arriving: Mapping[str, Arrival] = dataclasses.field(default_factory=dict)
    absent: frozenset[str] = frozenset()
    counted_before: frozenset[str] = frozenset()


def check(state: Round, update: Update, *, policy: Policy) -> None:
    """Raises what `accept` would raise.

    Raises:
      StaleUpdate: for another round than the open one.
      UnknownSite: for one site more than `max_num_clients`.
    """
    site = update.site
    late = policy.late_updates == "keep" and update.round == state.number - 1
    if late and site in state.counted_before:
        raise StaleUpdate(
            f"site {site!r} sent another update of round {update.round}, in which it has been counted; ask for the next task"
        )
    if late and site in state.received and state.received[site].round == state.number:
        raise StaleUpdate(
            f"site {site!r} sent round {update.round} after round {state.number}; ask for the next task"
        )
    if update.round != state.number and not late:
        raise StaleUpdate(
            f"site {site!r} sent round {update.round}, round {state.number} is open; pull its weights and retrain"
        )
    if site not in state.received and len(state.received) >= policy.max_num_clients:
        raise UnknownSite(
            f"round {state.number} has its {policy.max_num_clients} updates, site {site!r} is not among them"
        )


def accept(state: Round, update: Update, *, policy: Policy, now: float) -> Round:
    """Returns `state` with `update` recorded. A retry replaces itself, so a lost reply does no
    harm. Raises as `check`.
    """
    check(state, update, policy=policy)
    received = {**state.received, update.site: update}
    reached = state.min_reached_at
    if reached is None and len(received) >= policy.min_num_clients:
        reached = now
    arriving = {site: arrival for site, arrival in state.arriving.items() if site != update.site}
    return dataclasses.replace(
        state,
        received=received,
        min_reached_at=reached,
        arriving=arriving,
        absent=state.absent - {update.site},
    )


def progressed(state: Round, site: str, *, policy: Policy, now: float) -> Round:
    """Returns `state` knowing that bytes of a site's update came just now; the site is there again
    if it had left.
    """
    if site in state.received:
        return state
    before = state.arriving.get(site)
    goes_on = before is not None and now <= before.last + policy.progress_grace_s
    arrival = Arrival(before.since if goes_on else now, now)
    return dataclasses.replace(
        state, arriving={**state.arriving, site: arrival}, absent=state.absent - {site}
    )


def refused(state: Round, site: str) -> Round:
    """Returns `state` in which nothing of a site is under way any more: what it sent was refused,
    and nobody waits for it to try again.
    """
    return dataclasses.replace(
        state, arriving={name: arrival for name, arrival in state.arriving.items() if name != site}
    )


def without(state: Round, absent: Iterable[str]) -> Round:
    """Returns `state` waiting for none of `absent`, and again for those that were absent and are
    not any more.
    """
    absent = frozenset(absent)
    arriving = {site: arrival for site, arrival in state.arriving.items() if site not in absent}
    return dataclasses.replace(state, absent=absent, arriving=arriving)


def withdrawn(state: Round, site: str, *, policy: Policy) -> Round:
    """Returns `state` without the update of a site; below the minimum, the wait begins anew once it
    is there again.
    """
    received = {name: update for name, update in state.received.items() if name != site}
    reached = state.min_reached_at if len(received) >= policy.min_num_clients else None
    return dataclasses.replace(state, received=received, min_reached_at=reached)


def reopened(state: Round, *, now: float) -> Round:
    """Returns the next attempt at a round whose deadline passed below the minimum: same updates, a
    fresh deadline.
    """
    return dataclasses.replace(state, opened_at=now, attempt=state.attempt + 1)


def resumed(state: Round, *, now: float) -> Round:
    """Returns `state` with its clocks started anew, after a pause in which nobody was to hurry."""
    return dataclasses.replace(
        state, opened_at=now, min_reached_at=None if state.min_reached_at is None else now
    )


def closes_at(state: Round, policy: Policy) -> float | None:
    """Returns when the round is over, in seconds; None while the minimum is missing.

    With minimum = maximum no clock decides: the last update closes the round.
    """
    if state.min_reached_at is None:
        return None
    still_expected = policy.max_num_clients - len(state.absent - state.received.keys())
    if len(state.received) >= still_expected:
        return state.min_reached_at
    due = state.min_reached_at + policy.wait_after_min_clients_s
    if policy.round_deadline_s is not None:
        due = min(due, max(state.opened_at + policy.round_deadline_s, state.min_reached_at))
    return _extended(due, state, policy)


def expires_at(state: Round, policy: Policy) -> float | None:
    """Returns when this attempt ends for want of updates; None where there is no deadline or the
    minimum is there.
    """
    if policy.round_deadline_s is None or state.min_reached_at is not None:
        return None
    return _extended(state.opened_at + policy.round_deadline_s, state, policy)


def is_over(state: Round, policy: Policy, *, now: float) -> bool:
    moment = closes_at(state, policy)
    return moment is not None and now >= moment


def is_expired(state: Round, policy: Policy, *, now: float) -> bool:
    moment = expires_at(state, policy)
    return moment is not None and now >= moment


def next_moment(state: Round, policy: Policy) -> float | None:
    """Returns when the clock alone may change what is due; None if it never will."""
    moments = [
        moment
        for moment in (closes_at(state, policy), expires_at(state, policy))
        if moment is not None
    ]
    return min(moments, default=None)


def _extended(due: float, state: Round, policy: Policy) -> float:
    """Moves a deadline on while bytes arrive. Only what was under way before the deadline, as it
    then was, counts.
    """
    limit = due + policy.max_extension_s
    for arrival in sorted(state.arriving.values()):
        if arrival.since <= due:
            due = min(limit, max(due, arrival.last + policy.progress_grace_s))
    return due

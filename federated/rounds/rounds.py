"""A round as a pure state machine: which updates count, which sites it waits for, when it ends.

A round opens at `opened_at`. Once it has the minimum number of updates, it ends at the earliest of
  - the moment when every expected site has pushed: `max_num_clients` less the sites that left and
    whose places no others have taken
  - `wait_after_min_clients_s` after the minimum was reached
  - `round_deadline_s` after it opened, if there is a deadline.
While bytes of a missing site's update arrive, the last two are postponed, by at most
`max_extension_s`: a slow link is not a failure. If the deadline passes before the minimum is
reached, another attempt starts, which keeps the updates received so far.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from federated.errors import StaleUpdate, UnknownSite

LATE = ("discard", "keep")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """How many sites take part in a round, and how long it waits for late ones."""

    min_num_clients: int
    max_num_clients: int
    num_rounds: int
    wait_after_min_clients_s: float
    round_deadline_s: float | None
    progress_grace_s: float  # longest pause of a transfer for which the round still waits
    max_extension_s: float  # most by which arriving bytes may postpone a deadline in all
    # keep: an update of the previous round counts in the open round, once
    late_updates: Literal["discard", "keep"]

    def __post_init__(self):
        if not 1 <= self.min_num_clients <= self.max_num_clients:
            raise ValueError(
                f"min_num_clients is {self.min_num_clients}, max_num_clients "
                f"{self.max_num_clients}; expected 1 <= minimum <= maximum"
            )
        if self.num_rounds < 0:
            raise ValueError(
                f"num_rounds is {self.num_rounds}; expected at least 1, or 0 for an evaluation of "
                "given models without training"
            )
        for name in ("wait_after_min_clients_s", "progress_grace_s", "max_extension_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected seconds, 0 or more")
        if self.round_deadline_s is not None and not self.round_deadline_s > 0:
            raise ValueError(
                f"round_deadline_s is {self.round_deadline_s}; "
                "expected seconds, more than 0, or none"
            )
        if self.late_updates not in LATE:
            raise ValueError(
                f"late_updates is {self.late_updates!r}; expected one of {', '.join(LATE)}"
            )


@dataclasses.dataclass(frozen=True)
class Update:
    """What a round records of an update; the arrays are in a file named after the digest."""

    site: str
    round: int  # the round for which it was trained
    num_examples: int
    sha256: str


class Arrival(NamedTuple):
    """An update that is being received."""

    since: float  # when its bytes began to arrive without a pause longer than `progress_grace_s`
    last: float  # when the last bytes arrived


@dataclasses.dataclass(frozen=True)
class Round:
    """An open round: it starts from global model `number - 1` and makes global model `number`.

    Attributes:
      received: site -> its update.
      opened_at, min_reached_at: in seconds of one monotonic clock, like all times here.
      attempt: 1, and one more each time the deadline passed before the minimum was reached.
      arriving: site -> its update that is being received.
      absent: sites that left or were evicted; the round does not wait for them.
      replaced: number of them whose places other sites have taken.
      counted_before: sites whose updates are in global model `number - 1`.
    """

    number: int  # from 1
    received: Mapping[str, Update] = dataclasses.field(default_factory=dict)
    min_reached_at: float | None = None
    opened_at: float = 0.0
    attempt: int = 1
    arriving: Mapping[str, Arrival] = dataclasses.field(default_factory=dict)
    absent: frozenset[str] = frozenset()
    replaced: int = 0
    counted_before: frozenset[str] = frozenset()


def check(state: Round, update: Update, *, policy: Policy) -> None:
    """Checks that the round can accept an update.

    Raises:
      StaleUpdate: if it belongs to a round other than the open one.
      UnknownSite: if the round already has its `max_num_clients` updates.
    """
    site = update.site
    late = policy.late_updates == "keep" and update.round == state.number - 1
    if late and site in state.counted_before:
        raise StaleUpdate(
            f"site {site!r} sent another update of round {update.round}, "
            "in which it has been counted; ask for the next task"
        )
    if late and site in state.received and state.received[site].round == state.number:
        raise StaleUpdate(
            f"site {site!r} sent round {update.round} after round {state.number}; "
            "ask for the next task"
        )
    if update.round != state.number and not late:
        raise StaleUpdate(
            f"site {site!r} sent round {update.round}, round {state.number} is open; "
            "pull its weights and retrain"
        )
    if site not in state.received and len(state.received) >= policy.max_num_clients:
        raise UnknownSite(
            f"round {state.number} has its {policy.max_num_clients} updates, "
            f"site {site!r} is not among them"
        )


def accept(state: Round, update: Update, *, policy: Policy, now: float) -> Round:
    """Returns `state` with `update` recorded.

    A retry replaces the same update, so a lost reply does no harm. Raises what `check` raises.
    """
    check(state, update, policy=policy)
    return recorded(state, update, policy=policy, now=now)


def recorded(state: Round, update: Update, *, policy: Policy, now: float) -> Round:
    """Returns `state` with an update that was accepted, perhaps under an earlier policy.

    Its site has a receipt, so it counts whatever the policy is now.
    """
    received = {**state.received, update.site: update}
    reached = state.min_reached_at
    if reached is None and len(received) >= policy.min_num_clients:
        reached = now
    arriving = dict(state.arriving)
    arriving.pop(update.site, None)
    return dataclasses.replace(
        state,
        received=received,
        min_reached_at=reached,
        arriving=arriving,
        absent=state.absent - {update.site},
    )


def progressed(state: Round, site: str, *, policy: Policy, now: float) -> Round:
    """Returns `state` after bytes of a site's update arrived; the site is no longer absent."""
    if site in state.received:
        return state
    before = state.arriving.get(site)
    paused = before is None or now > before.last + policy.progress_grace_s
    arrival = Arrival(now if before is None or paused else before.since, now)
    return dataclasses.replace(
        state, arriving={**state.arriving, site: arrival}, absent=state.absent - {site}
    )


def refused(state: Round, site: str) -> Round:
    """Returns `state` after a site's update was refused; the round does not wait for a new one."""
    return dataclasses.replace(
        state, arriving={name: arrival for name, arrival in state.arriving.items() if name != site}
    )


def without(state: Round, absent: Iterable[str], *, replaced: int = 0) -> Round:
    """Returns `state` with `absent` as the sites for which it does not wait.

    Args:
      replaced: number of them whose places other sites have taken.
    """
    absent = frozenset(absent)
    arriving = {site: arrival for site, arrival in state.arriving.items() if site not in absent}
    return dataclasses.replace(state, absent=absent, replaced=replaced, arriving=arriving)


def reopened(state: Round, *, now: float) -> Round:
    """Returns the next attempt at a round whose deadline passed before the minimum was reached.

    It has the same updates and a new deadline.
    """
    return dataclasses.replace(state, opened_at=now, attempt=state.attempt + 1)


def resumed(state: Round, *, now: float) -> Round:
    """Returns `state` with its clocks restarted, after the operator's pause."""
    return dataclasses.replace(
        state, opened_at=now, min_reached_at=None if state.min_reached_at is None else now
    )


def num_expected(policy: Policy, *, absent: int, replaced: int) -> int:
    """Returns the number of sites to wait for.

    Args:
      absent: number of sites that left or were evicted and have sent nothing.
      replaced: number of them whose places other sites have taken.
    """
    return policy.max_num_clients - max(0, absent - replaced)


def closes_at(state: Round, policy: Policy) -> float | None:
    """Returns when the round is over, in seconds; None while it has fewer updates than the minimum.

    If minimum and maximum are equal, the clock plays no part: the last update closes the round.
    """
    if state.min_reached_at is None:
        return None
    absent = len(state.absent - state.received.keys())
    if len(state.received) >= num_expected(policy, absent=absent, replaced=state.replaced):
        return state.min_reached_at
    due = state.min_reached_at + policy.wait_after_min_clients_s
    if policy.round_deadline_s is not None:
        due = min(due, max(state.opened_at + policy.round_deadline_s, state.min_reached_at))
    return _extended(due, state, policy)


def expires_at(state: Round, policy: Policy) -> float | None:
    """Returns when this attempt ends for lack of updates.

    None if there is no deadline, or if the minimum has been reached.
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
    """Returns when the round or the attempt may end without a further event; None if never."""
    moments = [
        moment
        for moment in (closes_at(state, policy), expires_at(state, policy))
        if moment is not None
    ]
    return min(moments, default=None)


def _extended(due: float, state: Round, policy: Policy) -> float:
    """Returns a deadline, postponed while bytes arrive.

    A transfer counts only if it was under way before the deadline as postponed so far.
    """
    limit = due + policy.max_extension_s
    for arrival in sorted(state.arriving.values()):
        if arrival.since <= due:
            due = min(limit, max(due, arrival.last + policy.progress_grace_s))
    return due

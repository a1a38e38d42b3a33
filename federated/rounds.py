"""A round as a pure state machine: which update counts, and when the round is over. No clock, no lock, no file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from federated.errors import StaleUpdate, UnknownSite


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """How many sites a round takes and how long it waits for the late ones."""

    min_num_clients: int
    max_num_clients: int
    num_rounds: int
    wait_after_min_clients_s: float = 10.0

    def __post_init__(self):
        if not 1 <= self.min_num_clients <= self.max_num_clients:
            raise ValueError(
                f"min_num_clients is {self.min_num_clients}, max_num_clients {self.max_num_clients}; expected 1 <= minimum <= maximum"
            )
        if self.num_rounds < 1:
            raise ValueError(f"num_rounds is {self.num_rounds}; expected at least 1")
        if self.wait_after_min_clients_s < 0:
            raise ValueError(f"wait_after_min_clients_s is {self.wait_after_min_clients_s}; expected seconds, 0 or more")


@dataclasses.dataclass(frozen=True)
class Update:
    """What the round needs to know of an update; its arrays are spooled under the digest."""

    site: str
    round: int
    num_examples: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Round:
    """An open round: it starts from global model `number - 1` and makes global model `number`."""

    number: int  # from 1
    received: Mapping[str, Update] = dataclasses.field(default_factory=dict)
    min_reached_at: float | None = None  # seconds since the epoch


def accept(state: Round, update: Update, *, policy: Policy, now: float) -> Round:
    """Returns `state` with `update` recorded. A retry replaces itself, so a lost reply does no harm.

    Raises:
      StaleUpdate: for another round than the open one.
      UnknownSite: for one site more than `max_num_clients`.
    """
    if update.round != state.number:
        raise StaleUpdate(f"site {update.site!r} sent round {update.round}, round {state.number} is open; pull its weights and retrain")
    if update.site not in state.received and len(state.received) >= policy.max_num_clients:
        raise UnknownSite(f"round {state.number} has its {policy.max_num_clients} updates, site {update.site!r} is not among them")
    received = {**state.received, update.site: update}
    reached = state.min_reached_at
    if reached is None and len(received) >= policy.min_num_clients:
        reached = now
    return dataclasses.replace(state, received=received, min_reached_at=reached)


def closes_at(state: Round, policy: Policy) -> float | None:
    """Returns when the round is over, in seconds since the epoch; None while the minimum is missing.

    With minimum = maximum no clock decides: the last update closes the round.
    """
    if state.min_reached_at is None:
        return None
    if len(state.received) >= policy.max_num_clients:
        return state.min_reached_at
    return state.min_reached_at + policy.wait_after_min_clients_s


def is_over(state: Round, policy: Policy, *, now: float) -> bool:
    moment = closes_at(state, policy)
    return moment is not None and now >= moment

"""A server's report on its run, as JSON in `StatusReply`.

In every pair of classes, the first one has the keys that an earlier release does not send.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict


class _NewSiteKeys(TypedDict, total=False):
    labels: dict[str, str]  # class -> what the site's labels show of it
    last_round: int  # the round of its last update


class SiteSnapshot(_NewSiteKeys):
    """One site, from the store and the server's memory."""

    state: str  # "training", "sending", "pushed", "silent", ...
    num_examples: int
    seconds_since_heard: float
    bytes_received: float  # of models, from the site
    bytes_sent: float  # of models, to the site
    scores: dict[str, Mapping[str, float | None]]  # number of a global model -> the site's scores


class SiteStatus(SiteSnapshot):
    """One site, with what the log of the run states about it."""

    updates: int
    refused: int  # number of its refused logins and updates
    doing: str | None  # its last known action


class RoundStatus(TypedDict):
    """One round that has a global model."""

    round: int
    sites: dict[str, int]  # site -> number of training cases
    seconds: float | None  # from the opening of the round to its global model
    bytes: float  # of its updates
    mean: float | None  # mean score over the sites
    worst: float | None  # worst score of a site


class AuditHead(TypedDict):
    """The last line of the log."""

    lines: int
    head: str  # its hash


class SumStatus(TypedDict):
    """How far the secure sum of the open round is."""

    exchange: int  # from 1; one more each time that the sum had to begin again
    phase: str  # of `rounds.sum_phases`: "keys", "share", "mask", "consent" or "reveal"
    done: list[str]  # sites that have done their part in this phase
    awaited: list[str]  # sites that have not; none while the sum is being opened
    needed: int  # sites without which the phase does not end


class _NewRunKeys(TypedDict, total=False):
    paused: bool
    max_num_clients: int
    aggregation: str  # the rule, every parameter spelled out
    models: list[str]  # to evaluate, in a run without rounds
    reported: list[str]  # sites whose rows are in
    sum: SumStatus | None  # with secure aggregation, while a round is open


class _RunKeys(_NewRunKeys):
    run: str
    phase: str  # "rounds", "paused", "evaluation" or "finished"
    finished: bool
    rounds_done: int
    num_rounds: int
    open_round: int | None
    attempt: int | None  # of the open round
    updates: list[str]  # sites whose update of the open round has arrived
    min_num_clients: int
    best_round: int | None


class RunSnapshot(_RunKeys):
    """A run, from the store and the server's memory."""

    sites: dict[str, SiteSnapshot]


class RunStatus(_RunKeys):
    """A run, with what the log, the disk and the machine show of it.

    If a reply could not hold all of it, it has only the newest rounds and scores.
    """

    sites: dict[str, SiteStatus]
    rounds: list[RoundStatus]
    model_bytes: float
    disk_free_bytes: float
    release: str
    warnings: list[str]
    audit: AuditHead

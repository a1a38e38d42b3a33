"""Contents of the events in a run's log, for the programs that read it.

Readers skip events of other kinds. Classes whose names begin with `_New` have the keys that logs of
earlier releases lack, or that a line has only in some cases: a line with `backfilled` was written
from the store after a kill, and lacks what only the request contained.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict


class _Line(TypedDict):
    time: float  # seconds since the epoch


class _Chained(_Line, total=False):
    line: int
    previous: str  # hash of the previous line
    hash: str
    backfilled: bool


class _NewStarted(_Chained, total=False):
    format: int
    certificate: str  # PEM


class StartedLine(_NewStarted):
    """A server has started."""

    event: Literal["started"]


class RemovedSegments(TypedDict):
    """The first segments of a log, which the server has removed as its settings demand."""

    segments: int  # number of removed segments
    lines: int  # number of lines in them
    head: str  # hash of the last of these lines


class _NewContinued(_Chained, total=False):
    removed: RemovedSegments  # removed since then


class ContinuedLine(_NewContinued):
    """A new segment of the log has begun."""

    event: Literal["log_continued"]
    segment: int  # its number
    format: int
    carried: dict[str, Any]  # state at its beginning: `federated.audit.carried.Carried`


class _NewLogin(_Chained, total=False):
    omitted: int  # lines of this kind that were left out before this one


class LoginLine(_NewLogin):
    """A site has logged in."""

    event: Literal["login"]
    site: str
    num_examples: int


class _NewRefused(_Chained, total=False):
    error: str  # class of the error, if a login was refused
    times: int  # number of such logins of the site so far; not every one has a line
    what: str  # what was sent
    reasons: list[dict[str, str]]  # one per faulty tensor
    omitted: int  # lines of this kind that were left out before this one


class RefusedLine(_NewRefused):
    """A login or an update of a site was refused."""

    event: Literal["login_refused", "refused"]
    site: str


class _NewPulled(_Chained, total=False):
    seconds: float
    omitted: int


class PulledLine(_NewPulled):
    """A site has downloaded a model."""

    event: Literal["pulled"]
    site: str
    model: str
    bytes: int


class ScoredLine(_Chained):
    """A site has scored a global model."""

    event: Literal["scored"]
    site: str
    model: int
    scores: dict[str, float]


class _NewPushed(_Chained, total=False):
    counts_in: int  # a late update counts in a later round
    bytes: int
    seconds: float
    metrics: dict[str, float]


class PushedLine(_NewPushed):
    """An update has arrived."""

    event: Literal["pushed"]
    site: str
    round: int  # round for which it was trained
    num_examples: int
    sha256: str


class RoundOpenedLine(_Chained):
    """A round has begun."""

    event: Literal["round_opened"]
    round: int


class _NewAggregated(_Chained, total=False):
    aggregation: str  # the rule with all its parameters
    rule_state_sha256: str
    rounding_error: float  # of a model that is sent rounded
    bytes: int  # of the global model
    seconds: float  # of the aggregation
    secure_aggregation: dict[str, Any]  # threshold, exchange number, sites that dropped out


class AggregatedLine(_NewAggregated):
    """A round has ended with its global model."""

    event: Literal["aggregated"]
    round: int
    sites: dict[str, int]  # site -> number of training cases
    updates: dict[str, str]  # site -> digest of its update (masked, with secure aggregation)
    sha256: str  # of the global model


class _NewDiscarded(_Chained, total=False):
    sha256: str | None  # of the global model before that round


class RoundDiscardedLine(_NewDiscarded):
    """The operator went back to the global model before a round."""

    event: Literal["round_discarded"]
    round: int


class _NewEvicted(_Chained, total=False):
    models: list[str]  # models that the site had lent


class EvictedLine(_NewEvicted):
    """The operator has evicted a site."""

    event: Literal["evicted"]
    site: str


class SiteLine(_Chained):
    """A site was readmitted, or was told that the run has ended."""

    event: Literal["readmitted", "site_finished"]
    site: str


class _NewPublished(_Chained, total=False):
    bytes: int
    seconds: float


class PublishedLine(_NewPublished):
    """A site has lent a model to the evaluation."""

    event: Literal["published"]
    site: str
    model: str
    sha256: str


class GivenLine(_Chained):
    """The operator gave a model to evaluate."""

    event: Literal["given"]
    model: str
    sha256: str


class SelectedLine(_Chained):
    """The best global model by the scores so far."""

    event: Literal["selected"]
    best_round: int
    mean: float
    worst: float


class _NewFixed(_Chained, total=False):
    asked: int  # number of models that every site has to evaluate
    best_round: int
    scored_by: list[str]  # sites that scored the model


class FixedLine(_NewFixed):
    """The models to evaluate are fixed, or the run has ended.

    The choice of the best global model is final at the first such line that names one.
    """

    event: Literal["models_fixed", "finished"]


class _NewRows(_Chained, total=False):
    sha256: str


class RowsLine(_NewRows):
    """The rows of a site's evaluation have arrived."""

    event: Literal["rows"]
    site: str
    rows: int


LogLine = (
    StartedLine
    | ContinuedLine
    | LoginLine
    | RefusedLine
    | PulledLine
    | ScoredLine
    | PushedLine
    | RoundOpenedLine
    | AggregatedLine
    | RoundDiscardedLine
    | EvictedLine
    | SiteLine
    | PublishedLine
    | GivenLine
    | SelectedLine
    | FixedLine
    | RowsLine
)

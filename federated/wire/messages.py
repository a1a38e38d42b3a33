"""What the two ends hand each other, whatever carries it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from federated.tensors.weights import TensorManifest

# of the methods by which an operator or a doctor asks a server
OPERATION_PREFIX = "/federation_operation.Operation/"
PROTOCOL = (
    2  # of the weight exchange; raised when the two ends would no longer understand each other
)
MIN_WAIT_S, MAX_WAIT_S = (
    0.05,
    3600.0,
)  # a site asks, and beats, neither more often than this nor less


@dataclasses.dataclass(frozen=True)
class Session:
    """What a site gets at login."""

    token: str
    expires_at: float  # seconds since the epoch, by the server's clock
    run: str
    plan_fingerprint: str
    num_rounds: int
    local_epochs: int
    poll_s: float
    heart_beat_s: float
    transport: str = "raw"  # how models travel; see `codec`
    ends_with_scores: bool = (
        False  # nothing is asked of a site after the scores of the last global model
    )
    # the authority's statement on revoked server certificates, if there is one; see `revocation`
    revocation: bytes = b""


@dataclasses.dataclass(frozen=True)
class Receipt:
    """Says that `what` of `site` is checked, on disk and counted once. The same bytes give the same
    receipt.
    """

    site: str
    what: str  # "round_003" or the name of a published model
    sha256: str


@dataclasses.dataclass(frozen=True)
class Offer:
    """A model as it is announced before its bytes."""

    manifest: TensorManifest
    round: int = 0  # of an update
    num_examples: int = 0  # of an update
    model: str = ""  # name of a published model
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    discarded: int | None = (
        # of an update: how often the run had gone back when it was trained; None from an earlier
        # release
        None
    )

    @property
    def sha256(self) -> str:
        return self.manifest.sha256


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a server says to an offer: a receipt where it has the model already, else which chunks
    it misses.
    """

    receipt: Receipt | None = None
    missing: tuple[int, ...] = ()

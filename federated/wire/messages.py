"""What the two ends send each other, whatever carries it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from federated.tensors.weights import TensorManifest

# Prefix of the methods by which an operator or a doctor asks a server.
OPERATION_PREFIX = "/federation_operation.Operation/"
# Of the weight exchange; raised when the two ends would no longer understand each other.
PROTOCOL = 2
# Limits on a site's pauses between two requests for a task and between two heart beats.
MIN_WAIT_S, MAX_WAIT_S = 0.05, 3600.0


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
    ends_with_scores: bool = False  # nothing is asked after the scores of the last global model
    revocation: bytes = b""  # the authority's list of revoked server certificates, if there is one


@dataclasses.dataclass(frozen=True)
class Receipt:
    """Confirms that `what` of `site` was checked, is on disk and counts once. The same bytes give
    the same receipt.
    """

    site: str
    what: str  # "round_003" or the name of a published model
    sha256: str


@dataclasses.dataclass(frozen=True)
class Offer:
    """A model as a site announces it before its bytes. Its manifest is a checked value."""

    manifest: TensorManifest
    round: int = 0  # of an update
    num_examples: int = 0  # of an update
    model: str = ""  # name of a published model
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    # Of an update: how often the run had been taken back when it was trained; None from an earlier
    # release.
    discarded: int | None = None

    @property
    def sha256(self) -> str:
        return self.manifest.sha256


@dataclasses.dataclass(frozen=True)
class Answer:
    """A server's reply to an offer: a receipt if it has the model already, otherwise the chunks
    that it lacks.

    Attributes:
      trained_from: digest of the global model that the server has beside it: chunks may travel as
        what differs from that. "" if it has none, as from an earlier release.
    """

    receipt: Receipt | None = None
    missing: tuple[int, ...] = ()
    trained_from: str = ""

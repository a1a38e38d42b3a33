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


MASKING = 1  # version of secure aggregation; 0 stands for a release without
# Sites in one sum: each has a key bundle of a kilobyte, and a share from every other.
MAX_SUMMANDS = 128


@dataclasses.dataclass(frozen=True)
class SumSettings:
    """What is fixed for a whole run with secure aggregation; see `secure_aggregation.ring`."""

    threshold: int  # sites that must agree to open a sum, and sites in a sum at least
    max_sites: int
    value_range: float  # largest absolute change of a value in a round
    fraction_bits: int


@dataclasses.dataclass(frozen=True, order=True)
class SumPlace:
    """Names one exchange. Later ones are greater: in a round that could not be opened the next
    exchange has a number one higher.
    """

    discarded: int  # how often the operator had taken the run back
    round: int
    exchange: int  # from 1


@dataclasses.dataclass(frozen=True)
class SumKeys:
    """A site's public keys for one exchange (X25519), its certificate (DER) and its signature."""

    site: str
    sealing_key: bytes  # under which others seal shares for it
    masking_key: bytes  # of which pair masks are made
    certificate: bytes
    signature: bytes


@dataclasses.dataclass(frozen=True)
class SumPost:
    """What a site sends in one phase of an exchange; the fields of other phases are empty.

    Attributes:
      keys: phase "keys".
      commitment, shares: phase "share": what fixes the self mask, and the sealed shares for each
        other site.
      consent: phase "consent": a signature.
      self_masks, mask_keys: phase "reveal": site to the share of its self mask's secret, or of its
        masking key. No site is in both.
    """

    phase: str
    place: SumPlace
    keys: SumKeys | None = None
    commitment: bytes = b""
    shares: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    consent: bytes = b""
    self_masks: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    mask_keys: Mapping[str, bytes] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class SumState:
    """What a site needs from the server for one phase; the fields of other phases are empty.

    Attributes:
      keys: phase "share": of every site.
      shares: phase "mask": site to what it sealed for the one that asks.
      survivors, dropped: phases "consent" and "reveal": sites whose updates are in the sum, and
        sites that shared and sent none.
      consents: phase "reveal": site to its signature.
    """

    keys: tuple[SumKeys, ...] = ()
    shares: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    survivors: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    consents: Mapping[str, bytes] = dataclasses.field(default_factory=dict)


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
    sums: SumSettings | None = None  # of a run with secure aggregation; None without


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

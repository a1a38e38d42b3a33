"""The values that the two ends send to each other, whatever the transport."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from federated.tensors.weights import TensorManifest

# Prefix of the methods that the operator or the doctor calls at a server.
OPERATION_PREFIX = "/federation_operation.Operation/"
# The orders that an operator can give to a running server.
ORDERS = ("pause", "resume", "evict", "admit", "discard_round", "finish", "finish_now")
# Version of the weight exchange; increased when the two ends would not understand each other.
PROTOCOL = 2
# Limits on a site's pauses between two requests for a task and between two heart beats.
MIN_WAIT_S, MAX_WAIT_S = 0.05, 3600.0


MASKING = 1  # version of secure aggregation; 0 stands for a release without it
# Sites in one sum: each has a key bundle of a kilobyte, and a share from every other site.
MAX_SUMMANDS = 128


@dataclasses.dataclass(frozen=True)
class SumSettings:
    """The fixed settings of a run with secure aggregation; see `secure_aggregation.ring`."""

    threshold: int  # sites that must agree to open a sum, and smallest number of sites in a sum
    max_sites: int
    value_range: float  # largest absolute change of a value in a round
    fraction_bits: int


@dataclasses.dataclass(frozen=True, order=True)
class SumPlace:
    """The identification of one exchange; later ones compare greater.

    If the sum of a round could not be opened, the next exchange of the round has the next number.
    """

    discarded: int  # how often the operator had discarded rounds
    round: int
    exchange: int  # from 1


@dataclasses.dataclass(frozen=True)
class SumKeys:
    """A site's public keys for one exchange (X25519), its certificate (DER) and its signature."""

    site: str
    sealing_key: bytes  # with which other sites seal shares for this one
    masking_key: bytes  # from which pair masks are derived
    certificate: bytes
    signature: bytes


@dataclasses.dataclass(frozen=True)
class SumPost:
    """What a site sends in one phase of an exchange; the fields of other phases are empty.

    Attributes:
      keys: phase "keys".
      commitment, shares: phase "share": the commitment to the self mask, and the sealed shares for
        each other site.
      consent: phase "consent": a signature.
      self_masks, mask_keys: phase "reveal": site -> the share of its self mask's secret, or of its
        masking key. A site is never in both.
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
      keys: phase "share": the keys of every site.
      shares: phase "mask": site -> the shares that it sealed for the requesting site.
      survivors, dropped: phases "consent" and "reveal": sites whose updates are in the sum, and
        sites that sent shares but not an update.
      consents: phase "reveal": site -> its signature.
    """

    keys: tuple[SumKeys, ...] = ()
    shares: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    survivors: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    consents: Mapping[str, bytes] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Session:
    """What a site receives at login."""

    token: str
    expires_at: float  # seconds since the epoch, by the server's clock
    run: str
    plan_fingerprint: str
    num_rounds: int
    local_epochs: int
    poll_s: float
    heart_beat_s: float
    transport: str = "raw"  # how models are sent; see `codec`
    ends_with_scores: bool = False  # the run ends with the scores of the last global model
    revocation: bytes = b""  # the authority's list of revoked server certificates, if there is one
    sums: SumSettings | None = None  # of a run with secure aggregation; None without it


@dataclasses.dataclass(frozen=True)
class Receipt:
    """Confirms that `what` of `site` was checked, is on disk and counts once.

    The same bytes yield the same receipt.
    """

    site: str
    what: str  # "round_003" or the name of a published model
    sha256: str


@dataclasses.dataclass(frozen=True)
class Offer:
    """A site's announcement of a model, sent before its bytes. The manifest is a checked value."""

    manifest: TensorManifest
    round: int = 0  # of an update
    num_examples: int = 0  # of an update
    model: str = ""  # name of a published model
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    # Of an update: how often rounds had been discarded when it was trained; None from an earlier
    # release.
    discarded: int | None = None

    @property
    def sha256(self) -> str:
        return self.manifest.sha256


@dataclasses.dataclass(frozen=True)
class Answer:
    """A server's reply to an offer: a receipt if it has the model, otherwise the missing chunks.

    Attributes:
      trained_from: digest of the global model, present at the server, relative to which chunks may
        be sent as differences. "" if there is none, or from an earlier release.
    """

    receipt: Receipt | None = None
    missing: tuple[int, ...] = ()
    trained_from: str = ""

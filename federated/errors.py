"""What can go wrong in a federation, one class a cause; the class name travels, so both ends raise
the same error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Reason(NamedTuple):
    """Why one tensor of a model was refused; `tensor` is empty where it is the model as a whole."""

    tensor: str
    kind: str  # "missing", "not_part", "differs", "not_finite", "norm", "examples"
    text: str


class FederationError(Exception):
    """Base of every error of this package. The message names the thing, the value and the way out.

    Attributes:
      exit_code: of a program that ends with the error.
      reasons: one for each tensor that is at fault, where tensors are; they travel with the error.
    """

    exit_code = 1

    def __init__(self, message: str = "", *, reasons: Sequence[Reason] = ()):
        super().__init__(message)
        self.reasons = tuple(reasons)


class ServerUnreachable(FederationError):
    """The server is away, restarting or too busy. The only remedy is to try again, which the site
    loop does by itself.
    """


class CertificateOutOfDate(ServerUnreachable):
    """A certificate of either end has ended, or not begun, by somebody's clock. Trying again helps
    once it is renewed.
    """


class TooManyCalls(FederationError):
    """A caller holds all the calls that one caller may hold. Trying again later is safe."""


class DamagedTransfer(FederationError):
    """Bytes were lost, repeated or changed on the way; nothing was kept. Sending again is safe."""


class StorageTrouble(FederationError):
    """The server could not write what it received (disk full, folder read-only); nothing was
    acknowledged.
    """


class CertificateRefused(FederationError):
    """One end does not trust the certificate of the other, or it names somebody else."""


class WrongCredential(FederationError):
    """Login with a credential that the server did not issue to that site."""


class SessionExpired(FederationError):
    """The token is unknown or past its lifetime. The site logs in again by itself."""


class PlanDiffers(FederationError):
    """The site would train something else than the server's plan; the message lists every
    difference.
    """


class FederationFull(FederationError):
    """As many sites as `max_num_clients` take part already."""


class VersionDiffers(FederationError):
    """The two ends speak different versions of the weight exchange."""


class StaleUpdate(FederationError):
    """An update for a round that is not open, or a model lent at another time than is due. The site
    asks for its next task.
    """


class UpdateRefused(FederationError):
    """An update that must not be averaged: a value that is not finite, no examples, or a change out
    of all proportion.
    """


class IncompatibleWeights(FederationError):
    """Arrays whose names, shapes or dtypes are not those of the federation's model: another
    genotype.
    """


class UnknownModel(FederationError):
    """A model that the server does not hold."""


class ModelRefused(FederationError):
    """A published model whose name is reserved, malformed or belongs to another site."""


class PrivacyRefused(FederationError):
    """A report holds something that may not leave a site; the message names the column or key,
    never its content.
    """


class UnknownSite(FederationError):
    """A site that has no part in what it asks for."""


class ServerMisbehaves(FederationError):
    """The server sent what no server of this product sends: a path for a name, or a size, number or
    receipt that cannot be.

    Nothing is done with it, and the call is not tried again: only people can find out what kind of
    server this is.
    """

    # EX_PROTOCOL of <sysexits.h>: a service that ends with it is not to be started again by itself
    exit_code = 76

    @classmethod
    def because(cls, what: str, *, reasons: Sequence[Reason] = ()) -> ServerMisbehaves:
        """Returns the error for what the server did, e.g. "sends a chunk twice"."""
        return cls(
            f"the server {what}; tell its operator, and join again once the cause is found",
            reasons=reasons,
        )


class OrderRefused(FederationError):
    """An order of the operator that cannot be carried out as things stand."""


class DifferentRun(FederationError):
    """A folder holds the state of another run than the one asked for."""


class PortInUse(FederationError):
    """Another program listens on the server's port."""


class StoreInUse(FederationError):
    """Another server process works on the same store folder."""


RETRYABLE = (ServerUnreachable, DamagedTransfer, StorageTrouble, TooManyCalls)


def by_name(name: str) -> type[FederationError] | None:
    """Returns the class that the other end raised, or None for a name this version does not know."""
    found = globals().get(name)
    return found if isinstance(found, type) and issubclass(found, FederationError) else None

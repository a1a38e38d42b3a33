"""The errors of a federation: one class per cause.

The name of the class is sent to the other end, so that both ends raise the same error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Reason(NamedTuple):
    """Why one tensor of a model was refused; `tensor` is empty if it was the model as a whole."""

    tensor: str
    kind: str  # "missing", "not_part", "not_shared", "differs", "not_finite", "norm", "examples"
    text: str


class FederationError(Exception):
    """Base of every error of this package. The message names the thing, the value and the remedy.

    Attributes:
      exit_code: exit code of a program that ends with this error.
      reasons: one per faulty tensor, if tensors are the cause; sent to the other end.
    """

    exit_code = 1

    def __init__(self, message: str = "", *, reasons: Sequence[Reason] = ()):
        super().__init__(message)
        self.reasons = tuple(reasons)


class ServerUnreachable(FederationError):
    """The server is down, restarting or too busy. The site loop keeps trying by itself."""


class CertificateOutOfDate(ServerUnreachable):
    """By one end's clock, a certificate has expired or is not valid yet.

    Trying again helps once the certificate is renewed.
    """


class TooManyCalls(FederationError):
    """One caller has as many calls open as it may. Trying again later is safe."""


class DamagedTransfer(FederationError):
    """Bytes were lost, repeated or changed in transit; none were kept. Sending again is safe."""


class StorageTrouble(FederationError):
    """The server could not write what it received, and acknowledged nothing.

    For example, its disk is full or its folder is read-only.
    """


class CertificateRefused(FederationError):
    """One end does not trust the other's certificate, or it bears another name."""


class WrongCredential(FederationError):
    """A login with a credential that was not issued to that site."""


class SessionExpired(FederationError):
    """The token is unknown or has expired. The site logs in again by itself."""


class PlanDiffers(FederationError):
    """The site's plan is not the server's; the message lists every difference."""


class FederationFull(FederationError):
    """`max_num_clients` sites already take part."""


class VersionDiffers(FederationError):
    """The two ends speak different versions of the weight exchange."""


class StaleUpdate(FederationError):
    """An update for a round that is not open, or a model that is not due now.

    The site asks for its next task.
    """


class UpdateRefused(FederationError):
    """An update that must not be averaged.

    It has a non-finite value, counts no examples, or changes the model far too much.
    """


class IncompatibleWeights(FederationError):
    """Arrays that are not the federation's model: other names, shapes or dtypes.

    The usual cause is another genotype.
    """


class UnknownModel(FederationError):
    """A model that the server does not have."""


class ModelRefused(FederationError):
    """A published model whose name is reserved, malformed or belongs to another site."""


class PrivacyRefused(FederationError):
    """A report contains something that may not leave a site.

    The message names the column or key and never repeats its content.
    """


class UnknownSite(FederationError):
    """The site does not take part in what it asks for."""


class ServerMisbehaves(FederationError):
    """The server sent something that a server of this product never sends.

    Examples: a path in place of a name; an impossible size, number or receipt. The site ignores it
    and does not repeat the call, because only people can find out what kind of server this is.
    """

    exit_code = 76  # EX_PROTOCOL of <sysexits.h>: a service manager should not restart the program

    @classmethod
    def because(cls, what: str, *, reasons: Sequence[Reason] = ()) -> ServerMisbehaves:
        """Returns the error for what the server did, e.g. "sends a chunk twice"."""
        return cls(
            f"the server {what}; tell its operator, and join again once the cause is found",
            reasons=reasons,
        )


class PolicyRefused(FederationError):
    """A site's own privacy policy forbids the next step, or cannot be satisfied.

    For example, its budget is spent. Nothing then leaves the site.
    """

    exit_code = 77  # EX_NOPERM of <sysexits.h>: only people can decide, so restarting is no use


class AnswersUsedUp(FederationError):
    """The server asks a site for more updates or scores in one run than the site gives.

    Only people can decide whether the run needs them, so the site does not try again by itself.
    """

    exit_code = 77  # EX_NOPERM of <sysexits.h>: starting again without a decision is no use


class OrderRefused(FederationError):
    """An operator's order that cannot be carried out now."""


class DifferentRun(FederationError):
    """A folder holds the state of a different run."""


class PortInUse(FederationError):
    """Another program is listening on the server's port."""


class ListenerLost(FederationError):
    """The server's port is open, but the server no longer gets the connections made to it."""


class StoreInUse(FederationError):
    """Another server process is using the same store folder."""


# Errors about this machine's own files, flags and ports. No server sends them; from a dishonest one
# they could make people remove a ledger or raise a limit.
NEVER_SENT = (
    PolicyRefused,
    AnswersUsedUp,
    DifferentRun,
    PortInUse,
    ListenerLost,
    StoreInUse,
)
RETRYABLE = (ServerUnreachable, DamagedTransfer, StorageTrouble, TooManyCalls)


def by_name(name: str) -> type[FederationError] | None:
    """Returns the class that the other end raised, or None if this release has no such class."""
    found = globals().get(name)
    return found if isinstance(found, type) and issubclass(found, FederationError) else None

"""How a service of this package answers with an error: one gRPC status, the error's class and its
reasons in the trailing metadata.
"""

from __future__ import annotations

import errno
import sqlite3
from typing import NoReturn

import grpc
from absl import logging

from federated import errors
from federated.wire import conversion
from runkit import printable
from runkit.line_budget import LineBudget

_STATUS = {
    errors.WrongCredential: grpc.StatusCode.UNAUTHENTICATED,
    errors.SessionExpired: grpc.StatusCode.UNAUTHENTICATED,
    errors.CertificateOutOfDate: grpc.StatusCode.PERMISSION_DENIED,
    errors.CertificateRefused: grpc.StatusCode.PERMISSION_DENIED,
    errors.UnknownSite: grpc.StatusCode.PERMISSION_DENIED,
    errors.PlanDiffers: grpc.StatusCode.FAILED_PRECONDITION,
    errors.VersionDiffers: grpc.StatusCode.FAILED_PRECONDITION,
    errors.StaleUpdate: grpc.StatusCode.FAILED_PRECONDITION,
    errors.OrderRefused: grpc.StatusCode.FAILED_PRECONDITION,
    errors.FederationFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.StorageTrouble: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.TooManyCalls: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.UpdateRefused: grpc.StatusCode.INVALID_ARGUMENT,
    errors.IncompatibleWeights: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ModelRefused: grpc.StatusCode.INVALID_ARGUMENT,
    errors.PrivacyRefused: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnknownModel: grpc.StatusCode.NOT_FOUND,
    errors.DamagedTransfer: grpc.StatusCode.DATA_LOSS,
}
_MAX_TEXT = (
    24 * 2**10
)  # of an error: percent-encoding may double it, and the other end takes 64 KiB of metadata


_MAX_LOGGED = 1500  # characters of it in the server's own log
_lines = LineBudget()


def turned_away(error: errors.FederationError) -> grpc.RpcMethodHandler:
    """Returns a handler that answers with `error` before it reads a message."""
    _log(error)
    # Stream in, stream out: gRPC reads no message before such a handler asks for one, whatever the
    # method is.
    return grpc.stream_stream_rpc_method_handler(lambda _, context: _abort(context, error))


class Answering:
    """A call's block: ends it with the errors of this package; anything else is logged here and
    told to the caller in general terms.
    """

    def __init__(self, context: grpc.ServicerContext):
        self._context = context

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        error = storage_trouble(error) or error
        if isinstance(error, errors.FederationError):
            _log(error)
            _abort(self._context, error)
        if (
            isinstance(error, Exception)
            and self._context.is_active()
            and not isinstance(error, grpc.RpcError)
        ):
            logging.exception("event=failed")
            self._context.abort(
                grpc.StatusCode.INTERNAL, "the server failed on this request; its log says why"
            )


def storage_trouble(error: BaseException | None) -> errors.StorageTrouble | None:
    """Returns what a caller is told where the system keeps the server from reading or writing its
    store; None for any other error.

    That passes, and the caller tries again. A database that is damaged does not pass.
    """
    if not isinstance(error, (OSError, sqlite3.OperationalError)):
        return None
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "is full" in str(error)
    why = "its disk is full" if full else getattr(error, "strerror", None) or str(error)
    return errors.StorageTrouble(
        f"the server cannot use its store ({why}); its operator must free space or mend the folder, and the site tries again by itself"
    )


def _log(error: errors.FederationError) -> None:
    """Logs a refusal; callers that keep being refused do not fill the log."""
    omitted = _lines.take(type(error).__name__)
    if omitted is not None:
        more = f" omitted={omitted}" if omitted else ""
        logging.info(
            "event=refused error=%s%s %s",
            type(error).__name__,
            more,
            printable.text(error, limit=_MAX_LOGGED),
        )


def _abort(context: grpc.ServicerContext, error: errors.FederationError) -> NoReturn:
    reasons = (
        ((conversion.REASONS_KEY, conversion.reasons_to_text(error.reasons)),)
        if error.reasons
        else ()
    )
    context.set_trailing_metadata(((conversion.ERROR_KEY, type(error).__name__), *reasons))
    text = str(error)
    context.abort(
        _STATUS.get(type(error), grpc.StatusCode.INTERNAL),
        text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…",
    )

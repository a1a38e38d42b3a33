"""Errors as replies: one gRPC status per class.

The class name and the reasons are sent in the trailing metadata.
"""

from __future__ import annotations

import contextlib
import errno
import sqlite3
import urllib.parse
from collections.abc import Iterator
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
# Limits on an error's text: in characters, and in bytes as gRPC sends it. The other end accepts
# 64 KiB of metadata, which include the reasons.
_MAX_TEXT, _MAX_SENT = 24 * 2**10, 40 * 2**10
# gRPC sends each of these as one byte, and three for every other byte.
_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
_MAX_LOGGED = 1500  # characters of an error's text in the server's own log
_lines = LineBudget()


def turned_away(error: errors.FederationError) -> grpc.RpcMethodHandler:
    """Returns a handler that answers with `error` before it reads a message."""
    _log(error)
    # Stream in, stream out: for such a handler gRPC does not read a message before it asks for one,
    # whatever the method is.
    return grpc.stream_stream_rpc_method_handler(lambda _, context: _abort(context, error))


@contextlib.contextmanager
def answering(context: grpc.ServicerContext) -> Iterator[None]:
    """Ends a call with the error that its block raises.

    Errors of this package are sent to the caller unchanged. Any other error is logged here, and the
    caller only learns that the server failed.
    """
    try:
        yield
    except grpc.RpcError:
        raise
    except Exception as error:
        told = storage_trouble(error) or error
        if isinstance(told, errors.FederationError):
            _log(told)
            _abort(context, told)
        if context.is_active():
            omitted = _lines.take(("failed", type(error).__name__))
            if omitted is not None:
                logging.exception("event=failed%s", f" omitted={omitted}" if omitted else "")
            context.abort(
                grpc.StatusCode.INTERNAL, "the server failed on this request; its log says why"
            )
        raise


def storage_trouble(error: BaseException) -> errors.StorageTrouble | None:
    """Returns the reply for a system error that keeps the server from using its store.

    None for any other error. Such trouble is temporary, and the caller tries again. A damaged
    database is not temporary.
    """
    if not isinstance(error, (OSError, sqlite3.OperationalError)):
        return None
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "is full" in str(error)
    why = "its disk is full" if full else getattr(error, "strerror", None) or str(error)
    return errors.StorageTrouble(
        f"the server cannot use its store ({why}); its operator must free space or repair the "
        "folder, and the site tries again by itself"
    )


def _log(error: errors.FederationError) -> None:
    """Logs a refusal within a budget.

    A caller that is refused repeatedly thus cannot fill the log.
    """
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
    context.abort(_STATUS.get(type(error), grpc.StatusCode.INTERNAL), _sent(str(error)))


def _sent(text: str) -> str:
    """Returns as much of a text as a caller accepts.

    JSON may hold half of a surrogate pair, which gRPC cannot encode; it becomes an escape.
    """
    plain = text[: _MAX_TEXT + 1].encode("utf-8", "backslashreplace").decode("utf-8")
    kept = plain[:_MAX_TEXT]
    while len(urllib.parse.quote(kept, safe=_PLAIN)) > _MAX_SENT:
        kept = kept[: len(kept) // 2]
    return plain if kept == plain else kept + "…"

"""What a caller learns about an error; `replies.error` reads it as a site does."""

import errno
import logging
import sqlite3

import grpc
import pytest

from federated import errors
from federated.connections import error_replies
from federated.wire import replies
from runkit.line_budget import LineBudget
from tests.federated.test_errors import KINDS


class Aborted(Exception):
    pass


class Context:
    """A call as gRPC passes it to a server, and its end as the caller sees it."""

    def __init__(self, active=True):
        self._active, self._metadata, self._ended = active, (), None

    def is_active(self):
        return self._active

    def set_trailing_metadata(self, metadata):
        self._metadata = metadata

    def abort(self, code, details):
        self._ended = code, details
        raise Aborted

    def trailing_metadata(self):
        return self._metadata

    def code(self):
        return self._ended[0]

    def details(self):
        return self._ended[1]


def ended(error, context=None):
    """Returns a call that ended with `error`."""
    context = context or Context()
    with pytest.raises(Aborted), error_replies.answering(context):
        raise error
    return context


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in errors.NEVER_SENT])
def test_every_error_arrives_as_it_was_raised(kind):
    reasons = [errors.Reason("stem/kernel", "differs", "server [3], site [4]")]
    call = ended(kind("update of site 'C1': no", reasons=reasons))
    told = replies.error(call)
    assert type(told) is kind and str(told) == "update of site 'C1': no"
    assert told.reasons == tuple(reasons)
    assert call.code() != grpc.StatusCode.UNAVAILABLE  # which stands for no answer at all


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.SessionExpired(), grpc.StatusCode.UNAUTHENTICATED),
        (errors.CertificateRefused(), grpc.StatusCode.PERMISSION_DENIED),
        (errors.PlanDiffers(), grpc.StatusCode.FAILED_PRECONDITION),
        (errors.TooManyCalls(), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.UnknownModel(), grpc.StatusCode.NOT_FOUND),
        (errors.DamagedTransfer(), grpc.StatusCode.DATA_LOSS),
    ],
)
def test_an_error_has_the_grpc_status_of_its_kind(error, code):
    assert ended(error).code() == code


def test_an_error_of_the_program_tells_the_caller_nothing_and_the_log_everything(caplog):
    call = ended(KeyError("/secret/path"))
    assert call.code() == grpc.StatusCode.INTERNAL and replies.error(call) is None
    assert call.details() == "the server failed on this request; its log says why"
    assert "/secret/path" in caplog.text


def test_an_error_after_the_caller_has_left_is_passed_on():
    with pytest.raises(KeyError), error_replies.answering(Context(active=False)):
        raise KeyError


def test_a_long_text_is_cut_to_what_metadata_takes():
    assert len(ended(errors.PlanDiffers("x" * 10**6)).details()) == 24 * 2**10 + 1  # and "…"


@pytest.mark.parametrize(
    "text", ["\N{GRINNING FACE}" * 24_000, "%" * 24_000, "\n" * 10**6, "é" * 99]
)
def test_a_text_of_any_characters_fits_into_metadata(text):
    told = ended(errors.PlanDiffers(text)).details()
    # As gRPC sends it: bytes other than printable ASCII, and "%", as three.
    sent = sum(1 if 0x20 <= b <= 0x7E and b != 0x25 else 3 for b in told.encode())
    assert sent <= 48 * 2**10 and told.rstrip("…") and text.startswith(told.rstrip("…"))


def test_a_text_that_is_not_unicode_arrives_escaped():
    told = ended(errors.PlanDiffers("a.\ud800: server nothing, site 1")).details()
    assert told == r"a.\ud800: server nothing, site 1" and told.encode()


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "its disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "its disk is full"),
        (sqlite3.OperationalError("database or disk is full"), "its disk is full"),
        (OSError(errno.EROFS, "Read-only file system", "/srv/store"), "Read-only file system"),
        (sqlite3.OperationalError("disk I/O error"), "disk I/O error"),
    ],
)
def test_trouble_with_the_store_is_told_without_a_path_and_passes(error, why):
    told = error_replies.storage_trouble(error)
    assert f"cannot use its store ({why})" in str(told) and "/srv" not in str(told)
    assert isinstance(told, errors.RETRYABLE)
    assert str(replies.error(ended(error))) == str(told)


@pytest.mark.parametrize(
    "error", [sqlite3.DatabaseError("malformed"), ValueError("full"), MemoryError()]
)
def test_other_errors_are_not_trouble_with_the_store(error):
    assert error_replies.storage_trouble(error) is None


def test_a_caller_that_is_turned_away_again_and_again_does_not_fill_the_log(caplog, monkeypatch):
    monkeypatch.setattr(error_replies, "_lines", LineBudget(burst=3, every_s=1e6))
    caplog.set_level(logging.INFO)
    for _ in range(50):
        handler = error_replies.turned_away(errors.WrongCredential("x" * 5000))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3 and max(map(len, lines)) < 1600
    call = Context()
    with pytest.raises(Aborted):
        handler.stream_stream(iter(()), call)
    assert type(replies.error(call)) is errors.WrongCredential

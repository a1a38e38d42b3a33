"""Reads and checks a server's replies, at a site or for the operator.

Every value must have the expected type, pattern, range and size, or the reply is refused. A site
trusts the server only to average, so it uses a reply only if a server of this product could have
sent it. Checks that depend on the state of the site are in `tasks.check_task`.
"""

from __future__ import annotations

import re
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints, is_typeddict

import grpc
from google.protobuf.message import DecodeError, Message

from federated import errors
from federated.rounds.sum_phases import MAX_EXCHANGES
from federated.rounds.tasks import MAX_ROUND, Task, check_model_name
from federated.tensors import codec
from federated.tensors.weights import TensorManifest, TensorSpec, check_same
from federated.wire import conversion
from federated.wire import operation_pb2 as operation_pb
from federated.wire import weight_exchange_pb2 as pb
from federated.wire.messages import (
    MAX_SUMMANDS,
    MAX_WAIT_S,
    MIN_WAIT_S,
    Answer,
    Receipt,
    Session,
    SumSettings,
    SumState,
)
from federated.wire.site_names import SITE_NAME
from federated.wire.status import AuditHead, RoundStatus, RunStatus, SiteStatus, SumStatus
from runkit import json_text, printable

SMALL = 64 * 2**10  # bytes of a reply without a model: 256 names of models take 17,000
LARGE = conversion.MAX_MESSAGE
ERROR_TEXT = 8_000  # characters of a server's error; one may list every difference of two plans
_MAX_TIME_S = 1e11  # since the epoch; Python cannot represent later dates
_TOKEN = re.compile(r"[!-~]{16,512}")
_RUN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_KIND = re.compile(r"[a-z_]{1,32}")
_MAX_NUMBER = 1e30  # of a status: the largest number in a site's report, which it passes on
_MAX_DEPTH = 100  # levels of a status or plan, which have less than ten
_MAX_PART = 4 * 2**10  # bytes of a key, certificate, signature or sealed share
_RELEASE = re.compile(r"[A-Za-z0-9.+!_-]{1,64}")

Reply = TypeVar("Reply", bound=Message)


def read(data: bytes, kind: type[Reply], *, limit: int = SMALL) -> Reply:
    """Returns the message in a reply of the server.

    Raises:
      ServerMisbehaves: if the reply is too large or not such a message.
    """
    if len(data) > limit:
        raise _refused(
            f"answers with {len(data)} bytes where a {kind.DESCRIPTOR.name} has at most {limit}"
        )
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise _refused(f"answers with what is not a {kind.DESCRIPTOR.name}") from error


def error(call: grpc.Call) -> errors.FederationError | None:
    """Returns the error that the server raised, with printable texts.

    Returns None if the call failed for another reason, and ServerMisbehaves for an error that only
    this end's own program can raise.
    """
    trailing = dict(call.trailing_metadata() or ())
    kind = errors.by_name(str(trailing.get(conversion.ERROR_KEY, "")))
    if kind is None:
        return None
    if issubclass(kind, errors.NEVER_SENT):
        return _refused(
            f"sends the error {kind.__name__}, which only a program on this machine can raise "
            f"({printable.text(call.details() or '')})"
        )
    reasons = [
        errors.Reason(*(printable.text(part) for part in reason))
        for reason in conversion.reasons_from_text(str(trailing.get(conversion.REASONS_KEY, "[]")))
    ]
    return kind(printable.text(call.details() or "", limit=ERROR_TEXT), reasons=reasons)


def session(message: pb.LoginReply) -> Session:
    """Returns the reply to a login, checked. Raises ServerMisbehaves naming the field at fault."""
    found = conversion.session_from_message(message)
    # A token is a secret, so the message does not show it.
    _check(
        "login reply",
        "token",
        "…",
        bool(_TOKEN.fullmatch(found.token)),
        "16 to 512 printable characters",
    )
    _check(
        "login reply",
        "run",
        found.run,
        bool(_RUN.fullmatch(found.run)),
        "letters, digits, '_' and '-', at most 64",
    )
    _check_range("login reply", "expires_at", found.expires_at, 0.0, _MAX_TIME_S)
    _check_digest("login reply", "plan_fingerprint", found.plan_fingerprint)
    _check_range("login reply", "num_rounds", found.num_rounds, 0, MAX_ROUND)
    _check_range("login reply", "local_epochs", found.local_epochs, 1, MAX_ROUND)
    _check_range("login reply", "poll_s", found.poll_s, MIN_WAIT_S, MAX_WAIT_S)
    _check_range("login reply", "heart_beat_s", found.heart_beat_s, MIN_WAIT_S, MAX_WAIT_S)
    _check(
        "login reply",
        "transport",
        found.transport,
        found.transport in codec.TRANSPORTS,
        " or ".join(codec.TRANSPORTS),
    )
    if found.sums is not None:
        _check_sums(found.sums)
    return found


def _check_sums(sums: SumSettings) -> None:
    """Checks each value; `secure_aggregation.ring.check_settings` checks their combination."""
    _check_range("login reply", "threshold", sums.threshold, 1, MAX_SUMMANDS)
    _check_range("login reply", "max_sites", sums.max_sites, 1, MAX_SUMMANDS)
    _check_range("login reply", "value_range", sums.value_range, 1e-300, 1e300)
    _check_range("login reply", "fraction_bits", sums.fraction_bits, 0, 64)


def sum_state(message: pb.SumReply) -> SumState:
    """Returns the server's state for a phase of secure aggregation.

    Names, sizes and numbers are checked here, and their meaning in
    `secure_aggregation.participant`.

    Raises:
      ServerMisbehaves.
    """
    try:
        found = conversion.sum_state_from_message(message)
    except errors.DamagedTransfer as error:
        raise _refused(f"sends a sum state in which a {printable.text(error)}") from error
    names = [
        *(keys.site for keys in found.keys),
        *found.shares,
        *found.survivors,
        *found.dropped,
        *found.consents,
    ]
    _check_range("sum state", "number of names", len(names), 0, 2 * MAX_SUMMANDS)
    for name in names:
        _check("sum state", "site", name, bool(SITE_NAME.fullmatch(name)), "the name of a site")
    parts = [
        *found.shares.values(),
        *found.consents.values(),
        *(part for keys in found.keys for part in vars(keys).values() if isinstance(part, bytes)),
    ]
    for part in parts:
        _check_range("sum state", "size", len(part), 1, _MAX_PART)
    return found


def task(message: pb.Task) -> Task:
    """Returns a task with well-formed names; `tasks.check_task` checks whether it fits this site.

    Raises:
      ServerMisbehaves.
    """
    found = conversion.task_from_message(message)
    _check("task", "kind", found.kind, bool(_KIND.fullmatch(found.kind)), "a word")
    _check_range("task", "round", found.round, 0, MAX_ROUND)
    _check_range("task", "exchange", found.exchange, 0, MAX_EXCHANGES)
    for name in (*([found.model] if found.model else []), *found.models):
        check_model_name(name)
    return found


def manifest(
    message: pb.ModelHeader, *, model: str, specs: Sequence[TensorSpec] | None
) -> TensorManifest:
    """Returns the manifest of a model that the server described.

    Args:
      model: the requested name.
      specs: the tensors of the site's own model, in canonical order; every model of a federation
          has the same. None accepts any, for tools.
    Raises:
      ServerMisbehaves: if another model is described, or something that is not a model.
    """
    if message.model != model:
        raise _refused(f"describes model {_shown(message.model)} where {model} was asked for")
    try:
        found = conversion.header_from_message(message).manifest
    except (errors.IncompatibleWeights, errors.DamagedTransfer) as error:
        raise _refused(
            f"describes model {model} as no model can be ({printable.text(error)})"
        ) from error
    if specs is not None:
        check_specs(found, model=model, specs=specs)
    return found


def check_specs(found: TensorManifest, *, model: str, specs: Sequence[TensorSpec]) -> None:
    """Raises ServerMisbehaves unless a model has the tensors of this site's own model.

    Called before any byte of it is allocated or written.
    """
    try:
        check_same(specs, found.specs, what=f"model {model!r} of the server")
    except errors.IncompatibleWeights as error:
        raise _refused(
            f"describes model {model} as this site's network is not "
            f"({printable.text(error, limit=2000)})",
            reasons=error.reasons,
        ) from error


def answer(message: pb.OfferReply, *, num_chunks: int, site: str, what: str, sha256: str) -> Answer:
    """Returns the server's answer to an offer: a receipt for this model, or the missing chunks.

    Raises:
      ServerMisbehaves.
    """
    try:
        found = conversion.answer_from_message(message, num_chunks=num_chunks)
    except errors.DamagedTransfer as error:
        raise _refused(
            f"asks for chunks that {what} does not have ({printable.text(error)})"
        ) from error
    if message.trained_from:
        _check_digest("reply to an offer", "trained_from", message.trained_from)
    return (
        Answer(check_receipt(found.receipt, site=site, what=what, sha256=sha256))
        if found.receipt is not None
        else found
    )


def check_receipt(receipt: Receipt, *, site: str, what: str, sha256: str) -> Receipt:
    """Returns `receipt`.

    Raises:
      ServerMisbehaves: unless the receipt is for the very model that this site sent.
    """
    if receipt != Receipt(site, what, sha256):
        raise _refused(
            f"gives a receipt for {_shown(receipt.what)} of site {_shown(receipt.site)} "
            f"({_shown(receipt.sha256[:12])}…); "
            f"site {site} sent {what} ({sha256[:12]}…)"
        )
    return receipt


def probe(message: operation_pb.ProbeReply) -> operation_pb.ProbeReply:
    """Returns the reply, checked. Raises ServerMisbehaves."""
    _check_range("probe", "time", message.time, 0.0, _MAX_TIME_S)
    _check_range("probe", "protocol", message.protocol, 0, 2**31 - 1)
    _check(
        "probe",
        "release",
        message.release,
        bool(_RELEASE.fullmatch(message.release)),
        "a version, at most 64 characters",
    )
    _check("probe", "standing", message.standing, bool(_KIND.fullmatch(message.standing)), "a word")
    _check_range("probe", "model_bytes", message.model_bytes, 0, 2**63 - 1)
    _check_range("probe", "log_lines", message.log_lines, 0, 2**63 - 1)
    _check_digest("probe", "log_head", message.log_head)
    _object("probe", message.plan_json)
    return message


def status(message: operation_pb.StatusReply) -> RunStatus:
    """Returns a status with printable texts and every field that `experiments.status` shows.

    Raises:
      ServerMisbehaves.
    """
    found = _clean(_object("status", message.status_json))
    _check_shape("status", found, _RUN_SHAPE)
    for name in found.keys() & {"models", "reported"}:  # an earlier release does not send them
        entries = {f"{name} {place}": entry for place, entry in enumerate(found[name])}
        _check_shape("status", entries, _Shape.of_values(entries, str))
    if found.get("sum") is not None:
        _check_shape("status of a sum", found["sum"], _SUM_SHAPE)
        for name in ("done", "awaited"):
            entries = {f"{name} {place}": entry for place, entry in enumerate(found["sum"][name])}
            _check_shape("status of a sum", entries, _Shape.of_values(entries, str))
    for name, site in found["sites"].items():
        _check_shape(f"status of site {name}", site, _SITE_SHAPE)
        labels, scores = site.get("labels", {}), site["scores"]
        _check_shape(f"labels of site {name}", labels, _Shape.of_values(labels, str))
        _check_shape(f"status of site {name}", scores, _Shape.of_values(scores, dict))
        for number, values in scores.items():
            _check("status", "model", number, number.isdecimal(), "the number of a global model")
            _check_shape(f"status of site {name}", values, _Shape.of_values(values, float | None))
    for entry in found["rounds"]:
        _check_shape("status of a round", entry, _ROUND_SHAPE)
    _check_shape("status of the log", found["audit"], _AUDIT_SHAPE)
    return cast(RunStatus, found)


def order(message: operation_pb.OrderReply) -> str:
    """Returns the answer to an order, as printable text."""
    return printable.text(message.answer, limit=2000)


class _Shape:
    """The types of an object's values.

    Args:
      hints: key -> annotation, whose outermost type only is checked.
      optional: keys that an earlier release does not send.
    """

    def __init__(self, hints: Mapping[str, object], optional: Collection[str] = ()):
        self.kinds = {key: _kinds(hint) for key, hint in hints.items()}
        self.optional = frozenset(optional)

    @classmethod
    def of_values(cls, keys: Iterable[str], hint: object) -> _Shape:
        return cls(dict.fromkeys(keys, hint))


def _kinds(hint: object) -> tuple[type, ...]:
    """Returns the types with which `isinstance` checks an annotation of `wire.status`."""
    kinds: list[type] = []
    for option in get_args(hint) if isinstance(hint, types.UnionType) else (hint,):
        kind = dict if is_typeddict(option) else get_origin(option) or option
        kinds += [int, float] if kind is float else [kind]
    return tuple(kinds)


_RUN_SHAPE = _Shape(get_type_hints(RunStatus), RunStatus.__optional_keys__)
_SITE_SHAPE = _Shape(get_type_hints(SiteStatus), SiteStatus.__optional_keys__)
_ROUND_SHAPE = _Shape(get_type_hints(RoundStatus))
_SUM_SHAPE = _Shape(get_type_hints(SumStatus))
_AUDIT_SHAPE = _Shape(get_type_hints(AuditHead))


def _object(what: str, text: str) -> dict[str, Any]:
    try:
        found = json_text.loads(text, parse_constant=_not_finite)
    except (ValueError, RecursionError) as error:
        raise _refused(f"sends a {what} that is not JSON") from error
    if not isinstance(found, dict):
        raise _refused(f"sends a {what} that is not a JSON object")
    _check_json(what, found)
    return found


def _check_json(what: str, found: object) -> None:
    """Raises ServerMisbehaves for nesting that a recursive reader may not survive, and infinity."""
    level: list[object] = [found]
    for _ in range(_MAX_DEPTH):
        if float("inf") in level or float("-inf") in level:
            raise _refused(f"sends a {what} with a number that is too large")
        level = [
            inner
            for value in level
            if isinstance(value, (dict, list))
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    raise _refused(f"sends a {what} that is nested more than {_MAX_DEPTH} levels deep")


def _not_finite(name: str) -> float:
    raise ValueError(name)


def _clean(value: Any) -> Any:
    """Returns a JSON value with all its texts, including keys, made printable."""
    if isinstance(value, dict):
        return {printable.text(key): _clean(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_clean(inner) for inner in value]
    if isinstance(value, (int, float)) and not abs(value) <= _MAX_NUMBER:  # nor is NaN
        raise _refused(f"sends a status with the number {_shown(value)}")
    return printable.text(value) if isinstance(value, str) else value


def _check_shape(what: str, found: object, shape: _Shape) -> None:
    if not isinstance(found, dict):
        raise _refused(f"sends a {what} that is not a JSON object")
    for key, kinds in shape.kinds.items():
        value = found.get(key)
        fits = isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds)
        if key not in found and key not in shape.optional:
            raise _refused(f"sends a {what} without its {key}")
        if key in found and not fits:
            raise _refused(f"sends a {what} whose {key} is {_shown(value)}")


def _check_digest(what: str, field: str, value: str) -> None:
    _check(what, field, value, bool(_DIGEST.fullmatch(value)), "64 hexadecimal digits")


def _check_range(what: str, field: str, value: float, lowest: float, highest: float) -> None:
    # NaN is not in any range.
    _check(what, field, value, lowest <= value <= highest, f"{lowest:g} to {highest:g}")


def _check(what: str, field: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise _refused(f"sends a {what} whose {field} is {_shown(value)}; expected {expected}")


def _shown(value: object) -> str:
    return printable.text(repr(value), limit=80)


_refused = errors.ServerMisbehaves.because

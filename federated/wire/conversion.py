"""Converts between this package's values and the messages of `weight_exchange.proto`.

Both ends use it.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from federated import errors
from federated.rounds.tasks import Kind, Task
from federated.tensors.codec import Chunk
from federated.tensors.weights import Declaration, TensorManifest, TensorSpec
from federated.wire import weight_exchange_pb2 as pb
from federated.wire.messages import (
    Answer,
    Offer,
    Receipt,
    Session,
    SumKeys,
    SumPlace,
    SumPost,
    SumSettings,
    SumState,
)

ERROR_KEY = "federation-error"  # trailing metadata: class name of the error
REASONS_KEY = "federation-reasons"  # trailing metadata: the reasons, one per faulty tensor
TOKEN_KEY = "authorization"
_TOKEN, _CREDENTIAL = "Bearer ", "Credential "
_MAX_REASONS, _MAX_REASONS_TEXT = 100, 16 * 2**10
MAX_MESSAGE = 4 * 2**20  # bytes: a chunk and its envelope, or the header of a model of many tensors
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    # Errors are sent in metadata, and one may list all differences between two plans.
    ("grpc.max_metadata_size", 64 * 2**10),
    ("grpc.absolute_max_metadata_size", 128 * 2**10),
    # Limits the data in flight in a stream beyond the message that is being read, and so a site's
    # share of the server's memory and what is lost when a connection breaks. The window opens for a
    # whole message as soon as the handler asks for it, so a link with a long delay is hardly
    # slower.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 2**18),
    # While a call is open, these detect within about a minute that a peer has vanished (power cut,
    # dead link).
    ("grpc.keepalive_time_ms", 40_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
)


Metadata = tuple[tuple[str, str], ...]
Presented = Iterable[tuple[str, str | bytes]] | None  # metadata as gRPC passes it to a server


def token_metadata(token: str) -> Metadata:
    """Returns the metadata for the calls of a site that is logged in."""
    return ((TOKEN_KEY, _TOKEN + token),)


def credential_metadata(name: str, credential: str) -> Metadata:
    """Returns the metadata for a login or for a call of the operator."""
    return ((TOKEN_KEY, f"{_CREDENTIAL}{name}:{credential}"),)


def presented_credential(metadata: Presented) -> tuple[str, str]:
    """Returns the (name, credential) in a call's metadata, or empty strings."""
    name, _, credential = presented_token(metadata, _CREDENTIAL).rpartition(":")
    return name[:64], credential


def presented_token(metadata: Presented, prefix: str = _TOKEN) -> str:
    """Returns the token in a call's metadata, which follows `prefix` there, or ""."""
    for key, value in metadata or ():
        if key == TOKEN_KEY and isinstance(value, str) and value.startswith(prefix):
            return value[len(prefix) :]
    return ""


def task_to_message(task: Task) -> pb.Task:
    return pb.Task(
        kind=task.kind,
        round=task.round,
        model=task.model,
        models=task.models,
        discarded=task.discarded,
        exchange=task.exchange,
    )


def task_from_message(message: pb.Task) -> Task:
    return Task(
        cast(Kind, message.kind),  # any word at all; `tasks.check_task` refuses unknown ones
        message.round,
        message.model,
        tuple(message.models),
        message.discarded,
        message.exchange,
    )


def session_to_message(session: Session) -> pb.LoginReply:
    sums = session.sums
    return pb.LoginReply(
        **{field: getattr(session, field) for field in _PLAIN_OF_SESSION},
        sums=None if sums is None else pb.SumRules(**vars(sums)),
    )


def session_from_message(message: pb.LoginReply) -> Session:
    rules = message.sums
    return Session(
        **{field: getattr(message, field) for field in _PLAIN_OF_SESSION},
        sums=SumSettings(rules.threshold, rules.max_sites, rules.value_range, rules.fraction_bits)
        if message.HasField("sums")
        else None,
    )


_PLAIN_OF_SESSION = Session.__dataclass_fields__.keys() - {"sums"}


def sum_question_to_message(phase: str, place: SumPlace) -> pb.SumQuestion:
    return pb.SumQuestion(name=_name_of(place), phase=phase)


def sum_question_from_message(message: pb.SumQuestion) -> tuple[str, SumPlace]:
    return message.phase, _place_of(message.name)


def sum_state_to_message(state: SumState) -> pb.SumReply:
    return pb.SumReply(
        keys=map(_key_of, state.keys),
        shares=_shares_of(state.shares),
        survivors=state.survivors,
        dropped=state.dropped,
        consents=_shares_of(state.consents),
    )


def sum_state_from_message(message: pb.SumReply) -> SumState:
    """Raises DamagedTransfer if a site comes twice."""
    return SumState(
        tuple(map(_keys_of, message.keys)),
        _by_site(message.shares),
        tuple(message.survivors),
        tuple(message.dropped),
        _by_site(message.consents),
    )


def sum_post_to_message(post: SumPost) -> pb.SumPart:
    return pb.SumPart(
        name=_name_of(post.place),
        phase=post.phase,
        keys=None if post.keys is None else _key_of(post.keys),
        commitment=post.commitment,
        shares=_shares_of(post.shares),
        consent=post.consent,
        self_masks=_shares_of(post.self_masks),
        mask_keys=_shares_of(post.mask_keys),
    )


def sum_post_from_message(message: pb.SumPart) -> SumPost:
    """Raises DamagedTransfer if a site comes twice."""
    return SumPost(
        message.phase,
        _place_of(message.name),
        _keys_of(message.keys) if message.HasField("keys") else None,
        message.commitment,
        _by_site(message.shares),
        message.consent,
        _by_site(message.self_masks),
        _by_site(message.mask_keys),
    )


def _name_of(place: SumPlace) -> pb.SumName:
    return pb.SumName(discarded=place.discarded, round=place.round, exchange=place.exchange)


def _place_of(message: pb.SumName) -> SumPlace:
    return SumPlace(message.discarded, message.round, message.exchange)


def _key_of(keys: SumKeys) -> pb.SumKey:
    return pb.SumKey(**vars(keys))


def _keys_of(message: pb.SumKey) -> SumKeys:
    return SumKeys(
        message.site,
        message.sealing_key,
        message.masking_key,
        message.certificate,
        message.signature,
    )


def _shares_of(shares: Mapping[str, bytes]) -> list[pb.SumShare]:
    return [pb.SumShare(site=site, data=data) for site, data in sorted(shares.items())]


def _by_site(messages: Iterable[pb.SumShare]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for message in messages:
        if message.site in found:
            raise errors.DamagedTransfer(
                f"site {message.site[:80]!r} comes twice in a message of secure aggregation"
            )
        found[message.site] = message.data
    return found


def receipt_to_message(receipt: Receipt) -> pb.Receipt:
    return pb.Receipt(site=receipt.site, what=receipt.what, sha256=receipt.sha256)


def receipt_from_message(message: pb.Receipt) -> Receipt:
    return Receipt(message.site, message.what, message.sha256)


def header_to_message(offer: Offer) -> pb.ModelHeader:
    return pb.ModelHeader(
        model=offer.model,
        round=offer.round,
        num_examples=offer.num_examples,
        metrics=dict(offer.metrics),
        sha256=offer.sha256,
        tensors=[
            pb.TensorSpec(name=s.name, dtype=s.dtype, shape=s.shape) for s in offer.manifest.specs
        ],
        addresses=offer.manifest.addresses,
        discarded=offer.discarded,
    )


def header_from_message(message: pb.ModelHeader, known: Declaration | None = None) -> Offer:
    """Returns a header as a checked value.

    Args:
      known: the expected model; if a header declares the same tensors, the result contains this
        very value, and they are not checked again.
    Raises:
      IncompatibleWeights, DamagedTransfer: if the header does not describe a model.
    """
    specs = tuple([TensorSpec(t.name, t.dtype, tuple(t.shape)) for t in message.tensors])
    manifest = TensorManifest(
        known if known is not None and specs == known else Declaration(specs), message.addresses
    )
    if manifest.sha256 != message.sha256:
        raise errors.DamagedTransfer(
            f"SHA-256 of the model is {manifest.sha256[:12]}…, {message.sha256[:12]}… was "
            "declared; send the model again"
        )
    discarded = message.discarded if message.HasField("discarded") else None
    return Offer(
        manifest,
        message.round,
        message.num_examples,
        message.model,
        dict(message.metrics),
        discarded,
    )


def ranges_to_messages(indices: Iterable[int]) -> list[pb.Range]:
    """Returns sorted numbers as ranges of consecutive ones."""
    ranges: list[pb.Range] = []
    for index in indices:
        if ranges and index == ranges[-1].first + ranges[-1].count:
            ranges[-1].count += 1
        else:
            ranges.append(pb.Range(first=index, count=1))
    return ranges


def indices_from_messages(messages: Iterable[pb.Range], *, num_chunks: int) -> list[int]:
    """Returns the numbers of the chunks in the ranges.

    Raises:
      DamagedTransfer: if ranges overlap, run backwards or extend beyond the model.
    """
    indices: list[int] = []
    for message in messages:
        first = message.first
        if (
            not message.count
            or first + message.count > num_chunks
            or (indices and first <= indices[-1])
        ):
            raise errors.DamagedTransfer(
                f"chunks {first} to {first + message.count - 1} asked for, "
                f"the model has {num_chunks}, in order"
            )
        indices.extend(range(first, first + message.count))
    return indices


def answer_to_message(answer: Answer) -> pb.OfferReply:
    if answer.receipt is not None:
        return pb.OfferReply(receipt=receipt_to_message(answer.receipt))
    return pb.OfferReply(
        missing=ranges_to_messages(answer.missing), trained_from=answer.trained_from
    )


def answer_from_message(message: pb.OfferReply, *, num_chunks: int) -> Answer:
    if message.HasField("receipt"):
        return Answer(receipt_from_message(message.receipt))
    missing = tuple(indices_from_messages(message.missing, num_chunks=num_chunks))
    return Answer(missing=missing, trained_from=message.trained_from)


Part = pb.ModelHeader | Chunk  # a transfer is its header, then chunks


def model_from_parts(
    parts: Iterable[Part], known: Declaration | None = None
) -> tuple[Offer, Iterator[Chunk]]:
    """Returns (the header as a checked value, the chunks as they arrive).

    Raises:
      IncompatibleWeights, DamagedTransfer: as in `header_from_message`, and if the header is not
        the first part.
    """
    stream = iter(parts)
    first = next(stream, None)
    if not isinstance(first, pb.ModelHeader):
        raise errors.DamagedTransfer(
            "a transfer begins with the header of its model; send the model again"
        )
    return header_from_message(first, known), _chunks(stream)


def _chunks(parts: Iterable[Part]) -> Iterator[Chunk]:
    for part in parts:
        if not isinstance(part, Chunk):
            raise errors.DamagedTransfer(
                "a second header came in the middle of a transfer; send the model again"
            )
        yield part


def reasons_to_text(reasons: Sequence[errors.Reason]) -> str:
    """Returns the first reasons as JSON in ASCII, short enough for gRPC metadata."""
    kept = [list(reason) for reason in reasons[:_MAX_REASONS]]
    while len(text := json.dumps(kept)) > _MAX_REASONS_TEXT:
        kept = kept[: len(kept) // 2]
    return text


def reasons_from_text(text: str) -> tuple[errors.Reason, ...]:
    try:
        return tuple(errors.Reason(*map(str, reason)) for reason in json.loads(text)[:_MAX_REASONS])
    except (TypeError, ValueError, KeyError, RecursionError):
        return ()


def row_to_message(row: Mapping[str, Any]) -> pb.Row:
    message = pb.Row(
        model=row["model"],
        site=row["site"],
        case=row["case"],
        grid=row["grid"],
        class_name=row.get("class", ""),
    )
    for column, value in row.items():
        if column in ("model", "site", "case", "grid", "class"):
            continue
        if value is None:
            message.absent.append(column)
        else:
            message.numbers[column] = value
    return message


def row_from_message(message: pb.Row) -> dict[str, Any]:
    """Raises PrivacyRefused if a column comes twice."""
    row: dict[str, Any] = {
        "model": message.model,
        "site": message.site,
        "case": message.case,
        "grid": message.grid,
    }
    if message.class_name:
        row["class"] = message.class_name
    # A protobuf map has no order; with sorted keys, the same row is always written the same way.
    columns: dict[str, float | None] = dict(message.numbers)
    columns.update(dict.fromkeys(message.absent))
    if len(columns) != len(message.numbers) + len(message.absent):
        raise errors.PrivacyRefused(
            "a row has a column twice, with a number or marked as empty; "
            "install the same release at both ends"
        )
    row.update(sorted(columns.items(), key=operator.itemgetter(0)))
    return row

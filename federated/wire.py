"""Between the values of this package and the messages of `weight_exchange.proto`; both ends use it, neither decides anything here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from federated import errors
from federated import weight_exchange_pb2 as pb
from federated.agenda import Task
from federated.codec import Chunk
from federated.exchange import Offer, Receipt, Session
from federated.weights import TensorSpec

ERROR_KEY = "federation-error"  # trailing metadata: class name of the error
TOKEN_KEY = "authorization"
TOKEN_PREFIX = "Bearer "
MAX_MESSAGE = 4 * 2**20  # bytes: a chunk and its envelope, or the header of a model of many tensors
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_metadata_size", 64 * 2**10),  # errors travel in it, and one may list every difference of two plans
    ("grpc.absolute_max_metadata_size", 128 * 2**10),
    # A peer that vanished without a word (power cut, dead link) is noticed within about a minute while a call is open.
    ("grpc.keepalive_time_ms", 40_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
)


def task_to_message(task: Task) -> pb.Task:
    return pb.Task(kind=task.kind, round=task.round, model=task.model, models=task.models)


def task_from_message(message: pb.Task) -> Task:
    return Task(message.kind, message.round, message.model, tuple(message.models))


def session_to_message(session: Session) -> pb.LoginReply:
    return pb.LoginReply(**{field: getattr(session, field) for field in Session.__dataclass_fields__})


def session_from_message(message: pb.LoginReply) -> Session:
    return Session(**{field: getattr(message, field) for field in Session.__dataclass_fields__})


def receipt_to_message(receipt: Receipt) -> pb.Receipt:
    return pb.Receipt(site=receipt.site, what=receipt.what, sha256=receipt.sha256)


def receipt_from_message(message: pb.Receipt) -> Receipt:
    return Receipt(message.site, message.what, message.sha256)


def model_to_messages(offer: Offer, chunks: Iterable[Chunk]) -> Iterator[pb.ModelPart]:
    yield pb.ModelPart(
        header=pb.ModelHeader(
            model=offer.model,
            round=offer.round,
            num_examples=offer.num_examples,
            metrics=dict(offer.metrics),
            sha256=offer.sha256,
            tensors=[pb.TensorSpec(name=s.name, dtype=s.dtype, shape=s.shape) for s in offer.specs],
        )
    )
    for chunk in chunks:
        yield pb.ModelPart(chunk=pb.Chunk(tensor=chunk.tensor, offset=chunk.offset, data=chunk.data, crc32=chunk.crc32))


def model_from_messages(messages: Iterable[pb.ModelPart]) -> tuple[Offer, Iterator[Chunk]]:
    """Returns (what is announced, the chunks as they arrive). Raises DamagedTransfer where the header is not the first message."""
    stream = iter(messages)
    first = next(stream, None)
    if first is None or first.WhichOneof("part") != "header":
        raise errors.DamagedTransfer("a transfer begins with the header of its model; send the model again")
    header = first.header
    offer = Offer(
        specs=tuple(TensorSpec(t.name, t.dtype, tuple(t.shape)) for t in header.tensors),
        sha256=header.sha256,
        round=header.round,
        num_examples=header.num_examples,
        model=header.model,
        metrics=dict(header.metrics),
    )
    return offer, _chunks(stream)


def _chunks(messages: Iterable[pb.ModelPart]) -> Iterator[Chunk]:
    for message in messages:
        if message.WhichOneof("part") != "chunk":
            raise errors.DamagedTransfer("a second header came in the middle of a transfer; send the model again")
        chunk = message.chunk
        yield Chunk(chunk.tensor, chunk.offset, chunk.data, chunk.crc32)


def row_to_message(row: Mapping[str, Any]) -> pb.Row:
    message = pb.Row(model=row["model"], site=row["site"], case=row["case"], grid=row["grid"], class_name=row.get("class", ""))
    for column, value in row.items():
        if column in ("model", "site", "case", "grid", "class"):
            continue
        if value is None:
            message.absent.append(column)
        else:
            message.numbers[column] = value
    return message


def row_from_message(message: pb.Row) -> dict[str, Any]:
    row: dict[str, Any] = {"model": message.model, "site": message.site, "case": message.case, "grid": message.grid}
    if message.class_name:
        row["class"] = message.class_name
    # A protobuf map has no order: sorted, a row is written alike every time.
    row.update(sorted([*message.numbers.items(), *((column, None) for column in message.absent)]))
    return row

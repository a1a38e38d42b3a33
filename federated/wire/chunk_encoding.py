"""The protobuf encoding of `Chunk` and `ModelPart`, with one copy of the data instead of four.

Bytes that are not exactly as this module writes them are parsed by protobuf itself, so that any
implementation of `weight_exchange.proto` is understood. Both parsers return the same for the same
bytes.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from federated import errors
from federated.tensors.codec import Chunk
from federated.wire import conversion
from federated.wire import weight_exchange_pb2 as pb

_INDEX, _DATA, _ENCODING = 0x08, 0x12, 0x18  # field number and wire type of Chunk's fields
_PART_CHUNK = 0x12  # the same for the chunk in a ModelPart


def chunk_to_bytes(chunk: Chunk) -> bytes:
    return b"".join(_pieces(chunk))


def part_to_bytes(part: conversion.Part) -> bytes:
    if isinstance(part, pb.ModelHeader):
        return pb.ModelPart(header=part).SerializeToString()
    pieces = _pieces(part)
    return b"".join((bytes((_PART_CHUNK,)), _varint(sum(map(len, pieces))), *pieces))


def chunk_from_bytes(data: bytes) -> Chunk:
    """Parses a chunk. Raises DamagedTransfer if the bytes are not one."""
    chunk = _read(data, 0)
    if chunk is None:
        try:
            message = pb.Chunk.FromString(data)
        except DecodeError as error:
            raise errors.DamagedTransfer(
                "a message is not a chunk; send the model again"
            ) from error
        chunk = Chunk(message.index, message.data, message.encoding)
    return chunk


def part_from_bytes(data: bytes) -> conversion.Part:
    """Parses a chunk or a header. Raises DamagedTransfer if the bytes are neither."""
    if data[:1] == bytes((_PART_CHUNK,)):
        size, start = _read_varint(data, 1)
        chunk = _read(data, start) if start + size == len(data) else None
        if chunk is not None:
            return chunk
    try:
        message = pb.ModelPart.FromString(data)
    except DecodeError as error:
        raise errors.DamagedTransfer(
            "a message is not a part of a model; send the model again"
        ) from error
    if message.WhichOneof("part") == "header":
        return message.header
    return Chunk(message.chunk.index, message.chunk.data, message.chunk.encoding)


def _pieces(chunk: Chunk) -> list[bytes | memoryview]:
    pieces: list[bytes | memoryview] = []
    if chunk.index:
        pieces.append(bytes((_INDEX,)) + _varint(chunk.index))
    pieces += [bytes((_DATA,)) + _varint(len(chunk.data)), chunk.data]
    if chunk.encoding:
        pieces.append(bytes((_ENCODING,)) + _varint(chunk.encoding))
    return pieces


def _read(data: bytes, at: int) -> Chunk | None:
    """Returns the chunk that `_pieces` wrote from byte `at` to the end, with its data as a view.

    Returns None for anything else.
    """
    index = encoding = 0
    if data[at : at + 1] == bytes((_INDEX,)):
        index, at = _read_varint(data, at + 1)
    if data[at : at + 1] != bytes((_DATA,)):
        return None
    size, at = _read_varint(data, at + 1)
    view = memoryview(data)[at : at + size]
    at += size
    if data[at : at + 1] == bytes((_ENCODING,)):
        encoding, at = _read_varint(data, at + 1)
    whole = at == len(data) and len(view) == size and index < 2**32 > encoding
    return Chunk(index, view, encoding) if whole else None


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Returns (value, its end); a value that is truncated or too long ends beyond the data."""
    value = shift = 0
    for position in range(at, min(at + 5, len(data))):
        value |= (data[position] & 0x7F) << shift
        if data[position] < 0x80:
            return value, position + 1
        shift += 7
    return 0, len(data) + 1

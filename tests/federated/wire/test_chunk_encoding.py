import random

import pytest
from google.protobuf.message import DecodeError

from federated import errors
from federated.tensors.codec import Chunk
from federated.wire import chunk_encoding, conversion
from federated.wire import weight_exchange_pb2 as pb
from tests.federated.wire.test_conversion import OFFER

HEADER = conversion.header_to_message(OFFER)
CHUNKS = [
    Chunk(0, b""),
    Chunk(0, b"x", 2),
    Chunk(1, bytes(200)),
    Chunk(127, b"1" * 128, 1),
    Chunk(2**32 - 1, bytes(70_000), 300),
]


def message_of(chunk):
    return pb.Chunk(index=chunk.index, data=bytes(chunk.data), encoding=chunk.encoding)


@pytest.mark.parametrize("chunk", CHUNKS, ids=range(len(CHUNKS)))
def test_bytes_are_those_of_protobuf_and_are_read_back(chunk):
    message = message_of(chunk)
    assert pb.Chunk.FromString(chunk_encoding.chunk_to_bytes(chunk)) == message
    assert pb.ModelPart.FromString(chunk_encoding.part_to_bytes(chunk)) == pb.ModelPart(
        chunk=message
    )
    assert chunk_encoding.chunk_from_bytes(message.SerializeToString()) == chunk
    assert chunk_encoding.part_from_bytes(pb.ModelPart(chunk=message).SerializeToString()) == chunk


def test_a_header_and_its_chunks_arrive_as_they_were_sent():
    sent = [HEADER, *CHUNKS]
    offer, chunks = conversion.model_from_parts(
        chunk_encoding.part_from_bytes(chunk_encoding.part_to_bytes(part)) for part in sent
    )
    assert offer == OFFER and list(chunks) == CHUNKS


@pytest.mark.parametrize("parts", [[], CHUNKS], ids=["none", "no header"])
def test_a_transfer_without_header_is_damaged(parts):
    with pytest.raises(errors.DamagedTransfer, match="begins with the header"):
        conversion.model_from_parts(parts)


def test_a_second_header_is_damage():
    _, chunks = conversion.model_from_parts([HEADER, CHUNKS[0], HEADER])
    with pytest.raises(errors.DamagedTransfer, match="second header"):
        list(chunks)


def mutated(rng, data):
    """Returns almost valid bytes: some cut, repeated, changed, or reordered."""
    data = bytearray(data[:300])
    for _ in range(rng.randint(0, 4)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(4)
        if kind == 0 and data:
            data[at % len(data)] = rng.choice([0, 1, 8, 18, 24, 127, 128, 255, rng.randrange(256)])
        elif kind == 1:
            del data[at : at + rng.randint(1, 5)]
        elif kind == 2:
            data[at:at] = rng.randbytes(rng.randint(1, 5))
        else:
            data += data[at : at + 20]
    return bytes(data)


def agree(data):
    """Reads bytes both ways; returns whether they could be read."""
    try:
        expected = pb.ModelPart.FromString(data)
    except DecodeError:
        expected = None
    try:
        part = chunk_encoding.part_from_bytes(data)
    except errors.DamagedTransfer:
        assert expected is None
        return False
    if isinstance(part, pb.ModelHeader):
        assert expected.WhichOneof("part") == "header" and part == expected.header
    else:
        assert message_of(part) == pb.Chunk(
            index=expected.chunk.index, data=expected.chunk.data, encoding=expected.chunk.encoding
        )
    return True


def test_random_bytes_are_read_as_protobuf_reads_them_or_refused():
    rng, seeds = (
        random.Random(8),
        [chunk_encoding.part_to_bytes(part) for part in (HEADER, *CHUNKS)],
    )
    assert 500 < sum(agree(mutated(rng, rng.choice(seeds))) for _ in range(5000)) < 4900
    for _ in range(2000):
        agree(rng.randbytes(rng.randrange(40)))

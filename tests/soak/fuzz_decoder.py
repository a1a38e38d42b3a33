"""Gives a million random inputs to all decoders of data from the network.

    .venv/py3.11/bin/python -m tests.soak.fuzz_decoder --inputs=1000000

None may crash or take more memory than the input declares. Inputs are random bytes, and valid
messages with bytes changed, cut, repeated and inserted. Each must be read, or refused with an error
of this package. tracemalloc measures the peak memory beyond the input for only one in a hundred
inputs, because it slows everything down.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import tracemalloc

from google.protobuf.message import DecodeError

from federated import errors
from federated.tensors import codec
from federated.tensors.codec import Chunk
from federated.tensors.weights import CHUNK_BYTES
from federated.wire import chunk_encoding, conversion, operation_pb2, replies
from federated.wire import weight_exchange_pb2 as pb
from federated.wire.messages import Answer
from tests.federated.wire.test_chunk_encoding import CHUNKS, HEADER, mutated
from tests.federated.wire.test_conversion import OFFER
from tests.soak import cost

_SECONDS = 3e-5  # per input
BUDGET = 2 * CHUNK_BYTES  # beyond the input: an inflated chunk and its byte planes


def read_part(data: bytes) -> None:
    part = chunk_encoding.part_from_bytes(data)
    if isinstance(part, Chunk):
        for size in (0, 4, len(part.data), 2 * len(part.data), CHUNK_BYTES):
            try:
                assert len(codec.decoded(part, size)) == size
            except errors.DamagedTransfer:
                continue
    else:
        conversion.model_from_parts([part])


def read_message(data: bytes) -> None:
    for kind, read in (
        (pb.ModelHeader, conversion.header_from_message),
        (pb.OfferReply, lambda message: conversion.answer_from_message(message, num_chunks=100)),
        (
            pb.PullRequest,
            lambda message: conversion.indices_from_messages(message.chunks, num_chunks=100),
        ),
        (pb.Row, conversion.row_from_message),
        (pb.LoginReply, replies.session),
        (pb.Task, replies.task),
        (
            pb.ModelHeader,
            lambda message: replies.manifest(message, model="m", specs=OFFER.manifest.specs),
        ),
        (
            pb.OfferReply,
            lambda message: replies.answer(
                message, num_chunks=100, site="C1", what="m", sha256="0" * 64
            ),
        ),
        (operation_pb2.ProbeReply, replies.probe),
        (operation_pb2.StatusReply, replies.status),
    ):
        try:
            read(kind.FromString(data))
        except (DecodeError, errors.FederationError):
            continue


def fuzz(inputs: int, *, seed: int = 1) -> float:
    """Returns the largest memory that one of the sampled inputs took, in bytes.

    Raises:
      Exception: any error that a decoder must not raise.
    """
    rng, most = random.Random(seed), 0
    seeds = [chunk_encoding.part_to_bytes(part) for part in (HEADER, *CHUNKS)]
    seeds += [
        HEADER.SerializeToString(),
        conversion.answer_to_message(Answer(missing=(1, 2, 9))).SerializeToString(),
    ]
    for number in range(inputs):
        data = (
            rng.randbytes(rng.randrange(60)) if number % 4 == 0 else mutated(rng, rng.choice(seeds))
        )
        sampled = number % 100 == 0
        if sampled:
            tracemalloc.start()
        with contextlib.suppress(errors.FederationError):
            read_part(data)
        read_message(data)
        if sampled:
            most = max(most, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert most <= BUDGET, f"an input of at most 350 bytes took {most} bytes"
    return most


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=1_000_000)
    flags = parser.parse_args()
    cost.tell(f"{flags.inputs} inputs", _SECONDS * flags.inputs)
    print(f"{flags.inputs} inputs read or refused; at most {fuzz(flags.inputs)} bytes for one")


if __name__ == "__main__":
    main()

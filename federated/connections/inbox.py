"""The messages of one incoming stream, counted, measured and decoded on demand."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from federated.errors import VersionDiffers


class Inbox:
    """Keeps arrived messages until they are requested, even if the call is cut meanwhile.

    If a call is cut before the handler asks for a message that has fully arrived, gRPC drops that
    message; in a transfer, that would be one more chunk to send again. gRPC reads one message ahead
    of the handler, so the inbox holds at most one.

    Args:
      read: decodes a message; may raise DecodeError.
      max_bytes: size limit for a message; a larger one is refused before it is decoded.
    """

    def __init__(self, read: Callable[[bytes], Any], max_bytes: int):
        self._read, self._max_bytes = read, max_bytes
        self._waiting = collections.deque[bytes]()

    def arrived(self, data: bytes) -> bytes:
        """Keeps a message; the stream's deserializer, which gRPC calls before it ends the call."""
        self._waiting.append(data)
        return data

    def messages(
        self, stream: Iterable[bytes], on_message: Callable[[], None] = lambda: None
    ) -> Iterator[Any]:
        """Yields every message of `stream`, decoded.

        Args:
          on_message: called for every message before it is decoded.
        Raises:
          VersionDiffers: for a message that is too large or cannot be decoded: sent again, it would
            be no different.
          grpc.RpcError: if the call was cut, after everything that had arrived.
        """
        cut = None
        try:
            for _ in stream:
                on_message()
                yield self._next()
        except grpc.RpcError as error:
            cut = error
        while self._waiting:
            on_message()
            yield self._next()
        if cut is not None:
            raise cut

    def _next(self) -> Any:
        data = self._waiting.popleft()
        if len(data) > self._max_bytes:
            raise VersionDiffers(
                f"received a message of {len(data)} bytes; at most {self._max_bytes} are accepted; "
                "install the same release at both ends"
            )
        try:
            return self._read(data)
        except DecodeError as error:
            raise VersionDiffers(
                "a message cannot be read; install the same release at both ends"
            ) from error

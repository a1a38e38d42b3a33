"""The messages of one incoming stream, the last one included."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator

import grpc


class Inbox:
    """Keeps what has arrived until it is asked for, whatever becomes of the call.

    gRPC forgets a message that arrived whole when the call is cut before the handler has asked for
    it: of a transfer that is cut that would be a chunk more to send again. It reads one message
    ahead of the handler, so this holds one at most.
    """

    def __init__(self) -> None:
        self._messages = collections.deque[bytes]()

    def arrived(self, data: bytes) -> bytes:
        """The stream's deserializer: called with every message before the call's end can be seen."""
        self._messages.append(data)
        return data

    def messages(self, stream: Iterable[bytes]) -> Iterator[bytes]:
        """Yields every message of `stream`; of one that was cut first what arrived, then raises
        gRPC's error.
        """
        cut = None
        try:
            for _ in stream:
                yield self._messages.popleft()
        except grpc.RpcError as error:
            cut = error
        while self._messages:
            yield self._messages.popleft()
        if cut is not None:
            raise cut

"""A TCP proxy that counts bytes, cuts connections and limits their rate; and an HTTP proxy."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator


class Link:
    """A link between a site and a server.

    Attributes:
      up, down: bytes that have passed towards the server and back.
      cut_up, cut_down: counts at which all connections are cut; each is used once.
      rate: bytes per second each way, 0 for no limit.
    """

    def __init__(self, port: int):
        self._target = ("127.0.0.1", port)
        self.up = self.down = 0
        self.cut_up: list[int] = []
        self.cut_down: list[int] = []
        self.rate = 0
        self.cuts = 0
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = self._reached(near)
            if far is None:
                near.close()
                continue
            with self._lock:
                self._sockets |= {near, far}
            for source, sink, count in (
                (near, far, self._passed_up),
                (far, near, self._passed_down),
            ):
                threading.Thread(
                    target=self._carry, args=(source, sink, count), daemon=True
                ).start()

    def _reached(self, near: socket.socket) -> socket.socket | None:
        try:
            return socket.create_connection(self._target)
        except OSError:
            return None

    def _carry(
        self, source: socket.socket, sink: socket.socket, passed: Callable[[int], bool]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                if self.rate:
                    time.sleep(len(data) / self.rate)
                sink.sendall(data)
                if passed(len(data)):
                    self.cut()
                    return
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _passed_up(self, count: int) -> bool:
        with self._lock:
            self.up += count
            return bool(self.cut_up and self.up >= self.cut_up[0] and self.cut_up.pop(0))

    def _passed_down(self, count: int) -> bool:
        with self._lock:
            self.down += count
            return bool(self.cut_down and self.down >= self.cut_down[0] and self.cut_down.pop(0))

    def cut(self) -> None:
        """Ends every connection abruptly."""
        with self._lock:
            self.cuts += 1
            sockets, self._sockets = self._sockets, set()
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self) -> None:
        self._listener.close()
        self.cut()


class HttpProxy(Link):
    """Forwards CONNECT for any name to the server on `port`.

    Only a hospital's proxy can resolve the name of a server behind it.

    Attributes:
      requests: heads of all requests so far.
      answer: status line in place of "200 OK"; the connection ends with it.
    """

    def __init__(self, port: int):
        self.requests: list[str] = []
        self.answer = ""
        super().__init__(port)

    def _reached(self, near: socket.socket) -> socket.socket | None:
        head = b""
        with contextlib.suppress(OSError):
            near.settimeout(20)
            while b"\r\n\r\n" not in head and (piece := near.recv(1)):
                head += piece
            self.requests.append(head.decode("latin-1"))
            far = None if self.answer else super()._reached(near)
            near.sendall(
                f"HTTP/1.1 {self.answer or ('200 OK' if far else '502 Bad Gateway')}\r\n\r\n".encode()
            )
            near.settimeout(None)
            return far
        return None


@contextlib.contextmanager
def http_proxy(port: int) -> Iterator[HttpProxy]:
    made = HttpProxy(port)
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def link(port: int) -> Iterator[Link]:
    made = Link(port)
    try:
        yield made
    finally:
        made.close()

"""A plain HTTP server for one small page.

A flood of connections cannot make it take the process's file descriptors or threads from the sites.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from wsgiref import simple_server

from absl import logging

from federated.errors import PortInUse
from federated.wire import addresses

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication  # Python 3.11

PLACES = 16  # connections at a time; a monitoring system needs one or two
LONGEST_S = 10.0  # time limit for a whole request and its answer
_LOOK_S = 0.1  # time between two checks whether to end


@contextlib.contextmanager
def answering(
    app: WSGIApplication,
    host: str,
    port: int,
    *,
    what: str,
    remedy: str,
    places: int = PLACES,
    longest_s: float = LONGEST_S,
) -> Iterator[int]:
    """Answers requests with `app` while the block runs; yields the port.

    A connection beyond `places` is closed at once, and so is one that takes longer than
    `longest_s`, however it spends the time.

    Args:
      host: the address to listen on; an IPv6 address may have brackets.
      port: 0 takes any free one.
      what: the subject of the error message, e.g. "metrics".
      remedy: the remedy if the port is in use or the address is not one of this machine.
    Raises:
      PortInUse: if the address or port cannot be used.
    """
    server = _bound(host, port, places, longest_s, what, remedy)
    server.set_app(app)
    thread = threading.Thread(
        target=server.serve_forever, args=(_LOOK_S,), name="http", daemon=True
    )
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def require_free(host: str, port: int, *, what: str, remedy: str) -> None:
    """Raises PortInUse, as `answering` does, unless the port can be used now."""
    _bound(host, port, PLACES, LONGEST_S, what, remedy).server_close()


def _bound(host: str, port: int, places: int, longest_s: float, what: str, remedy: str) -> _Server:
    try:
        return _Server(addresses.plain(host), port, places, longest_s)
    except OSError as error:
        raise PortInUse(
            f"{what} cannot be served on port {port} of {host} ({error.strerror}); {remedy}"
        ) from error


class _Handler(simple_server.WSGIRequestHandler):
    def log_message(self, format: str, *values: Any) -> None:
        """Logs nothing, because anyone who can reach the port could fill the disk."""


class _Server(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    daemon_threads = True
    request_queue_size = 64  # connections that wait to be accepted

    def __init__(self, host: str, port: int, places: int, longest_s: float):
        self._free, self._longest_s = threading.Semaphore(places), longest_s
        self.address_family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        super().__init__(address[:2], _Handler)  # type: ignore[arg-type]  # IPv6 has more parts

    def server_bind(self) -> None:
        # Not HTTPServer's method, which looks up the name of the address and may wait long for it.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        over = threading.Timer(self._longest_s, _end, [request])
        over.daemon = True
        try:
            try:
                over.start()
            except RuntimeError:  # no thread could be started
                self.shutdown_request(request)
                return
            super().process_request_thread(request, client_address)
        finally:
            over.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        logging.debug("event=http_connection_failed", exc_info=True)


def _end(request: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may have ended by itself
        request.shutdown(socket.SHUT_RDWR)

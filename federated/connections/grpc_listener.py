"""The gRPC server that listens on the port, with its limits on connections, calls and buffers."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Sequence
from concurrent import futures

import grpc

from federated.errors import PortInUse
from federated.wire import addresses, conversion

_OTHER_FILES = 512  # descriptors for the store, with a margin
_HANDSHAKE_MS = 10_000  # over the slowest usable line (5 kB/s) it takes two seconds
_STREAMS = 100  # calls of one connection, including those that are refused


def make_room(connections: int) -> int:
    """Raises the limit on open files to what all connections and the store need.

    Returns the number of connections that fit within the limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(
                resource.RLIMIT_NOFILE,
                (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard),
            )
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return connections
    # If the system allows few files, a third is for connections, a third for the port guard, which
    # opens all of them at once, and a third for the store.
    return min(connections, max(limit - _OTHER_FILES, limit // 3))


def bind(
    handlers: Sequence[grpc.GenericRpcHandler],
    credentials: grpc.ServerCredentials,
    host: str,
    port: int,
    *,
    connections: int,
    calls: int,
) -> tuple[grpc.Server, int]:
    """Binds a port; the server does not answer until it is started.

    Args:
      handlers: decode their messages themselves; gRPC would decode anything that arrives.
      port: 0 for any free port.
      connections: the most at the same time.
      calls: the most at the same time; each has a thread.
    Returns:
      The server and its port.
    Raises:
      PortInUse: naming the port.
    """
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=calls, thread_name_prefix="rpc"),
        maximum_concurrent_rpcs=calls,
        options=[
            *conversion.CHANNEL_OPTIONS,
            # Otherwise a second server on the port would silently receive half of the calls.
            ("grpc.so_reuseport", 0),
            # Each needs a descriptor, and so does the store.
            ("grpc.max_allowed_incoming_connections", connections),
            ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
            ("grpc.max_concurrent_streams", _STREAMS),
            ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
            ("grpc.http2.max_ping_strikes", 0),
            # Otherwise every connection keeps the largest buffer that it ever needed, a megabyte
            # or more. Older versions of gRPC ignore this option.
            ("grpc.experimental.tcp_max_read_buffer_size", 128 * 2**10),
        ],
    )
    server.add_generic_rpc_handlers(tuple(handlers))
    try:
        bound = server.add_secure_port(addresses.joined(host, port), credentials)
    except RuntimeError:
        bound = 0
    if not bound:
        raise PortInUse(
            f"port {port} on {addresses.plain(host)} is in use, or this user may not listen "
            "there; stop the program that has it (`ss -ltnp` names it), or choose another port and "
            "tell the sites"
        )
    return server, bound

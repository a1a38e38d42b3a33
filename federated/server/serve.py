"""Serving a run: opens the store, listens, leads the run to its end, and leaves in good order when
told to stop.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import queue
import resource
import signal
import sqlite3
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import grpc
from absl import logging

from federated.audit import log as audit_log
from federated.audit.log import AuditLog
from federated.connections.calls import PER_CALLER, Calls
from federated.connections.port_guard import PortGuard
from federated.connections.transfer_queue import TransferQueue
from federated.errors import FederationFull, PortInUse, StorageTrouble
from federated.security import expiry
from federated.security.credentials import CredentialBook
from federated.security.tls import Identity
from federated.server.admin_service import AdminGate
from federated.server.config import ServerConfig, ServerSummary
from federated.server.coordinator import Coordinator
from federated.server.overview import Overview
from federated.server.run_statistics import RunStatistics
from federated.server.servicer import TokenGate, WeightExchangeServicer, add_to_server
from federated.storage.store import Store
from federated.wire import addresses, conversion
from runkit import allocator, atomic, interrupts, private, release

_GRACE_S = 5.0  # calls under way when the server stops
_CONNECTIONS = 256  # beside four for each site
_STORE_FILES = 512  # descriptors for the store, and then some
_HANDSHAKE_MS = 10_000  # over the slowest line worth having (5 kB/s) it takes two seconds
_STREAMS = 100  # calls of one connection, those that are turned away included
_OPERATION_CALLS = 4  # of each caller to the operator's service
_SITES_TO_COME = 4  # that may be provisioned while the server runs
_TURNED_AWAY = 16  # calls that are being refused


def serve(
    config: ServerConfig,
    store_folder: str | os.PathLike,
    kit_folder: str | os.PathLike,
    initial_weights: str | os.PathLike,
    *,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    listeners: Sequence[Callable[[dict[str, Any]], None]] = (),
    on_ready: Callable[[int], None] = lambda port: None,
    stop: threading.Event | None = None,
) -> ServerSummary:
    """Serves one run until every round is aggregated and every site's rows are in, or until
    SIGTERM, SIGINT or `stop`.

    Started again with the same store, it goes on where it was. The process becomes a server's: its
    threads share their pools of freed memory from here on.

    Args:
      config: the operator's decisions.
      store_folder: made if missing; holds the whole state (see `storage`).
      kit_folder: the server's folder as `provision` made it.
      initial_weights: safetensors file of global model 0; its metadata key "plan" holds the plan as
          JSON.
      clock: seconds since the epoch; for the log, tokens and certificates.
      monotonic: seconds; for deadlines and silence.
      listeners: told every event as it is logged in `<store>/events.jsonl`.
      on_ready: called with the bound port once sites may connect.
      stop: set from another thread, ends serving.
    Raises:
      ValueError: for a kit or initial model that cannot be used.
      PortInUse, StoreInUse, DifferentRun: naming what is in the way.
      StorageTrouble: where the store cannot be written any more; what was confirmed is safe.
    """
    allocator.share_arenas()
    allocator.keep_buffers()
    store_folder = pathlib.Path(store_folder)
    private.refuse_links(kit_folder)
    identity = Identity.of(kit_folder, "server")
    private.tree(kit_folder)
    credentials = CredentialBook.read(pathlib.Path(kit_folder) / "credentials.json")
    if len(credentials.sites) < config.min_num_clients:
        raise FederationFull(
            f"min_num_clients is {config.min_num_clients}, but {kit_folder} knows {len(credentials.sites)} sites "
            f"({', '.join(credentials.sites)}); provision more sites or lower the minimum"
        )
    for line in expiry.warnings(kit_folder):
        logging.warning("event=certificate_ends %s", line)
    store = Store(store_folder)
    try:
        store.open_run(
            initial_weights,
            policy=config.policy,
            local_epochs=config.local_epochs,
            authority=identity.authority_fingerprint,
            aggregation=str(config.rule),
        )
        tally = RunStatistics()
        events = AuditLog(
            store_folder / "events.jsonl",
            clock=clock,
            key=identity.key,
            listeners=[tally.note, *listeners],
        )
        for record in events.read():
            tally.note(record)
        certificate = identity.certificate.read_text(encoding="ascii")
        events.append(
            "started", release=release.version(), certificate=certificate, settings=config.to_json()
        )
        audit_log.backfill(events, store)
        coordinator = Coordinator(
            store, config, credentials, events, clock=clock, monotonic=monotonic
        )
        desk = Overview(
            coordinator.steering,
            events,
            tally,
            store_folder,
            warnings=lambda: expiry.warnings(kit_folder),
        )
    except BaseException:
        store.close()
        raise
    with contextlib.closing(coordinator), contextlib.ExitStack() as watching:
        port = _chosen_port(config, store_folder)
        places = _places(_CONNECTIONS + 4 * max(len(credentials.sites), config.max_num_clients))
        door = PortGuard(places)
        calls = Calls(on_call=door.note), Calls(_OPERATION_CALLS, on_call=door.note)
        gate = AdminGate(desk, credentials, calls[1], clock=clock)
        sites = max(len(credentials.sites), config.max_num_clients) + _SITES_TO_COME
        server, port = _listen(
            coordinator, gate, calls[0], config, identity, port, places=places, sites=sites
        )
        for watched in (calls[0].watched(), calls[1].watched(), door.watched(port)):
            watching.enter_context(watched)
        endings: queue.SimpleQueue = (
            queue.SimpleQueue()
        )  # put() is safe inside a signal handler, an Event's set() is not
        try:
            with _signals(lambda number: endings.put(f"signal {signal.Signals(number).name}")):
                _watch(stop, endings)
                server.start()
                atomic.write_json(
                    store_folder / "address.json",
                    {"host": addresses.plain(config.host), "port": port},
                )
                logging.info(
                    "event=serving port=%d rounds=%d sites=%s",
                    port,
                    config.num_rounds,
                    ",".join(credentials.sites),
                )
                on_ready(port)
                driver = threading.Thread(
                    target=_drive, args=(coordinator, endings), name="coordinator", daemon=True
                )
                driver.start()
                ending = endings.get()
                coordinator.stop()
                driver.join()
        finally:
            coordinator.stop()
            server.stop(_GRACE_S).wait()
            with contextlib.suppress(OSError):  # the reason to stop may be a full disk
                events.append("stopped")
        if isinstance(ending, BaseException):
            raise ending
        if isinstance(ending, str):
            logging.info("event=stopped reason=%s", ending)
        return coordinator.summary()


def _drive(coordinator: Coordinator, endings: queue.SimpleQueue) -> None:
    try:
        if coordinator.drive():
            coordinator.wait_confirmed()
        endings.put(None)
    except (OSError, sqlite3.Error) as error:
        endings.put(
            StorageTrouble(
                f"the store cannot be read or written any more ({getattr(error, 'strerror', None) or error}); "
                "free space or mend the folder and start again: what was confirmed to sites is safe"
            )
        )
    except BaseException as error:  # handed to the thread that serves, which raises it
        endings.put(error)


def _chosen_port(config: ServerConfig, store_folder: pathlib.Path) -> int:
    address = store_folder / "address.json"
    return config.port or (
        atomic.read_json(address)["port"] if address.exists() else 0
    )  # sites look for it where it was


def _places(connections: int) -> int:
    """Asks for as many open files as all connections and the store need; returns how many
    connections there is room for.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _STORE_FILES
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(
                resource.RLIMIT_NOFILE,
                (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard),
            )
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return connections
    # Where the system allows few: a third for connections, one for the door, which looks at all of
    # them at once, one for the store.
    return min(connections, max(limit - _STORE_FILES, limit // 3))


def _listen(
    coordinator: Coordinator,
    operation: AdminGate,
    calls: Calls,
    config: ServerConfig,
    identity: Identity,
    port: int,
    *,
    places: int,
    sites: int,
) -> tuple[grpc.Server, int]:
    # Every site may hold all its calls, and the operator its own: nobody's calls wait for a thread
    # that another one holds.
    workers = (PER_CALLER + _OPERATION_CALLS) * sites + _OPERATION_CALLS + _TURNED_AWAY
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=workers, thread_name_prefix="rpc"),
        interceptors=(operation, TokenGate(coordinator)),
        maximum_concurrent_rpcs=workers,
        options=[
            *conversion.CHANNEL_OPTIONS,
            (
                "grpc.so_reuseport",
                0,
            ),  # else a second server on the port would silently take half of the calls
            (
                "grpc.max_allowed_incoming_connections",
                places,
            ),  # each takes a descriptor, which the store needs too
            ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
            ("grpc.max_concurrent_streams", _STREAMS),
            ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
            ("grpc.http2.max_ping_strikes", 0),
            # Else every connection keeps the buffer that its fastest moment asked for, a megabyte
            # and more; an older gRPC ignores it.
            ("grpc.experimental.tcp_max_read_buffer_size", 128 * 2**10),
        ],
    )
    add_to_server(
        WeightExchangeServicer(
            coordinator, TransferQueue(config.transfers_at_once), calls, poll_s=config.poll_s
        ),
        server,
    )
    try:
        bound = server.add_secure_port(addresses.joined(config.host, port), identity.for_server())
    except RuntimeError:
        bound = 0
    if not bound:
        raise PortInUse(
            f"port {port} on {addresses.plain(config.host)} is in use, or this user may not listen there; stop the program that has it "
            "(`ss -ltnp` names it), or choose another port and tell the sites"
        )
    return server, bound


@contextlib.contextmanager
def _signals(handle: Callable[[int], None]) -> Iterator[None]:
    """SIGTERM and SIGINT call `handle` inside the block; only the main thread can have handlers,
    elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(received: int, _: types.FrameType | None) -> None:
        interrupts.note(received)
        handle(received)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(stop: threading.Event | None, endings: queue.SimpleQueue) -> None:
    if stop is not None:
        threading.Thread(
            target=lambda: (stop.wait(), endings.put("stop")), name="stop", daemon=True
        ).start()

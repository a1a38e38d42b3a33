"""Serves a run: opens the store, listens, runs the rounds to the end, and shuts down cleanly."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
import queue
import signal
import sqlite3
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence

from absl import logging

from federated.audit import backfill
from federated.audit import log as audit_log
from federated.audit.log import AuditLog
from federated.connections import grpc_listener
from federated.connections.calls import PER_CALLER, Calls
from federated.connections.listener_check import ListenerCheck
from federated.connections.port_guard import PortGuard
from federated.connections.transfer_queue import TransferQueue
from federated.errors import FederationFull, ListenerLost, StorageTrouble
from federated.security import certificates, expiry
from federated.security.credentials import CredentialBook
from federated.security.kit_files import read_kit_file
from federated.security.tls import Identity
from federated.security.vocabulary import Vocabulary
from federated.server import metrics_endpoint, server_metrics
from federated.server.admin_service import AdminServicer
from federated.server.config import ServerConfig, ServerSummary
from federated.server.coordinator import Coordinator
from federated.server.overview import Overview
from federated.server.run_statistics import RunStatistics
from federated.server.servicer import WeightExchangeServicer
from federated.storage.store import Store
from federated.wire import addresses, limits
from runkit import allocator, atomic, interrupts, private, release

_GRACE_S = 5.0  # for calls in progress when the server stops
_CONNECTIONS = 256  # in addition to four per site
_OPERATION_CALLS = 4  # calls of each caller to the operator's service
_SITES_TO_COME = 4  # sites that may be provisioned while the server runs
_TURNED_AWAY = 16  # calls that are being refused
# How serving ended: None at the end of the run, the reason for a stop, or an error.
Endings = queue.SimpleQueue[None | str | BaseException]


def serve(
    config: ServerConfig,
    store_folder: str | os.PathLike,
    kit_folder: str | os.PathLike,
    initial_weights: str | os.PathLike,
    *,
    vocabulary: Vocabulary,
    models: Mapping[str, str | os.PathLike] | None = None,
    metrics: tuple[str, int] | None = None,
    clock: Callable[[], float] = time.time,
    listeners: Sequence[audit_log.Listener] = (),
    on_ready: Callable[[int], None] = lambda port: None,
    stop: threading.Event | None = None,
) -> ServerSummary:
    """Serves one run until it is finished, or until SIGTERM, SIGINT or `stop`.

    The run is finished once every round is aggregated and every site's rows have arrived. A server
    started again with the same store resumes it. The process is changed permanently: from here on
    all threads share their pools of freed memory.

    Args:
      config: the operator's settings.
      store_folder: created if missing; contains the whole state (see `storage.store`).
      kit_folder: the server's folder as made by `provision`.
      vocabulary: what sites may report: the words of their rows and the ranges of their numbers.
      initial_weights: safetensors file of global model 0; its metadata key "plan" holds the plan as
          JSON.
      models: in a run of 0 rounds, which does not train: the models that every site evaluates,
          name -> safetensors file.
      metrics: address and port of a Prometheus endpoint; None for none (see `metrics_endpoint`).
      clock: returns the seconds since the epoch; for the log, tokens and certificates.
      listeners: called with every event that is logged in `<store>/events.jsonl`.
      on_ready: called with the bound port once sites may connect.
      stop: set it from another thread to end serving.
    Raises:
      ValueError: if the kit or the initial model cannot be used, or the package for metrics is
        missing.
      PortInUse, StoreInUse, DifferentRun: naming the port, store or run at fault.
      StorageTrouble: if the store can no longer be written; what was confirmed is safe.
      ListenerLost: if the system no longer gives the server the connections made to its port.
    """
    if metrics is not None:
        metrics_endpoint.require(*metrics)
    allocator.share_arenas()
    allocator.keep_buffers()
    store_folder = pathlib.Path(store_folder)
    private.refuse_links(kit_folder)
    identity = Identity.of(kit_folder, "server")
    private.tree(kit_folder)
    credentials = CredentialBook.read(pathlib.Path(kit_folder) / "credentials.json")
    provisioned = credentials.current().sites
    if len(provisioned) < config.min_num_clients:
        raise FederationFull(
            f"min_num_clients is {config.min_num_clients}, but {kit_folder} knows "
            f"{len(provisioned)} sites ({', '.join(provisioned)}); "
            "provision more sites or lower the minimum"
        )
    for line in expiry.warnings(kit_folder):
        logging.warning("event=certificate_ends %s", line)
    with _storage_errors(store_folder):
        run = _open(
            config,
            store_folder,
            kit_folder,
            identity,
            credentials,
            initial_weights,
            vocabulary=vocabulary,
            models=models,
            clock=clock,
            listeners=listeners,
        )
    with contextlib.closing(run.coordinator):
        ending = _serve_until_ended(
            run,
            config,
            kit_folder,
            identity,
            metrics=metrics,
            clock=clock,
            on_ready=on_ready,
            stop=stop,
        )
        if isinstance(ending, BaseException):
            raise ending
        if isinstance(ending, str):
            logging.info("event=stopped reason=%s", ending)
        return run.coordinator.summary()


@dataclasses.dataclass(frozen=True)
class _OpenRun:
    folder: pathlib.Path
    credentials: CredentialBook
    coordinator: Coordinator
    events: AuditLog
    statistics: RunStatistics
    overview: Overview


def _open(
    config: ServerConfig,
    folder: pathlib.Path,
    kit_folder: str | os.PathLike,
    identity: Identity,
    credentials: CredentialBook,
    initial_weights: str | os.PathLike,
    *,
    vocabulary: Vocabulary,
    models: Mapping[str, str | os.PathLike] | None,
    clock: Callable[[], float],
    listeners: Sequence[audit_log.Listener],
) -> _OpenRun:
    """Opens the run's store and its log, which is completed from the store."""
    store = Store(folder)
    try:
        store.open_run(
            initial_weights,
            policy=config.policy,
            local_epochs=config.local_epochs,
            authority=identity.authority_fingerprint,
            aggregation=str(config.rule),
            models=models,
            sums=None if config.sums is None else vars(config.sums),
            check=functools.partial(limits.check_run, what=os.fspath(initial_weights)),
        )
        statistics = RunStatistics()
        events = AuditLog(
            folder / "events.jsonl",
            clock=clock,
            key=identity.key,
            listeners=[statistics.note, *listeners],
            on_new_segment=lambda record: store.outgrow_first_format(),
            segment_bytes=round(config.log_segment_mib * 2**20),
            keep_segments=config.keep_log_segments,
        )
        for record in events.read():
            statistics.note(record)
        if events.format != audit_log.ONE_SEGMENT:  # a kill may have come before it was noted
            store.outgrow_first_format()
        events.append(
            "started",
            release=release.version(),
            format=events.format,
            certificate=identity.certificate.read_text(encoding="ascii"),
            settings=config.to_json(),
        )
        backfill.complete(events, store)
        coordinator = Coordinator(
            store,
            config,
            credentials,
            events,
            vocabulary=vocabulary,
            authority=certificates.load(atomic.read_bytes(identity.authority)),
            clock=clock,
        )
        overview = Overview(
            coordinator.orders,
            events,
            statistics,
            folder,
            warnings=lambda: expiry.warnings(kit_folder),
        )
    except BaseException:
        store.close()
        raise
    return _OpenRun(folder, credentials, coordinator, events, statistics, overview)


def _serve_until_ended(
    run: _OpenRun,
    config: ServerConfig,
    kit_folder: str | os.PathLike,
    identity: Identity,
    *,
    metrics: tuple[str, int] | None,
    clock: Callable[[], float],
    on_ready: Callable[[int], None],
    stop: threading.Event | None,
) -> str | BaseException | None:
    """Listens and runs the rounds. Returns how serving ended, see `Endings`."""
    coordinator = run.coordinator
    provisioned = run.credentials.current().sites
    sites = max(len(provisioned), config.max_num_clients)
    connections = grpc_listener.make_room(_CONNECTIONS + 4 * sites)
    guard = PortGuard(connections)
    calls = Calls(on_call=guard.note), Calls(_OPERATION_CALLS, on_call=guard.note)
    transfers = TransferQueue(config.transfers_at_once)
    server, port = grpc_listener.bind(
        (
            WeightExchangeServicer(coordinator, transfers, calls[0], poll_s=config.poll_s),
            AdminServicer(run.overview, run.credentials, calls[1], clock=clock),
        ),
        identity.for_server(),
        config.host,
        _chosen_port(config, run.folder),
        connections=connections,
        # Enough for every site and the operator to have all their calls at once, so that a call
        # never waits for a thread that another caller occupies.
        calls=(PER_CALLER + _OPERATION_CALLS) * (sites + _SITES_TO_COME)
        + _OPERATION_CALLS
        + _TURNED_AWAY,
    )
    _compare_with_kits(port, kit_folder)
    # Its put() is safe inside a signal handler; an Event's set() is not.
    endings: Endings = queue.SimpleQueue()
    host = addresses.plain(config.host)
    listener = ListenerCheck(host, port, lambda: endings.put(_listener_lost(port)))
    with contextlib.ExitStack() as watching:
        if metrics is not None:
            measured = server_metrics.ServerMetrics(
                run.overview.status, run.statistics, transfers.load
            )
            watching.enter_context(metrics_endpoint.serving(measured.collect, *metrics))
        for watched in (
            calls[0].watched(),
            calls[1].watched(),
            guard.watched(port),
            listener.watched(),
        ):
            watching.enter_context(watched)
        try:
            with _signals(lambda number: endings.put(f"signal {signal.Signals(number).name}")):
                _watch(stop, endings)
                server.start()
                atomic.write_json(run.folder / "address.json", {"host": host, "port": port})
                logging.info(
                    "event=serving port=%d rounds=%d sites=%s",
                    port,
                    config.num_rounds,
                    ",".join(provisioned),
                )
                on_ready(port)
                driver = threading.Thread(
                    target=_drive,
                    args=(coordinator, endings, run.folder),
                    name="coordinator",
                    daemon=True,
                )
                driver.start()
                ending = endings.get()
                coordinator.stop()
                driver.join()
        finally:
            coordinator.stop()
            server.stop(_GRACE_S).wait()
            with contextlib.suppress(OSError):  # the server may stop because of a full disk
                run.events.append("stopped")
    return ending


def _listener_lost(port: int) -> ListenerLost:
    return ListenerLost(
        f"port {port} no longer accepts connections, because the system refused one (too many open "
        "files, no memory, or a rule of the firewall); start again: sites connect by themselves, "
        "and what was confirmed to them is safe"
    )


def _drive(coordinator: Coordinator, endings: Endings, store_folder: pathlib.Path) -> None:
    try:
        with _storage_errors(store_folder, (sqlite3.Error, OSError)):
            if coordinator.drive():
                coordinator.wait_confirmed()
        endings.put(None)
    except BaseException as error:  # passed to the serving thread, which raises it
        endings.put(error)


@contextlib.contextmanager
def _storage_errors(
    folder: pathlib.Path, kinds: tuple[type[Exception], ...] = (sqlite3.Error,)
) -> Iterator[None]:
    """Converts errors of these kinds in the block to StorageTrouble.

    The message names the store and the remedy.
    """
    try:
        yield
    except kinds as error:
        damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(
            error, sqlite3.OperationalError
        )
        remedy = (
            "restore the folder from a backup"
            if damaged
            else "free space or repair the folder and restart: what was confirmed to sites is safe"
        )
        why = getattr(error, "strerror", None) or error
        raise StorageTrouble(
            f"{folder}: the store can no longer be read or written ({why}); {remedy}"
        ) from error


def _chosen_port(config: ServerConfig, store_folder: pathlib.Path) -> int:
    address = store_folder / "address.json"
    if config.port or not address.exists():
        return config.port
    return atomic.read_json(address)["port"]  # after a restart, sites use the same port


def _compare_with_kits(port: int, kit_folder: str | os.PathLike) -> None:
    """Warns if the sites' kits name another port than the one on which this server listens."""
    named = read_kit_file(pathlib.Path(kit_folder) / "credentials.json").get("port")
    if named and named != port:  # absent in kits of earlier releases; 0 stands for any port
        logging.warning(
            "event=port_differs port=%d kits=%d: the sites connect to port %d, so unless something "
            "forwards that port to this one they cannot reach the server; start it with --port=%d",
            port,
            named,
            named,
            named,
        )


@contextlib.contextmanager
def _signals(handle: Callable[[int], None]) -> Iterator[None]:
    """Calls `handle` on SIGTERM and SIGINT inside the block.

    Does nothing outside the main thread, which is the only one that can have handlers.
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


def _watch(stop: threading.Event | None, endings: Endings) -> None:
    def wait(event: threading.Event) -> None:
        event.wait()
        endings.put("stop")

    if stop is not None:
        threading.Thread(target=wait, args=(stop,), name="stop", daemon=True).start()

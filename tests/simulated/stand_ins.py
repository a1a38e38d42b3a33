"""Lets the product run in a story: on simulated disks, databases and clocks, in one thread at a time."""

from __future__ import annotations

import contextlib
import functools
import json
import types
from collections.abc import Callable, Iterator
from json import encoder
from typing import Any

from federated.aggregation import slabs, spooled_updates, update_checks
from federated.audit import chain, verification
from federated.audit import log as audit_log
from federated.rounds import plan
from federated.server import coordinator, evaluation, run_state, servicer, uploads
from federated.site import journal, loop
from federated.storage import best_models, database, store, store_folder
from federated.storage.recently_verified import RecentlyVerified
from federated.tensors import codec, partial_file, tensor_files, weights
from federated.wire import limits
from runkit import atomic, events, private
from tests.federated import toy
from tests.simulated import database as databases
from tests.simulated import disk, disk_functions, paths
from tests.simulated.federation import Federation
from tests.simulated.network import SiteTransport
from tests.simulated.story import SERVER, Story

CHUNK_BYTES = 16  # so that the toy's 36 bytes travel in three chunks


@functools.cache
def _encode(sort_keys: bool, allow_nan: bool, separators: tuple[str, str]) -> Callable[[Any], str]:
    """Returns what writes a value; the standard library makes such an encoder anew for each."""
    plain = json.JSONEncoder(sort_keys=sort_keys, allow_nan=allow_nan, separators=separators)
    if encoder.c_make_encoder is None:
        return plain.encode
    write = encoder.c_make_encoder(
        *(None, plain.default, encoder.encode_basestring_ascii, None),
        *(separators[1], separators[0], sort_keys, False, allow_nan),
    )
    return lambda value: "".join(write(value, 0))


def _plain_json(
    value: Any,
    *,
    allow_nan: bool = True,
    sort_keys: bool = False,
    separators: tuple[str, str] = (", ", ": "),
    **_: Any,
) -> str:
    """JSON without line breaks, which the standard library writes ten times faster."""
    return _encode(sort_keys, allow_nan, separators)(value)


_scan = json.JSONDecoder().scan_once


def _plain_value(text: Any) -> Any:
    """What `json.loads` returns, without its two searches for white space around the value.

    Lines of a log are bytes, and they end with a line break.
    """
    try:
        plain = text if type(text) is str else _text(text)
        value, end = _scan(plain, 0)
    except (StopIteration, TypeError, ValueError):  # no JSON, or not the usual bytes
        return json.loads(text)
    return value if end == len(plain) or plain[end:] == "\n" else json.loads(text)


def _text(data: bytes) -> str:
    if not data.startswith(b'{"'):  # it may be another encoding than UTF-8
        raise ValueError
    return data.decode("utf-8")


class _InlineThread:
    """A thread that has done its work as soon as it starts."""

    def __init__(self, target: Callable[..., object], args: tuple = (), **_: Any):
        self._work = functools.partial(target, *args)

    def start(self) -> None:
        self._work()

    def join(self) -> None:
        pass


class _InlinePool:
    """An executor that does everything at once, in the thread that asks."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __enter__(self) -> _InlinePool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, work: Callable[..., Any], *given: Any) -> Any:
        value = work(*given)
        return types.SimpleNamespace(result=lambda: value)


_CHUNKED = (
    *(weights, codec, tensor_files, partial_file, slabs, spooled_updates, update_checks),
    *(limits, servicer),
)
_WITH_JSON = (
    *(atomic, events, audit_log, chain, verification, journal, database, store, best_models),
    *(evaluation, plan, tensor_files, weights),
)
_WITH_PATHS = atomic, events, partial_file, private, store_folder, tensor_files


@contextlib.contextmanager
def prepared() -> Iterator[Callable[[Story], Federation]]:
    """Yields a function that makes the federation of a story; inside the block the product runs on
    simulated disks and clocks.
    """
    current: list[Federation] = []

    @contextlib.contextmanager
    def beating(transport: SiteTransport, every_s: float) -> Iterator[None]:
        over: list[bool] = []
        # fewer than a site would send, and still several for each time after which it is silent
        transport.beat(5 * every_s, over)
        try:
            yield
        finally:
            over.append(True)

    module = databases.Module()
    pathlib = types.SimpleNamespace(Path=paths.made)
    time = types.SimpleNamespace(monotonic=lambda: current[0].world.monotonic(SERVER))
    average = spooled_updates.aggregate_spooled
    threads = types.SimpleNamespace(Thread=_InlineThread)
    plain = types.SimpleNamespace(
        dumps=_plain_json, loads=_plain_value, JSONDecodeError=json.JSONDecodeError
    )
    replaced = [
        *((m, "CHUNK_BYTES", CHUNK_BYTES) for m in _CHUNKED),
        *((m, "pathlib", pathlib) for m in _WITH_PATHS),
        (database, "sqlite3", module),
        (coordinator, "time", time),
        (uploads, "time", time),
        (
            run_state,
            "RecentlyVerified",
            lambda: RecentlyVerified(
                clock=time.monotonic,
                now_ns=lambda: current[0].world.now_ns(),
            ),
        ),
        (
            spooled_updates,
            "aggregate_spooled",
            lambda *given, **named: current[0].server.average_slowly(average, *given, **named),
        ),
        (tensor_files, "_remembered", functools.lru_cache(maxsize=500)(tensor_files._layout_of)),
        (slabs, "futures", types.SimpleNamespace(ThreadPoolExecutor=_InlinePool)),
        (journal, "threading", threads),
        *((m, "json", plain) for m in _WITH_JSON),
        (loop, "_beating", beating),
    ]
    before = [(m, name, getattr(m, name)) for m, name, _ in replaced]
    with disk_functions.installed() as installation, paths.remembered():
        for m, name, value in replaced:
            setattr(m, name, value)
        try:
            initial = _initial(installation)

            def federation(story: Story) -> Federation:
                made = Federation(story, initial)
                current[:] = [made]
                installation.use(made.world.disks)
                module.databases = made.world.databases
                return made

            yield federation
        finally:
            for m, name, value in before:
                setattr(m, name, value)


def _initial(installation: disk_functions.Installation) -> bytes:
    installation.use(disk.Disks(lambda *_: None, lambda: 0))
    installation.disks.add("made")
    toy.write_initial(f"{disk.ROOT}made/initial.safetensors")
    return bytes(installation.disks.files("made")["initial.safetensors"].content)

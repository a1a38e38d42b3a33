"""What the parties of one story share: time, machines and disks, and what is known of the run."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from federated.server.config import ServerConfig
from federated.tensors import weights
from tests.simulated import database, disk
from tests.simulated.scheduler import Scheduler
from tests.simulated.story import SERVER, Story, Trouble

EPOCH = 1_700_000_000.0
EXAMPLES = {"C1": 30, "C2": 10, "C3": 5}
SECRETS = {site: f"secret of {site}" for site in EXAMPLES}
STORE = f"{disk.ROOT}{SERVER}/store"
INITIAL = f"{disk.ROOT}{SERVER}/initial.safetensors"
POLL_S, SILENCE_S = 300.0, 1200.0
_MOST = 1000  # digests that are remembered
_digests: dict[tuple, str] = {}  # the arrays of a model to its digest


class Violation(AssertionError):
    """Something that must hold does not."""


@dataclasses.dataclass
class Machine:
    """Where a party runs.

    Attributes:
      ahead: seconds by which its clock is ahead of the true time.
      slept: seconds that its monotonic clock has missed.
      operations: on its disk so far.
      calls: of a site so far.
      program: what runs there now.
    """

    name: str
    ahead: float = 0.0
    slept: float = 0.0
    asleep_until: float = 0.0
    cut_off_until: float = 0.0
    full_until: float = 0.0
    operations: int = 0
    calls: int = 0
    program: Any = None
    by_operation: dict[int, list[Trouble]] = dataclasses.field(default_factory=dict)
    by_call: dict[int, list[Trouble]] = dataclasses.field(default_factory=dict)


class Party(Protocol):
    """The server or a site: what starts the program on its machine."""

    def start(self) -> None:
        """Starts the program, unless it runs."""

    def killed(self, program: Any) -> None:
        """Tells those who wait for a program that it is gone."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """An update as its site made it."""

    site: str
    round: int
    base: bytes  # the global model that it was trained from
    arrays: Mapping[str, np.ndarray]
    number: int = 0  # of all trainings


def bytes_of(arrays: Mapping[str, np.ndarray]) -> bytes:
    return b"".join(np.asarray(arrays[name]).tobytes() for name in sorted(arrays))


def digest_of(arrays: Mapping[str, np.ndarray]) -> str:
    content = tuple(
        (name, array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()
    )
    found = _digests.get(content)
    if found is None:
        if len(_digests) >= _MOST:
            _digests.clear()
        found = _digests[content] = _digest_now(arrays)
    return found


def _digest_now(arrays: Mapping[str, np.ndarray]) -> str:
    specs = weights.specs_of(arrays)
    found = weights.Digest(specs)
    for spec in specs:
        found.update(weights.little_endian_bytes(arrays[spec.name]))
    return found.hex()


@functools.lru_cache(maxsize=1000)
def _config(settings: tuple[tuple[str, Any], ...]) -> ServerConfig:
    return ServerConfig(**{"poll_s": POLL_S, "heart_beat_timeout_s": SILENCE_S, **dict(settings)})


class World:
    """The state of one story.

    Args:
      initial: the file of the initial model.
      striking: given this, returns what is called with a machine and a kind of operation before the
        operation, and returns what runs there; see `disk.Disks`.
    Attributes:
      draw: gives the small delays of calls.
      parties: name to what starts its program.
      receipts: (site, what) to what the server last confirmed to the site: the digest, how often
          the run had been taken back, and how often the site had been evicted.
      trained: digest to the update.
      endings: site to how its program last ended.
      gone: sites whose program will not be started again.
      rotten: beginnings of the digests of updates that changed on the server's disk.
      trouble_until: until when a trouble still explains that nothing happens.
      reason: why the run did not come to its end; "" if it did.
      unharmed: whether the harness itself looks at a disk.
    """

    def __init__(
        self,
        story: Story,
        initial: bytes,
        striking: Callable[[World], Callable[[str, str], object]],
    ):
        self.story, self.schedule = story, Scheduler()
        self._stamped_at, self._stamp = -1.0, 0  # the last answer of `now_ns`
        self.draw = random.Random(story.seed ^ 0x5EED)
        self.machines = {name: Machine(name) for name in (SERVER, *story.sites)}
        self.parties: dict[str, Party] = {}
        strike = striking(self)
        self.disks = disk.Disks(strike, self.now_ns)
        self.databases = database.Databases(strike, SERVER)
        self.config = _config(tuple(sorted(story.settings.items())))
        self.trainings = 0
        self.trained: dict[str, Trained] = {}
        self.receipts: dict[tuple[str, str], tuple[str, int, int]] = {}
        self.evictions: dict[str, int] = {}
        self.endings: dict[str, str] = {}
        self.gone: set[str] = set()
        self.rotten: set[str] = set()
        self.reason = ""
        self.violation: Violation | None = None
        self.progress_at, self.trouble_until = 0.0, 0.0
        self.unharmed = False
        for name in self.machines:
            self.disks.add(name)
        with self.inspecting():
            self.disks.put(INITIAL, initial)

    def now_ns(self) -> int:
        now = self.schedule.now
        if now != self._stamped_at:
            self._stamped_at, self._stamp = now, int((EPOCH + now) * 1e9) + 1
        return self._stamp

    def clock(self, name: str) -> float:
        return EPOCH + self.schedule.now + self.machines[name].ahead

    def monotonic(self, name: str) -> float:
        return 1000.0 + self.schedule.now - self.machines[name].slept

    def when_awake(self, name: str, seconds: float, event: Callable[[], None]) -> None:
        """Lets an event happen after some seconds, or when the machine wakes up."""
        once_awake = functools.partial(self._once_awake, self.machines[name], event)
        self.schedule.after(seconds, once_awake)

    def _once_awake(self, machine: Machine, event: Callable[[], None]) -> None:
        if machine.asleep_until > self.schedule.now:
            once_awake = functools.partial(self._once_awake, machine, event)
            self.schedule.at(machine.asleep_until, once_awake)
        else:
            event()

    def trouble_for(self, seconds: float) -> None:
        """Notes that a trouble explains a silence of some seconds."""
        self.trouble_until = max(self.trouble_until, self.schedule.now + seconds)

    def fail(self, what: str) -> None:
        if self.violation is None:
            self.violation = Violation(what)

    @contextlib.contextmanager
    def inspecting(self) -> Iterator[None]:
        """No trouble comes while the harness itself looks at a disk."""
        before, self.unharmed = self.unharmed, True
        try:
            yield
        finally:
            self.unharmed = before

    def kill(self, name: str, *, restart_s: float) -> None:
        """Kills what runs on a machine, and starts it again later."""
        machine, party = self.machines[name], self.parties[name]
        program, machine.program = machine.program, None
        program.dead = True
        self.disks.end_program(program)
        self.trouble_for(restart_s)
        party.killed(program)
        self.schedule.after(restart_s, party.start)

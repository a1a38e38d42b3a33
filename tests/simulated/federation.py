"""A federation in a story: one server, its sites, their disks, clocks and network, in one process.

What runs is the product's coordinator, store, log, site loop and journal. In place of gRPC there is
a network of our own, and in place of `serve` the few lines below that open what it opens.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import json
import os
import random
import sqlite3
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from federated import errors
from federated.aggregation import slabs, spooled_updates, update_checks
from federated.audit import log as audit_log
from federated.connections.error_replies import storage_trouble
from federated.rounds.tasks import Task
from federated.security.credentials import CredentialBook, hashed
from federated.server import coordinator, run_state, servicer, uploads
from federated.server.config import ServerConfig
from federated.server.coordinator import Coordinator
from federated.site import journal, loop
from federated.site.transport import offering, unknown
from federated.storage import database
from federated.storage.store import Store
from federated.storage.verified_files import VerifiedFiles
from federated.tensors import codec, partial_file, tensor_files, weights
from federated.tensors.partial_file import PartialModel
from federated.wire import replies
from federated.wire.messages import Receipt, Session
from runkit import atomic, backoff
from runkit.events import EventLog
from tests.federated import toy
from tests.simulated import database as databases
from tests.simulated import disk, scheduler
from tests.simulated.scheduler import Blocking, Killed, Scheduler
from tests.simulated.story import BY_CALL, BY_OPERATION, SERVER, Story, Trouble

CHUNK_BYTES = 16  # so that the toy's 36 bytes travel in three chunks
EXAMPLES = {"C1": 30, "C2": 10, "C3": 5}
STEP = {"C1": 0.25, "C2": -0.5, "C3": 1.0}
EPOCH = 1_700_000_000.0
STORE = f"{disk.ROOT}{SERVER}/store"
_INITIAL = f"{disk.ROOT}{SERVER}/initial.safetensors"
_SECRETS = {site: f"secret of {site}" for site in EXAMPLES}
_TRIES_S = 20.0  # until a call that gets no answer fails
_AVERAGING_S = 5.0
_POLL_S, _SILENCE_S = 300.0, 1200.0
QUIET_S = 2 * 3600.0  # without progress and without trouble: then nothing more will happen
_LONGEST_S = 40 * 24 * 3600.0


class Violation(AssertionError):
    """Something that must hold does not."""


class Cut(Exception):
    """A transfer ends here."""


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


@dataclasses.dataclass(frozen=True)
class Trained:
    """An update as its site made it."""

    site: str
    round: int
    base: bytes  # the global model that it was trained from
    arrays: Mapping[str, np.ndarray]
    number: int = 0  # of all trainings


@dataclasses.dataclass(eq=False)
class Leading:
    """The server's program."""

    lead: Coordinator
    store: Store
    dead: bool = False
    driving: bool = False
    drive_at: float | None = None
    seen: int = -1
    pauses: Iterator[float] = dataclasses.field(default_factory=lambda: backoff.pauses(1.0))
    waiting: list[Callable[[], None]] = dataclasses.field(default_factory=list)


class Trainer(toy.ToyTrainer):
    """Halves the weights and adds a step; every training gives other numbers, as a real one does."""

    def __init__(self, world: World, site: str):
        super().__init__(site)
        self._world, self.num_examples = world, EXAMPLES[site]

    def train(self, weights, round_number):
        world = self._world
        world.trainings += 1
        base = _bytes(weights)
        step = np.float32(STEP[self.site] * round_number + world.trainings / 1024)
        arrays = {
            name: (array * np.float32(0.5) + step).astype(np.float32)
            for name, array in weights.items()
        }
        world.note_trained(Trained(self.site, round_number, base, arrays, world.trainings))
        return arrays, {"loss": 1.0 / round_number}

    def evaluate(self, model_name, weights):
        return super().evaluate(model_name, weights)[:1]


def _bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    return b"".join(np.asarray(arrays[name]).tobytes() for name in sorted(arrays))


def digest_of(arrays: Mapping[str, np.ndarray]) -> str:
    found = weights.Digest(weights.specs_of(arrays))
    for spec in weights.specs_of(arrays):
        found.update(weights.little_endian_bytes(arrays[spec.name]))
    return found.hex()


class World:
    """Plays one story.

    Attributes:
      receipts: (site, what) to what the server last confirmed to the site: the digest, how often
          the run had been taken back, and how often the site had been evicted.
      trained: digest to the update.
      endings: site to how its program last ended.
      reason: why the run did not come to its end; "" if it did.
    """

    def __init__(self, story: Story, schema: bytes, initial: bytes):
        self.story, self.schedule = story, Scheduler()
        self._draw = random.Random(story.seed ^ 0x5EED)
        self.machines = {name: Machine(name) for name in (SERVER, *story.sites)}
        self.disks = disk.Disks(
            self._before_disk,
            lambda: int((EPOCH + self.schedule.now) * 1e9) + 1,
            lambda machine: self.machines[machine].program,
        )
        self.databases = databases.Databases(
            lambda path, kind: self._before_disk(SERVER, kind), schema
        )
        for name in self.machines:
            self.disks.add(name)
        self._inspecting = True
        self.disks.put(_INITIAL, initial)
        self._inspecting = False
        self.config = ServerConfig(
            **{
                "poll_s": _POLL_S,
                "heart_beat_timeout_s": _SILENCE_S,
                **story.settings,
            }
        )
        self.trainings = 0
        self.trained: dict[str, Trained] = {}
        self.receipts: dict[tuple[str, str], tuple[str, int, int]] = {}
        self.evictions: dict[str, int] = {}
        self.endings: dict[str, str] = {}
        self.gone: set[str] = set()  # sites whose program will not be started again
        self.rotten: set[str] = set()
        self.reason = ""
        self.violation: Violation | None = None
        self._progress_at, self._trouble_until = 0.0, 0.0
        self.check: Callable[[World, Leading], None] = lambda world, leading: None
        self.check_end = self.check

    # What parties see.

    def clock(self, name: str) -> float:
        return EPOCH + self.schedule.now + self.machines[name].ahead

    def monotonic(self, name: str) -> float:
        return 1000.0 + self.schedule.now - self.machines[name].slept

    def note_trained(self, update: Trained) -> None:
        confirmed = self.receipts.get((update.site, f"round {update.round}"))
        leading = self.machines[SERVER].program
        if confirmed and leading is not None and leading.lead is not None and not self.rotten:
            with self.inspecting():
                now = leading.store.discarded, self.evictions.get(update.site, 0)
            if confirmed[1:] == now:
                self.fail(f"lost receipt: {update.site} trains round {update.round} again")
        self.trained[digest_of(update.arrays)] = update

    def fail(self, what: str) -> None:
        if self.violation is None:
            self.violation = Violation(what)

    @contextlib.contextmanager
    def inspecting(self) -> Iterator[None]:
        """No trouble comes while the harness itself looks at a disk."""
        before, self._inspecting = self._inspecting, True
        try:
            yield
        finally:
            self._inspecting = before

    def _before_disk(self, name: str, kind: str) -> None:
        if self._inspecting:
            return
        machine = self.machines[name]
        if machine.program is None or machine.program.dead:
            raise Killed
        machine.operations += 1
        for trouble in machine.by_operation.pop(machine.operations, ()):
            self._trouble_until = self.schedule.now + trouble.size
            if trouble.kind == "kill":
                self._end(name, restart_s=trouble.size)
                raise Killed
            if trouble.kind == "full":
                machine.full_until = self.schedule.now + trouble.size
            elif trouble.kind == "error":
                _raise(kind, errno.EIO)
        if self.schedule.now < machine.full_until and kind in ("write", "create", "commit"):
            _raise(kind, errno.ENOSPC)

    # The story.

    def play(self) -> None:
        for trouble in self.story.troubles:
            machine = self.machines[trouble.party]
            if trouble.kind in BY_OPERATION:
                machine.by_operation.setdefault(trouble.at, []).append(trouble)
            elif trouble.kind in BY_CALL:
                machine.by_call.setdefault(trouble.at, []).append(trouble)
            else:
                self.schedule.at(trouble.at, functools.partial(self._strike, trouble))
        self._start_server()
        late = {t.party: t.at for t in self.story.troubles if t.kind == "late"}
        for site in self.story.sites:
            self.schedule.at(late.get(site, 0.0), functools.partial(self._start_site, site))
        while self.violation is None and not self._over():
            self.schedule.run(self.schedule.now + QUIET_S / 4, self._over)
            if self.violation is not None or self._over():
                break
            self._note_progress()
            if self.schedule.now - max(self._progress_at, self._trouble_until) > QUIET_S:
                self._explain()
                if self.reason:
                    break
            if self.schedule.now > _LONGEST_S:
                self.fail("goes on for ever")
        if self.violation is None:
            self._leave()

    def _note_progress(self) -> None:
        """Another login or another attempt at a round is no progress."""
        leading = self.machines[SERVER].program
        if leading is None or leading.lead is None:
            return
        with self.inspecting():
            store = leading.store
            facts = (
                *(store.globals(), store.counted_updates(), store.scores(), store.models()),
                *(store.declared(), store.reported(), store.finished, store.discarded),
                store.paused,
            )
        if facts != self._facts:
            self._facts, self._progress_at = facts, self.schedule.now

    _facts: tuple = ()

    def _over(self) -> bool:
        if self.violation is not None:
            return True
        leading = self.machines[SERVER].program
        if leading is None or leading.driving or set(self.story.sites) - self.gone:
            return False
        return bool(leading.store.finished) or not self._coming_back()

    def _coming_back(self) -> bool:
        return self.schedule.now <= max(self._trouble_until, self._progress_at) + QUIET_S

    def _strike(self, trouble: Trouble) -> None:
        machine, size = self.machines[trouble.party], trouble.size
        self._trouble_until = max(self._trouble_until, self.schedule.now + abs(size))
        kind = trouble.kind
        if kind == "stop":
            if machine.program is not None:
                self._end(trouble.party, restart_s=size)
        elif kind == "sleep":
            machine.asleep_until = max(machine.asleep_until, self.schedule.now + size)
            machine.slept += size
        elif kind == "clock":
            machine.ahead += size
        elif kind == "partition":
            machine.cut_off_until = self.schedule.now + size
        elif kind == "rot":
            self._rot()
        elif kind != "late":
            self._order(trouble)

    def _order(self, trouble: Trouble, tries: int = 20) -> None:
        """Gives an order of the operator, again a little later if it cannot be carried out now."""
        kind, site = trouble.kind, trouble.party

        def give(lead: Coordinator) -> None:
            if kind == "evict":
                self.evict(lead, site)
                if trouble.size:
                    self.schedule.after(trouble.size, lambda: self._readmit(site))
                else:
                    self.gone.add(site)
            elif kind == "pause":
                lead.orders.pause()
                self.schedule.after(
                    trouble.size, lambda: self._until_done(lambda lead: lead.orders.resume())
                )
            elif kind == "discard":
                lead.orders.discard_round(trouble.size)
            elif kind == "finish":
                first = max(lead._run.store.globals()) == 0
                lead.orders.finish(immediately=bool(trouble.size) and not first)

        self._until_done(give, tries)

    def evict(self, lead: Coordinator, site: str) -> None:
        self.evictions[site] = self.evictions.get(site, 0) + 1
        lead.orders.evict(site)

    def _readmit(self, site: str) -> None:
        def give(lead: Coordinator) -> None:
            lead.orders.readmit(site)
            self.gone.discard(site)
            if self.machines[site].program is None:
                self.schedule.after(5.0, lambda: self._start_site(site))

        self._until_done(give, 1000)

    def _until_done(self, give: Callable[[Coordinator], None], tries: int = 1000) -> None:
        error = self.at_server(give)[1]
        refused = isinstance(error, (errors.OrderRefused, errors.UnknownSite))
        if error is not None and not refused and tries:
            self._trouble_until = max(self._trouble_until, self.schedule.now + 10.0)
            self.schedule.after(10.0, lambda: self._until_done(give, tries - 1))

    def _rot(self) -> None:
        for path, node in sorted(self.disks.files(SERVER).items()):
            if path.startswith("store/spool/"):
                node.content[-1] ^= 0x40
                node.mtime_ns += 1
                self.rotten.add(path.split(".")[-2])
                return

    # Programs.

    def _end(self, name: str, *, restart_s: float) -> None:
        """Kills what runs on a machine, and starts it again later."""
        machine = self.machines[name]
        program, machine.program = machine.program, None
        program.dead = True
        self.disks.end_program(program)
        self._trouble_until = max(self._trouble_until, self.schedule.now + restart_s)
        if name == SERVER:
            for waiting in program.waiting:
                self.schedule.after(0.1, waiting)
            self.schedule.after(restart_s, self._start_server)
        else:
            self.schedule.after(0.0, program.kill)
            self.schedule.after(restart_s, functools.partial(self._start_site, name))

    def _start_server(self) -> None:
        machine = self.machines[SERVER]
        if machine.program is not None:
            return
        if machine.asleep_until > self.schedule.now:
            self.schedule.at(machine.asleep_until, self._start_server)
            return
        leading = machine.program = Leading(None, None)  # type: ignore[arg-type]
        store = None
        try:
            store = Store(STORE)
            store.open_run(
                _INITIAL,
                policy=self.config.policy,
                local_epochs=self.config.local_epochs,
                aggregation=str(self.config.rule),
            )
            events = audit_log.AuditLog(
                f"{STORE}/events.jsonl", clock=functools.partial(self.clock, SERVER)
            )
            events.append("started", release="0", certificate="", settings={})
            audit_log.backfill(events, store)
            book = CredentialBook({site: hashed(secret) for site, secret in _SECRETS.items()})
            leading.store = store
            leading.lead = Coordinator(
                store,
                self.config,
                book,
                events,
                vocabulary=toy.VOCABULARY,
                clock=functools.partial(self.clock, SERVER),
                monotonic=functools.partial(self.monotonic, SERVER),
            )
        except Killed:
            return
        except (OSError, sqlite3.OperationalError):
            with contextlib.suppress(OSError, Killed):
                if store is not None:
                    store.close()
            if not leading.dead:
                self._end(SERVER, restart_s=60.0)
            return
        except Exception:
            self.fail(f"the server does not start:\n{traceback.format_exc()}")
            return
        self._progress_at = self.schedule.now
        with self.inspecting():
            self.check(self, leading)
        self._drive_soon(leading)

    def at_server(self, work: Callable[[Coordinator], Any]) -> tuple[Any, BaseException | None]:
        """Lets the server do something at once; returns its result and the error it answers."""
        machine = self.machines[SERVER]
        leading: Leading | None = machine.program
        if leading is None or leading.lead is None or machine.asleep_until > self.schedule.now:
            return None, errors.ServerUnreachable("it is down")
        try:
            return work(leading.lead), None
        except Killed:
            return None, errors.ServerUnreachable("it was killed")
        except Cut:
            return None, errors.ServerUnreachable("the call was cut off")
        except errors.FederationError as error:
            return None, error
        except Exception as error:
            told = storage_trouble(error)
            if told is None:
                self.fail(f"the server fails on a request:\n{traceback.format_exc()}")
            return None, told
        finally:
            if not leading.dead:
                self._note_version(leading)

    def _note_version(self, leading: Leading) -> None:
        version = leading.lead._run.version
        if version != leading.seen:
            leading.seen = version
            waiting, leading.waiting = leading.waiting, []
            for call in waiting:
                self.schedule.after(0.0, call)
            self._drive_soon(leading)

    def _drive_soon(self, leading: Leading, seconds: float = 0.0) -> None:
        time = self.schedule.now + seconds
        if leading.drive_at is None or time < leading.drive_at:
            leading.drive_at = time
            self.schedule.at(time, functools.partial(self._drive, leading, time))

    def _drive(self, leading: Leading, due: float) -> None:
        """Does what `Coordinator.drive` does when it wakes up."""
        if leading.dead or leading.drive_at != due:
            return None
        leading.drive_at = None
        asleep_until = self.machines[SERVER].asleep_until
        if asleep_until > self.schedule.now:
            return self._drive_soon(leading, asleep_until - self.schedule.now)
        if leading.driving:
            return self._drive_soon(leading, 1.0)
        leading.driving = True
        run = leading.lead._run
        wait_s: float | None = None
        try:
            if run.store.finished:
                return None
            wait_s = leading.lead.advance()
            leading.pauses, run.trouble = backoff.pauses(1.0), ""
        except Killed:
            return None
        except (OSError, MemoryError, sqlite3.OperationalError) as error:
            wait_s = next(leading.pauses)
            run.trouble = f"{type(error).__name__}: {error}"
        except Exception:
            self.fail(f"the server fails:\n{traceback.format_exc()}")
        finally:
            leading.driving = False
        if not leading.dead:
            self._note_version(leading)
            if wait_s is not None:
                self._drive_soon(leading, wait_s)
        return None

    def average_slowly(self, work: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Lets others go on while the server averages."""
        leading = self.machines[SERVER].program
        self.schedule.run(self.schedule.now + _AVERAGING_S, lambda: leading.dead)
        if leading.dead:
            raise Killed
        return work(*given, **named)

    def _start_site(self, site: str) -> None:
        machine = self.machines[site]
        if machine.program is not None or site in self.gone:
            return
        if machine.asleep_until > self.schedule.now:
            self.schedule.at(machine.asleep_until, functools.partial(self._start_site, site))
            return
        program = Blocking(lambda: self._run_site(site), lambda error: self._ended(site, error))
        machine.program = program
        program.begin()

    def _run_site(self, site: str) -> None:
        program = self.machines[site].program
        folder = f"{disk.ROOT}{site}/journal"

        def pause(seconds: float) -> None:
            program.block(lambda answer: self._when_awake(site, seconds, answer))

        summary = loop.run(
            Trainer(self, site),
            SiteTransport(self, site, program),
            folder,
            events=EventLog(f"{folder}/events.jsonl", clock=functools.partial(self.clock, site)),
            clock=functools.partial(self.monotonic, site),
            pause=pause,
        )
        if not summary.finished:
            self.fail(f"site {site} ends before the run does: {summary}")

    def _when_awake(self, name: str, seconds: float, event: Callable[[], None]) -> None:
        due = self.schedule.now + seconds

        def check() -> None:
            asleep_until = self.machines[name].asleep_until
            if asleep_until > self.schedule.now:
                self.schedule.at(asleep_until, check)
            else:
                event()

        self.schedule.at(due, check)

    def _ended(self, site: str, error: BaseException | None) -> None:
        machine = self.machines[site]
        if isinstance(error, Killed):
            return  # whoever killed it starts it again
        program, machine.program = machine.program, None
        self.endings[site] = "finished" if error is None else type(error).__name__
        again = functools.partial(self._start_site, site)
        if error is None:
            self.gone.add(site)
            left = sum(owner is program for _, _, owner in self.disks._open.values())
            if left:
                self.fail(f"site {site} leaves {left} files open")
        elif getattr(error, "errno", None) in (
            errno.ENOSPC,
            errno.EIO,
        ):  # people free its disk and start it again
            self._trouble_until = max(self._trouble_until, self.schedule.now + 120.0)
            self.schedule.after(120.0, again)
        elif isinstance(error, errors.UnknownSite):  # evicted; people try again
            self.schedule.after(60.0, again)
        else:
            text = "".join(traceback.format_exception(error))
            self.fail(f"site {site} ends with an error:\n{text}")
        self.disks.end_program(program)

    def beat(self, transport: SiteTransport, every_s: float, over: list[bool]) -> None:
        def send() -> None:
            if not over and not transport.program.dead:
                if self.machines[transport.site].cut_off_until <= self.schedule.now:
                    self.at_server(lambda lead: lead.site_of(transport.token))
                self._when_awake(transport.site, every_s, send)

        self._when_awake(transport.site, every_s, send)

    # The end.

    def _explain(self) -> None:
        """Nothing happens any more: the server must say why, and what it advises must help."""
        leading = self.machines[SERVER].program
        if leading is None or leading.lead is None:
            return self.fail("the server is gone")
        if leading.store.finished:
            waiting = sorted(set(self.story.sites) - self.gone)
            return self.fail(f"the run is over, but {waiting} have not heard of it")
        why, error = self.at_server(lambda lead: lead.orders.hindrance())
        if error is not None or not why:
            return self.fail(f"nothing happens and the server does not say why ({error})")
        if "No round has been averaged yet" in why:
            self.reason = why
            return None
        for site in self.story.sites:
            if f"--order=evict --site={site}" in why:
                self.gone.add(site)
                self.at_server(functools.partial(self.evict, site=site))
        if "--order=finish_now" in why:
            self.at_server(lambda lead: lead.orders.finish(immediately=True))
        self._trouble_until = self.schedule.now
        if self._advised > 3:
            self.fail(f"what the server advises does not help: {why}")
        self._advised += 1
        return None

    _advised = 0

    def _leave(self) -> None:
        """Checks what must hold at the end, and stops every program."""
        leading = self.machines[SERVER].program
        with self.inspecting():
            if leading is not None and leading.lead is not None:
                self.check_end(self, leading)

    def close(self) -> None:
        with self.inspecting():
            for machine in self.machines.values():
                if isinstance(machine.program, Blocking):
                    program, machine.program = machine.program, None
                    program.kill()
        self.databases.close()


class SiteTransport:
    """A site's end of the network; see `transport.Transport`."""

    def __init__(self, world: World, site: str, program: Blocking):
        self.site, self.program, self._world = site, program, world
        self.token = ""
        self.cut_after: int | None = None
        self.ends_early = False

    def _call(self, work: Callable[[Coordinator], Any], what: str = "", sha256: str = "") -> Any:
        """Sends a call, and returns the server's answer once it has come back.

        Args:
          what, sha256: of what a success confirms.
        """

        def confirming(lead: Coordinator) -> Any:
            result = work(lead)
            receipt = getattr(result, "receipt", result)
            if what and (not what.startswith(("round", "model")) or isinstance(receipt, Receipt)):
                world, store = self._world, lead._run.store
                too_late = what.startswith("scores") and (store.finished or store.fixed_models())
                if not too_late:
                    evictions = world.evictions.get(self.site, 0)
                    world.receipts[self.site, what] = (sha256, store.discarded, evictions)
            return result

        return self.program.block(lambda answer: self._world_call(confirming, answer))

    def _world_call(self, work: Callable[[Coordinator], Any], answer: Callable[..., None]) -> None:
        world, machine = self._world, self._world.machines[self.site]
        machine.calls += 1
        fates = {t.kind: t for t in machine.by_call.pop(machine.calls, ())}
        delay = 0.05 + world._draw.random()
        if "slow" in fates:
            delay += fates["slow"].size
            world._trouble_until = max(world._trouble_until, world.schedule.now + delay)
        back = world._draw.random()
        cut_after = next((fates[k].size for k in ("cut", "short") if k in fates), None)
        self.ends_early = "short" in fates

        def reply(value: Any = None, error: BaseException | None = None) -> None:
            world._when_awake(self.site, back, lambda: answer(value, error=error))

        def unreachable() -> None:
            error = errors.ServerUnreachable("no answer")
            world._when_awake(self.site, _TRIES_S, lambda: answer(error=error))

        def arrive(deadline: float | None = None, times: int = 2 if "repeated" in fates else 1):
            server = world.machines[SERVER]
            if machine.cut_off_until > world.schedule.now or "lost" in fates:
                return unreachable()
            if server.asleep_until > world.schedule.now:
                return world.schedule.at(server.asleep_until, arrive)
            leading = server.program
            if leading is not None and leading.lead is not None:
                run = leading.lead._run
                if run.closing and run.policy.late_updates == "keep":
                    return world.schedule.after(1.0, arrive)  # as the server makes it wait
            value = error = None
            for _ in range(times):
                self.cut_after = cut_after
                value, error = world.at_server(work)
            if isinstance(value, Task) and value.kind == "wait" and not leading.dead:
                deadline = deadline or world.schedule.now + _POLL_S
                if world.schedule.now < deadline:
                    asked = [False]

                    def again() -> None:
                        if not asked[0]:
                            asked[0] = True
                            arrive(deadline, 1)

                    leading.waiting.append(again)
                    return world.schedule.at(deadline, again)
            if "reply_lost" in fates:
                return unreachable()
            reply(value, error)
            return None

        world._when_awake(self.site, delay, arrive)

    def _cut(self, chunks: Any) -> Iterator[Any]:
        for count, chunk in enumerate(chunks):
            if self.cut_after is not None and count >= self.cut_after:
                if self.ends_early:
                    return
                raise Cut
            yield chunk

    def login(
        self, plan: dict, num_examples: int, labels: Mapping[str, str] | None = None
    ) -> Session:
        session = self._call(
            lambda lead: lead.login(
                self.site, _SECRETS[self.site], plan, num_examples, labels=labels
            )
        )
        self.token = session.token
        return session

    def next_task(self) -> Task:
        return self._call(lambda lead: lead.next_task(lead.site_of(self.token)))

    def heart_beat(self) -> None:
        raise NotImplementedError  # `World.beat` sends them

    def pull(self, model: str, path: Any, *, specs: Any = None) -> Any:
        def describe(lead: Coordinator) -> Any:
            lead.site_of(self.token)
            file, manifest = lead.open_model(model)
            file.close()
            return manifest

        manifest = self._call(describe)
        if specs is not None:
            replies.check_specs(manifest, model=model, specs=specs)
        with PartialModel(path, manifest, {"sha256": manifest.sha256}) as partial:
            missing = partial.missing()
            if missing:
                got: list[Any] = []

                def send(lead: Coordinator) -> None:
                    site = lead.site_of(self.token)
                    file, _ = lead.open_model(model, manifest.sha256)
                    got.clear()
                    with file:
                        chunks = codec.chunks(file, missing, transport=lead.transport)
                        got.extend(self._cut(chunks))
                    lead.note_pulled(site, model, nbytes=len(got), seconds=0.0)

                try:
                    self._call(send)
                finally:
                    for chunk in got:
                        partial.put(chunk)
            if partial.missing():
                raise errors.DamagedTransfer(f"model {model!r} ended early; pull the rest")
        return manifest

    def report_scores(self, model: int, scores: Mapping[str, float], *, sha256: str = "") -> None:
        self._call(
            lambda lead: lead.report_scores(lead.site_of(self.token), model, scores, sha256),
            f"scores {model}",
            sha256,
        )

    def push(
        self,
        path: Any,
        sha256: str,
        *,
        round_number: int,
        num_examples: int,
        metrics: Mapping[str, float],
        discarded: int | None = None,
        manifest: Callable[[], Any] = unknown,
    ) -> Receipt:
        return self._send(
            path,
            sha256,
            manifest=manifest,
            round=round_number,
            num_examples=num_examples,
            metrics=metrics,
            discarded=discarded,
        )

    def publish(self, path: Any, sha256: str, *, model: str) -> Receipt:
        return self._send(path, sha256, model=model)

    def _send(self, path: Any, sha256: str, **about: Any) -> Receipt:
        with offering(path, sha256, **about) as (file, offer):
            about_it = f"model {offer.model}" if offer.model else f"round {offer.round}", sha256
            answer = self._call(lambda lead: lead.offer(lead.site_of(self.token), offer), *about_it)
            receipt = answer.receipt
            if receipt is None:
                chunks = list(codec.chunks(file, answer.missing, transport="raw"))
                receipt = self._call(
                    lambda lead: lead.send(
                        lead.site_of(self.token),
                        offer,
                        self._cut(chunks),
                        lambda: lead.check_token(self.token),
                    ),
                    *about_it,
                )
        if (receipt.site, receipt.sha256) != (self.site, sha256):
            self._world.fail(f"site {self.site} gets the receipt of another: {receipt}")
        return receipt

    def declare_models(self, names: Sequence[str]) -> None:
        self._call(lambda lead: lead.declare_models(lead.site_of(self.token), names))

    def submit_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._call(lambda lead: lead.submit_rows(lead.site_of(self.token), rows), "rows")

    def close(self) -> None:
        self.token = ""


def _raise(kind: str, number: int) -> None:
    if kind == "commit" or kind == "statement":
        full = number == errno.ENOSPC
        raise sqlite3.OperationalError("database or disk is full" if full else "disk I/O error")
    raise OSError(number, os.strerror(number))


def _plain_json(value: Any, **named: Any) -> str:
    """JSON without line breaks, which the standard library writes ten times faster."""
    return json.dumps(value, allow_nan=named.get("allow_nan", True))


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
    *(coordinator, servicer),
)


@contextlib.contextmanager
def prepared() -> Iterator[Callable[[Story], World]]:
    """Yields a function that makes the world of a story; inside the block the product runs on
    simulated disks and clocks.
    """
    current: list[World] = []

    @contextlib.contextmanager
    def beating(transport: SiteTransport, every_s: float) -> Iterator[None]:
        over: list[bool] = []
        # fewer than a site would send, and still several for each time after which it is silent
        current[0].beat(transport, 5 * every_s, over)
        try:
            yield
        finally:
            over.append(True)

    module = databases.Module()
    time = types.SimpleNamespace(monotonic=lambda: current[0].monotonic(SERVER))
    average = spooled_updates.aggregate_spooled
    threads = types.SimpleNamespace(Thread=_InlineThread)
    plain = types.SimpleNamespace(
        dumps=_plain_json, loads=json.loads, JSONDecodeError=json.JSONDecodeError
    )
    replaced = [
        *((m, "CHUNK_BYTES", CHUNK_BYTES) for m in _CHUNKED),
        (database, "sqlite3", module),
        (coordinator, "time", time),
        (uploads, "time", time),
        (
            run_state,
            "VerifiedFiles",
            lambda: VerifiedFiles(
                clock=lambda: current[0].monotonic(SERVER),
                now_ns=lambda: int((EPOCH + current[0].schedule.now) * 1e9) + 1,
            ),
        ),
        (
            spooled_updates,
            "aggregate_spooled",
            lambda *given, **named: current[0].average_slowly(average, *given, **named),
        ),
        (slabs, "futures", types.SimpleNamespace(ThreadPoolExecutor=_InlinePool)),
        (journal, "threading", threads),
        (journal, "json", plain),
        (atomic, "json", plain),
        (loop, "_beating", beating),
    ]
    before = [(m, name, getattr(m, name)) for m, name, _ in replaced]
    with disk.installed() as installation:
        for m, name, value in replaced:
            setattr(m, name, value)
        try:
            schema, initial = _schema(), _initial(installation)

            def world(story: Story) -> World:
                made = World(story, schema, initial)
                current[:] = [made]
                installation.disks, module.databases = made.disks, made.databases
                return made

            yield world
        finally:
            for m, name, value in before:
                setattr(m, name, value)


def _schema() -> bytes:
    connection = sqlite3.connect(":memory:")
    if not hasattr(connection, "serialize"):  # Python 3.10
        return b""
    connection.executescript(database._SCHEMA)
    return connection.serialize()


def _initial(installation: disk.Installation) -> bytes:
    installation.disks = disk.Disks(lambda *_: None, lambda: 0, lambda machine: None)
    installation.disks.add("made")
    toy.write_initial(f"{disk.ROOT}made/initial.safetensors")
    return bytes(installation.disks.files("made")["initial.safetensors"].content)


__all__ = ["World", "prepared", "scheduler"]

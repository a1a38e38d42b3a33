"""The server of a story: opens what `serve` opens, and does what `Coordinator.drive` does, as events
of the schedule.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sqlite3
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from federated import errors
from federated.audit import backfill
from federated.audit import log as audit_log
from federated.connections.error_replies import storage_trouble
from federated.security.credentials import CredentialBook, hashed
from federated.server.coordinator import Coordinator
from federated.storage.store import Store
from runkit import backoff
from tests.federated import toy
from tests.simulated.scheduler import Killed
from tests.simulated.story import SERVER
from tests.simulated.world import INITIAL, SECRETS, STORE, World

_AVERAGING_S = 5.0


class Cut(Exception):
    """A transfer ends here."""


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


class Server:
    """Starts the server's program and lets it work.

    Args:
      check: called each time it has started.
    """

    def __init__(self, world: World, check: Callable[[World, Leading], None]):
        self._world, self._machine, self._check = world, world.machines[SERVER], check

    @property
    def leading(self) -> Leading | None:
        """The program, None while it is down or has not started yet."""
        leading: Leading | None = self._machine.program
        return leading if leading is not None and leading.lead is not None else None

    def start(self) -> None:
        world, machine = self._world, self._machine
        if machine.program is not None:
            return
        if machine.asleep_until > world.schedule.now:
            world.schedule.at(machine.asleep_until, self.start)
            return
        leading = machine.program = Leading(None, None)  # type: ignore[arg-type]
        clock = functools.partial(world.clock, SERVER)
        store = None
        try:
            store = Store(STORE)
            store.open_run(
                INITIAL,
                policy=world.config.policy,
                local_epochs=world.config.local_epochs,
                aggregation=str(world.config.rule),
            )
            events = audit_log.AuditLog(f"{STORE}/events.jsonl", clock=clock)
            events.append("started", release="0", certificate="", settings={})
            backfill.complete(events, store)
            leading.store = store
            leading.lead = Coordinator(
                store,
                world.config,
                CredentialBook({site: hashed(secret) for site, secret in SECRETS.items()}),
                events,
                vocabulary=toy.VOCABULARY,
                clock=clock,
                monotonic=functools.partial(world.monotonic, SERVER),
            )
        except Killed:
            return
        except (OSError, sqlite3.OperationalError):
            with contextlib.suppress(OSError, Killed):
                if store is not None:
                    store.close()
            if not leading.dead:
                world.kill(SERVER, restart_s=60.0)
            return
        except Exception:
            world.fail(f"the server does not start:\n{traceback.format_exc()}")
            return
        world.progress_at = world.schedule.now
        with world.inspecting():
            self._check(world, leading)
        self._drive_soon(leading)

    def killed(self, program: Leading) -> None:
        for waiting in program.waiting:
            self._world.schedule.after(0.1, waiting)

    def do(self, work: Callable[[Coordinator], Any]) -> tuple[Any, BaseException | None]:
        """Lets the server do something at once; returns its result and the error it answers."""
        world, leading = self._world, self.leading
        if leading is None or self._machine.asleep_until > world.schedule.now:
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
                world.fail(f"the server fails on a request:\n{traceback.format_exc()}")
            return None, told
        finally:
            if not leading.dead:
                self._note_version(leading)

    def average_slowly(self, work: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Lets others go on while the server averages."""
        leading, schedule = self._machine.program, self._world.schedule
        schedule.run(schedule.now + _AVERAGING_S, lambda: leading.dead)
        if leading.dead:
            raise Killed
        return work(*given, **named)

    def _note_version(self, leading: Leading) -> None:
        version = leading.lead._run.version
        if version != leading.seen:
            leading.seen = version
            waiting, leading.waiting = leading.waiting, []
            for call in waiting:
                self._world.schedule.after(0.0, call)
            self._drive_soon(leading)

    def _drive_soon(self, leading: Leading, seconds: float = 0.0) -> None:
        time = self._world.schedule.now + seconds
        if leading.drive_at is None or time < leading.drive_at:
            leading.drive_at = time
            self._world.schedule.at(
                time,
                functools.partial(self._drive, leading, time),
                functools.partial(self._may_average, leading),
            )

    @staticmethod
    def _may_average(leading: Leading) -> bool:
        """Whether `_drive` may close a round: one with fewer updates than the minimum stays open."""
        run = leading.lead._run
        least = run.policy.min_num_clients
        return run.stale or (run.round is not None and len(run.round.received) >= least)

    def _drive(self, leading: Leading, due: float) -> None:
        """Does what `Coordinator.drive` does when it wakes up."""
        if leading.dead or leading.drive_at != due:
            return None
        leading.drive_at = None
        asleep_s = self._machine.asleep_until - self._world.schedule.now
        if asleep_s > 0:
            return self._drive_soon(leading, asleep_s)
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
            self._world.fail(f"the server fails:\n{traceback.format_exc()}")
        finally:
            leading.driving = False
        if not leading.dead:
            self._note_version(leading)
            if wait_s is not None:
                self._drive_soon(leading, wait_s)
        return None

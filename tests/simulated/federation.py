"""A federation in a story: one server, its sites, their disks, clocks and network, in one process.

What runs is the product's coordinator, store, log, site loop and journal. In place of gRPC there is
`network`, and in place of `serve` the few lines of `server` that open what it opens.
"""

from __future__ import annotations

import functools

from tests.simulated import disk_troubles, invariants
from tests.simulated.orders import Operator
from tests.simulated.scheduler import Blocking
from tests.simulated.server import Server
from tests.simulated.site import Site
from tests.simulated.story import BY_CALL, BY_OPERATION, SERVER, Story, Trouble
from tests.simulated.world import World

_QUIET_S = 2 * 3600.0  # without progress and without trouble: then nothing more will happen
_LONGEST_S = 40 * 24 * 3600.0


class Federation:
    """Plays one story.

    Args:
      initial: see `World`.
    Attributes:
      world: the parties' machines, and what has been found.
    """

    def __init__(self, story: Story, initial: bytes):
        self.story = story
        self.world = World(story, initial, disk_troubles.striking)
        self.server = Server(self.world, invariants.check)
        self._operator = Operator(self.world, self.server)
        self.world.parties.update(
            {name: Site(self.world, self.server, name) for name in story.sites},
            **{SERVER: self.server},
        )
        self._facts: tuple = ()

    def play(self) -> None:
        """Plays the story to its end; `world.violation` then tells what does not hold."""
        world = self.world
        for trouble in self.story.troubles:
            machine = world.machines[trouble.party]
            if trouble.kind in BY_OPERATION:
                machine.by_operation.setdefault(trouble.at, []).append(trouble)
            elif trouble.kind in BY_CALL:
                machine.by_call.setdefault(trouble.at, []).append(trouble)
            else:
                world.schedule.at(trouble.at, functools.partial(self._strike, trouble))
        self.server.start()
        late = {t.party: t.at for t in self.story.troubles if t.kind == "late"}
        for site in self.story.sites:
            world.schedule.at(late.get(site, 0.0), world.parties[site].start)
        while world.violation is None and not self._over():
            world.schedule.run(world.schedule.now + _QUIET_S / 4, self._over)
            if world.violation is not None or self._over():
                break
            self._note_progress()
            if not self._coming_back():
                self._operator.follow_advice()
                if world.reason:
                    break
            if world.schedule.now > _LONGEST_S:
                world.fail("goes on for ever")
        if world.violation is None and self.server.leading is not None:
            with world.inspecting():
                invariants.check_end(world, self.server.leading)

    def close(self) -> None:
        """Stops every program."""
        with self.world.inspecting():
            for machine in self.world.machines.values():
                if isinstance(machine.program, Blocking):
                    program, machine.program = machine.program, None
                    program.kill()
                    self.world.schedule.settle()
        self.world.databases.close()

    def _note_progress(self) -> None:
        """Another login or another attempt at a round is no progress."""
        leading = self.server.leading
        if leading is None:
            return
        with self.world.inspecting():
            store = leading.store
            facts = (
                *(store.globals(), store.counted_updates(), store.scores(), store.models()),
                *(store.declared(), store.reported(), store.finished, store.discarded),
                store.paused,
            )
        if facts != self._facts:
            self._facts, self.world.progress_at = facts, self.world.schedule.now

    def _over(self) -> bool:
        world = self.world
        if world.violation is not None:
            return True
        if not world.gone.issuperset(self.story.sites):
            return False
        leading = self.server.leading
        if leading is None or leading.driving:
            return False
        with world.inspecting():
            finished = bool(leading.store.finished)
        return finished or not self._coming_back()

    def _coming_back(self) -> bool:
        """Whether a trouble or the last progress still explains that nothing happens."""
        world = self.world
        return world.schedule.now <= max(world.trouble_until, world.progress_at) + _QUIET_S

    def _strike(self, trouble: Trouble) -> None:
        """Lets a trouble come whose time has come."""
        world, size = self.world, trouble.size
        machine = world.machines[trouble.party]
        world.trouble_for(abs(size))
        if trouble.kind == "stop":
            if machine.program is not None:
                world.kill(trouble.party, restart_s=size)
        elif trouble.kind == "sleep":
            machine.asleep_until = max(machine.asleep_until, world.schedule.now + size)
            machine.slept += size
        elif trouble.kind == "clock":
            machine.ahead += size
        elif trouble.kind == "partition":
            machine.cut_off_until = world.schedule.now + size
        elif trouble.kind == "rot":
            disk_troubles.rot(world)
        elif trouble.kind != "late":
            self._operator.order(trouble)

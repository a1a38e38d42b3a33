"""The operator of a story: gives the orders it asks for, and follows the server's advice."""

from __future__ import annotations

import functools
from collections.abc import Callable

from federated import errors
from federated.server.coordinator import Coordinator
from tests.simulated.server import Server
from tests.simulated.story import Trouble
from tests.simulated.world import World

_MOST_ADVICE = 4  # pieces of advice that may be needed until the run goes on


class Operator:
    """Gives orders, again a little later if one cannot be carried out now."""

    def __init__(self, world: World, server: Server):
        self._world, self._server = world, server
        self._advised = 0

    def order(self, trouble: Trouble) -> None:
        """Gives an order of the story."""
        world, kind, site = self._world, trouble.kind, trouble.party

        def give(lead: Coordinator) -> None:
            if kind == "evict":
                self._evict(lead, site)
                if trouble.size:
                    world.schedule.after(trouble.size, lambda: self._readmit(site))
                else:
                    world.gone.add(site)
            elif kind == "pause":
                lead.orders.pause()
                world.schedule.after(
                    trouble.size, lambda: self._until_done(lambda lead: lead.orders.resume())
                )
            elif kind == "discard":
                lead.orders.discard_round(trouble.size)
            elif kind == "finish":
                first = max(lead._run.store.globals()) == 0
                lead.orders.finish(immediately=bool(trouble.size) and not first)

        # A server that is killed may have evicted a site, or paused the run, before it could say so:
        # it is asked until it answers, or nobody would readmit that site or resume the run.
        self._until_done(give, 1000 if kind in ("evict", "pause") else 20)

    def follow_advice(self) -> None:
        """Nothing happens any more: the server must say why, and what it advises must help."""
        world, leading = self._world, self._server.leading
        if leading is None:
            return world.fail("the server is gone")
        with world.inspecting():
            finished = leading.store.finished
        if finished:
            waiting = sorted(set(world.story.sites) - world.gone)
            return world.fail(f"the run is over, but {waiting} have not heard of it")
        why, error = self._server.do(lambda lead: lead.orders.hindrance())
        if error is not None or not why:
            return world.fail(f"nothing happens and the server does not say why ({error})")
        if "No round has been averaged yet" in why:
            world.reason = why
            return None
        for site in world.story.sites:
            if f"--order=evict --site={site}" in why:
                world.gone.add(site)
                self._server.do(functools.partial(self._evict, site=site))
        if "--order=finish_now" in why:
            self._server.do(lambda lead: lead.orders.finish(immediately=True))
        world.trouble_for(0.0)
        self._advised += 1
        if self._advised > _MOST_ADVICE:
            world.fail(f"what the server advises does not help: {why}")
        return None

    def _evict(self, lead: Coordinator, site: str) -> None:
        self._world.evictions[site] = self._world.evictions.get(site, 0) + 1
        lead.orders.evict(site)

    def _readmit(self, site: str) -> None:
        world = self._world

        def give(lead: Coordinator) -> None:
            lead.orders.readmit(site)
            world.gone.discard(site)
            if world.machines[site].program is None:
                world.schedule.after(5.0, world.parties[site].start)

        self._until_done(give)

    def _until_done(self, give: Callable[[Coordinator], None], tries: int = 1000) -> None:
        error = self._server.do(give)[1]
        refused = isinstance(error, (errors.OrderRefused, errors.UnknownSite))
        if error is not None and not refused and tries:
            self._world.trouble_for(10.0)
            self._world.schedule.after(10.0, lambda: self._until_done(give, tries - 1))

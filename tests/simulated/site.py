"""A site of a story: the product's loop and journal, in a program that is started again."""

from __future__ import annotations

import errno
import functools
import traceback

import numpy as np

from federated import errors
from federated.site import loop
from federated.site.answers import AnswerLimits
from runkit.events import EventLog
from tests.federated import toy
from tests.simulated import disk
from tests.simulated.network import SiteTransport
from tests.simulated.scheduler import Blocking, Killed
from tests.simulated.server import Server
from tests.simulated.world import EXAMPLES, Trained, World, bytes_of, digest_of

# A story may discard rounds as often as it likes.
_LIMITS = AnswerLimits(max_updates=1000, max_scored_models=1000, max_evaluated_models=256)
_STEP = {"C1": 0.25, "C2": -0.5, "C3": 1.0}


class Trainer(toy.ToyTrainer):
    """Halves the weights and adds a step; every training gives other numbers, as a real one does."""

    def __init__(self, place: Site):
        super().__init__(place.name)
        self._place, self.num_examples = place, EXAMPLES[place.name]

    def train(self, weights, round_number):
        number = self._place.next_training()
        base = bytes_of(weights)
        step = np.float32(_STEP[self.site] * round_number + number / 1024)
        arrays = {
            name: (array * np.float32(0.5) + step).astype(np.float32)
            for name, array in weights.items()
        }
        self._place.note_trained(Trained(self.site, round_number, base, arrays, number))
        return arrays, {"loss": 1.0 / round_number}

    def evaluate(self, model_name, weights):
        return super().evaluate(model_name, weights)[:1]


class Site:
    """Starts a site's program, and again after what people would mend."""

    def __init__(self, world: World, server: Server, name: str):
        self.name, self._world, self._server = name, world, server
        self._machine = world.machines[name]

    def start(self) -> None:
        world, machine = self._world, self._machine
        if machine.program is not None or self.name in world.gone:
            return
        if machine.asleep_until > world.schedule.now:
            world.schedule.at(machine.asleep_until, self.start)
            return
        program = machine.program = Blocking(world.schedule, self._run, self._ended)
        program.begin()

    def killed(self, program: Blocking) -> None:
        self._world.schedule.after(0.0, program.kill)

    def next_training(self) -> int:
        """Returns the number of a training that begins."""
        self._world.trainings += 1
        return self._world.trainings

    def note_trained(self, update: Trained) -> None:
        world, leading = self._world, self._server.leading
        confirmed = world.receipts.get((update.site, f"round {update.round}"))
        if confirmed and leading is not None and not world.rotten:
            with world.inspecting():
                now = leading.store.discarded, world.evictions.get(update.site, 0)
            if confirmed[1:] == now:
                world.fail(f"lost receipt: {update.site} trains round {update.round} again")
        world.trained[digest_of(update.arrays)] = update

    def _run(self) -> None:
        world, program = self._world, self._machine.program
        folder = f"{disk.ROOT}{self.name}/journal"

        def pause(seconds: float) -> None:
            program.block(lambda answer: world.when_awake(self.name, seconds, answer))

        summary = loop.run(
            Trainer(self),
            SiteTransport(world, self._server, self.name, program),
            folder,
            limits=_LIMITS,
            events=EventLog(
                f"{folder}/events.jsonl", clock=functools.partial(world.clock, self.name)
            ),
            clock=functools.partial(world.monotonic, self.name),
            pause=pause,
        )
        if not summary.finished:
            world.fail(f"site {self.name} ends before the run does: {summary}")

    def _ended(self, error: BaseException | None) -> None:
        if isinstance(error, Killed):
            return  # whoever killed it starts it again
        world, site = self._world, self.name
        program, self._machine.program = self._machine.program, None
        world.endings[site] = "finished" if error is None else type(error).__name__
        if error is None:
            world.gone.add(site)
            left = sum(owner is program for _, _, owner in world.disks._open.values())
            if left:
                world.fail(f"site {site} leaves {left} files open")
        elif getattr(error, "errno", None) in (errno.ENOSPC, errno.EIO):
            world.trouble_for(120.0)
            world.schedule.after(120.0, self.start)  # people free its disk and start it again
        elif isinstance(error, errors.UnknownSite):
            world.schedule.after(60.0, self.start)  # evicted; people try again
        else:
            text = "".join(traceback.format_exception(error))
            world.fail(f"site {site} ends with an error:\n{text}")
        world.disks.end_program(program)

"""Plays the stories of many seeds, and finds the shortest that still shows a failure."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.queues import Queue

from absl import logging

from tests.simulated import planted, stand_ins
from tests.simulated.story import Story, of_seed, shrunk

_COLLECT_AFTER = (
    100_000  # new objects; a story makes few cycles, so to look for them often is waste
)


@dataclasses.dataclass(frozen=True)
class Failure:
    """A story in which something does not hold."""

    story: Story
    what: str

    @property
    def kind(self) -> str:
        """The first line without its numbers, so that a shorter story can show the same."""
        lines = self.what.strip().splitlines()
        told = lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"
        return re.sub(r"[\[{(].*|\bC\d\b|[0-9a-f]{16}|\d+", "", told)

    def __str__(self) -> str:
        return f"{self.story}\n  => {self.what}"


Play = Callable[[Story], Failure | None]


@contextlib.contextmanager
def playing(fault: str = "") -> Iterator[Play]:
    """Yields a function that plays a story and returns what does not hold, or None.

    Args:
      fault: name of one of `planted.FAULTS`.
    """
    thresholds = gc.get_threshold()
    gc.freeze()  # or every collection would look through all that was imported
    gc.set_threshold(_COLLECT_AFTER, *thresholds[1:])
    planting = planted.planted(fault) if fault else contextlib.nullcontext()
    try:
        with _silent(), planting, stand_ins.prepared() as federation_of:

            def play(story: Story) -> Failure | None:
                federation = federation_of(story)
                try:
                    federation.play()
                except Exception:
                    federation.world.fail(f"the harness fails:\n{traceback.format_exc()}")
                finally:
                    federation.close()
                found = federation.world.violation
                return None if found is None else Failure(story, str(found))

            yield play
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Inside the block, what is logged for people is not even written and then dropped."""
    with contextlib.ExitStack() as stack:
        for name in ("debug", "info", "warning", "error"):
            stack.callback(setattr, logging, name, getattr(logging, name))
            setattr(logging, name, lambda *_, **__: None)
        yield


def failures(play: Play, seeds: Iterable[int]) -> Iterator[Failure | None]:
    """Yields what each seed's story shows."""
    for seed in seeds:
        yield play(of_seed(seed))


def shortest(play: Play, failure: Failure) -> Failure:
    """Returns a failure of the same kind from which nothing can be left out."""
    found = [failure]

    def fails(story: Story) -> bool:
        shown = play(story)
        if shown is None or shown.kind != failure.kind:
            return False
        found.append(shown)
        return True

    shrunk(failure.story, fails)
    return found[-1]


def on_one_processor(numbers: Queue[int]) -> None:
    """Keeps this process on the next of some processors, where the system can.

    Of its threads only one runs at a time; to wake one on another processor costs four times as much.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {numbers.get()})


def block(seeds: range) -> tuple[range, list[tuple[int, str]]]:
    """Returns `seeds`, and (seed, the shortest story that shows it) of each failure among them."""
    with playing() as play:
        found = [failure for failure in failures(play, seeds) if failure is not None]
        return seeds, [(f.story.seed, str(shortest(play, f))) for f in found]

"""What happens to a federation, as a value: its settings and its troubles. A seed gives one."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator
from typing import Any

SITES = ("C1", "C2", "C3")
SERVER = "server"

# What a trouble's `at` counts: the site's calls, operations on the party's disk, or seconds.
BY_CALL = ("lost", "reply_lost", "repeated", "cut", "short", "slow")
BY_OPERATION = ("kill", "error", "full")
BY_TIME = (
    *("stop", "sleep", "clock", "partition", "late", "rot"),
    *("evict", "pause", "discard", "finish"),
)


@dataclasses.dataclass(frozen=True)
class Trouble:
    """One thing that goes wrong, or that the operator orders.

    Attributes:
      kind: see `MEANING`.
      party: whom it happens to: a site, or `SERVER`.
      at: when; what it counts follows from the kind.
      size: how much: seconds, or chunks of a transfer, or the number of a round.
    """

    kind: str
    party: str
    at: int
    size: int = 0

    def __str__(self) -> str:
        counted = (
            f"call {self.at}"
            if self.kind in BY_CALL
            else f"disk operation {self.at}"
            if self.kind in BY_OPERATION
            else f"{self.at} s"
        )
        return f"{counted}: {self.party}: {MEANING[self.kind].format(self.size)}"


MEANING = {
    "lost": "the call does not arrive",
    "reply_lost": "the reply is lost",
    "repeated": "the call arrives twice",
    "cut": "the transfer is cut after {} chunks",
    "short": "the transfer ends after {} chunks, as if it were whole",
    "slow": "the call takes {} s",
    "kill": "killed, and started again after {} s",
    "error": "an input/output error",
    "full": "the disk is full for {} s",
    "stop": "killed, and started again after {} s",
    "sleep": "the machine sleeps for {} s",
    "clock": "the clock is set by {} s",
    "partition": "cut off for {} s",
    "late": "starts only now",
    "rot": "a byte of an update that the server holds changes",
    "evict": "evicted, and readmitted after {} s (0: never)",
    "pause": "the operator pauses the run for {} s",
    "discard": "the operator discards round {} and those after it",
    "finish": "the operator ends the run (1: without the open round)",
}


@dataclasses.dataclass(frozen=True)
class Story:
    """A federation's settings and its troubles.

    Attributes:
      seed: gives the small delays of calls too.
      settings: of `ServerConfig`.
    """

    seed: int
    sites: tuple[str, ...]
    settings: dict[str, Any]
    troubles: tuple[Trouble, ...]

    def __str__(self) -> str:
        settings = " ".join(f"{name}={value}" for name, value in self.settings.items())
        lines = [f"seed {self.seed}: {', '.join(self.sites)}; {settings}"]
        return "\n".join([*lines, *(f"  {trouble}" for trouble in self.troubles)])


def of_seed(seed: int) -> Story:
    """Returns the story of a seed; the first seeds have no troubles."""
    draw = random.Random(seed)
    sites = SITES[: draw.choice((1, 1, 2, 2, 2, 2, 2, 3))]
    minimum = draw.randint(1, len(sites))
    rounds = draw.choice((1, 1, 2, 2, 2, 3))
    settings: dict[str, Any] = {
        "num_rounds": rounds,
        "min_num_clients": minimum,
        "max_num_clients": len(sites),
        "cross_site_evaluation": draw.random() < 0.2,
        "wait_after_min_clients_s": draw.choice((0.0, 0.0, 60.0, 600.0)),
        "late_updates": draw.choice(("discard", "keep")),
        "keep_updates": draw.choice((0, 1, 1)),
        "keep_globals": draw.choice((0, 0, 2)),
    }
    if draw.random() < 0.3:
        settings["round_deadline_s"] = draw.choice((300.0, 1800.0))
    if draw.random() < 0.2:
        settings["aggregation"] = "fedavgm:momentum=0.5"
    if draw.random() < 0.2:
        settings["token_lifetime_s"] = 600.0
    count = 0 if seed < 10 else min(6, 1 + int(draw.expovariate(0.6)))
    troubles = [_trouble(draw, sites, rounds) for _ in range(count)]
    return Story(seed, sites, settings, tuple(sorted(troubles, key=lambda t: (t.at, t.kind))))


_WEIGHTS = {
    "lost": 2,
    "reply_lost": 4,
    "repeated": 3,
    "cut": 4,
    "short": 4,
    "slow": 2,
    "kill": 10,
    "error": 5,
    "full": 4,
    "stop": 4,
    "sleep": 3,
    "clock": 3,
    "partition": 2,
    "late": 2,
    "rot": 1,
    "evict": 4,
    "pause": 1,
    "discard": 3,
    "finish": 1,
}
_SECONDS = (1, 30, 300, 1500, 4000)


def _trouble(draw: random.Random, sites: tuple[str, ...], rounds: int) -> Trouble:
    kind = draw.choices(tuple(_WEIGHTS), tuple(_WEIGHTS.values()))[0]
    party = draw.choice(sites)
    size = draw.choice(_SECONDS)
    if kind in BY_CALL:
        size = draw.randint(0, 3) if kind in ("cut", "short") else size
        return Trouble(kind, party, draw.randint(1, 9 * rounds + 6), size)
    if kind in BY_OPERATION:
        if draw.random() < 0.6:
            return Trouble(kind, SERVER, draw.randint(1, 210 * rounds + 165), size)
        return Trouble(kind, party, draw.randint(1, 110 * rounds + 60), size)
    if kind in ("sleep", "clock", "stop") and draw.random() < 0.5:
        party = SERVER
    if kind == "clock":
        size = draw.choice((-3600, 3600))
    elif kind == "discard":
        size = draw.randint(1, rounds)
    elif kind == "finish":
        size = draw.randint(0, 1)
    elif kind == "evict":
        size = draw.choice((0, 1, 30, 300))
    elif kind == "rot":
        party = SERVER
    at = int(draw.choice((1, 10, 100, 1000)) * draw.random()) + int(20 * rounds * draw.random())
    return Trouble(kind, party, at, size)


def shrunk(story: Story, fails: Callable[[Story], bool]) -> Story:
    """Returns a story that still fails and from which nothing can be left out.

    Args:
      fails: whether a story still shows the same failure.
    """
    while True:
        for simpler in _simpler(story):
            if fails(simpler):
                story = simpler
                break
        else:
            return story


def _simpler(story: Story) -> Iterator[Story]:
    for index in range(len(story.troubles)):
        troubles = story.troubles[:index] + story.troubles[index + 1 :]
        yield dataclasses.replace(story, troubles=troubles)
    plain = {
        "cross_site_evaluation": False,
        "late_updates": "discard",
        "keep_updates": 1,
        "keep_globals": 0,
        "wait_after_min_clients_s": 0.0,
    }
    for name in story.settings:
        if name in ("round_deadline_s", "aggregation", "token_lifetime_s"):
            left = {key: value for key, value in story.settings.items() if key != name}
            yield dataclasses.replace(story, settings=left)
        elif name in plain and story.settings[name] != plain[name]:
            settings = {**story.settings, name: plain[name]}
            yield dataclasses.replace(story, settings=settings)
    if story.settings["num_rounds"] > 1:
        settings = {**story.settings, "num_rounds": story.settings["num_rounds"] - 1}
        yield dataclasses.replace(story, settings=settings)
    last = story.sites[-1]
    if len(story.sites) > 1 and all(trouble.party != last for trouble in story.troubles):
        count = len(story.sites) - 1
        least = min(story.settings["min_num_clients"], count)
        settings = {**story.settings, "max_num_clients": count, "min_num_clients": least}
        yield dataclasses.replace(story, sites=story.sites[:-1], settings=settings)

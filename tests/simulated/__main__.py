"""A whole federation under one seed: coordinator, store and sites in virtual time, with a network
that loses, repeats and cuts calls, disks that fill up and fail, machines that sleep, clocks that are
set, kills, orders of the operator, late and returning sites.

    .venv/py3.11/bin/python -m tests.simulated --seeds=100000
    .venv/py3.11/bin/python -m tests.simulated --seeds=1000 --first=50000     resume at a seed
    .venv/py3.11/bin/python -m tests.simulated --seed=4711                    tell one story
    .venv/py3.11/bin/python -m tests.simulated --planted                      are known faults found?

A seed gives the story. A seed that fails is printed with the shortest story that shows the same;
the exit code is then 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.queues
import os
import sys
import time

from tests.simulated import found, planted, playing
from tests.simulated.story import of_seed

_BLOCK = 250  # seeds that a process plays before it reports
_PROCESSORS = (
    sorted(os.sched_getaffinity(0))
    if hasattr(os, "sched_getaffinity")
    else list(range(os.cpu_count() or 1))
)
_SAMPLE = 20  # seeds played first, to tell the cost


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=len(_PROCESSORS))
    parser.add_argument("--seed", type=int, help="play this one and tell its story")
    parser.add_argument("--planted", action="store_true", help="plant known faults, one at a time")
    parser.add_argument("--only", choices=planted.FAULTS, action="append")
    flags = parser.parse_args()
    if flags.seed is not None:
        return _tell(flags.seed)
    if flags.planted:
        return _plant(flags.only or list(planted.FAULTS), flags.first, flags.seeds)
    return _play_all(range(flags.first, flags.first + flags.seeds), flags.processes)


def _tell(seed: int) -> int:
    with playing.playing() as play:
        failure = play(of_seed(seed))
        print(of_seed(seed))
        if failure is None:
            print("  everything holds")
            return 0
        print(f"  => {failure.what}\n\nthe shortest that shows the same:")
        print(playing.shortest(play, failure))
        return 1


def _play_all(seeds: range, processes: int) -> int:
    with playing.playing() as play:
        began = time.process_time()
        for seed in range(_SAMPLE):
            play(of_seed(seed))
        each_s = (time.process_time() - began) / _SAMPLE
    total_s = each_s * len(seeds)
    print(
        f"{len(seeds)} seeds from {seeds.start} on: {each_s * 1e3:.1f} ms of a processor each, "
        f"{total_s / 60:.1f} min in all, {total_s / processes / 60:.1f} min in {processes} "
        "processes that have a processor of their own",
        flush=True,
    )
    blocks = [seeds[start : start + _BLOCK] for start in range(0, len(seeds), _BLOCK)]
    began, done, failed = time.monotonic(), 0, list[int]()
    context = multiprocessing.get_context("spawn")
    numbers: multiprocessing.queues.Queue[int] = context.Queue()
    for number in range(processes):
        numbers.put(_PROCESSORS[number % len(_PROCESSORS)])
    with context.Pool(processes, playing.on_one_processor, (numbers,)) as pool:
        for block, shown in pool.imap(playing.block, blocks):
            done += len(block)
            for seed, text in shown:
                failed.append(seed)
                print(text, flush=True)
            if done % (10 * _BLOCK) == 0 or done == len(seeds):
                spent = time.monotonic() - began
                print(
                    f"  {done} done, {len(failed)} failed, {spent:.0f} s; go on with "
                    f"--first={block.stop}",
                    flush=True,
                )
    print(f"{len(seeds)} seeds, {len(failed)} failures: {failed or 'everything holds'}")
    return bool(failed)


def _plant(names: list[str], first: int, count: int) -> int:
    print(
        f"{len(names)} faults, up to {count} seeds each until one shows it, then the kept stories",
        flush=True,
    )
    missed = []
    for name in names:
        with playing.playing(name) as play:
            shown = next(filter(None, playing.failures(play, range(first, first + count))), None)
            where = "a kept story" if shown is None else f"seed {shown.story.seed}"
            if shown is None:
                kept = (story for stories in found.STORIES.values() for story in stories)
                shown = next(filter(None, map(play, kept)), None)
        if shown is None:
            missed.append(name)
            print(f"{name}: NOT FOUND", flush=True)
        else:
            print(f"{name}: {where}: {shown.kind.strip()}", flush=True)
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())

"""Worker processes that end with the process that started them, however that one ends."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any


class Pool:
    """A process pool whose workers never see Ctrl-C: the process that started them decides when
    they end.
    """

    def __init__(self, executor: concurrent.futures.ProcessPoolExecutor):
        self._executor = executor

    def submit(self, function: Callable, *arguments: Any) -> concurrent.futures.Future:
        # A worker is started here, and inherits the mask: otherwise the terminal's SIGINT reaches
        # it too, and it prints a stack trace.
        with _without_interrupts():
            return self._executor.submit(function, *arguments)


@contextlib.contextmanager
def pool(
    count: int, *, initializer: Callable | None = None, initargs: tuple = ()
) -> Iterator[Pool]:
    """Yields a pool of `count` processes.

    At the end of the block it waits for what they are doing; where an error or Ctrl-C ends the
    block they are ended at once. When this process is terminated or killed, they end too: each
    holds one end of a pipe, and the other end is closed with this process.
    """
    # spawn: a forked child of a process that runs TensorFlow can hang on a lock held at the fork
    context = multiprocessing.get_context("spawn")
    held, leash = context.Pipe(duplex=False)
    executor = concurrent.futures.ProcessPoolExecutor(
        count, mp_context=context, initializer=_start, initargs=(held, initializer, initargs)
    )
    try:
        yield Pool(executor)
    except BaseException:
        leash.close()
        raise
    finally:
        executor.shutdown(cancel_futures=True)
        leash.close()
        held.close()


def results(function: Callable, jobs: Sequence[tuple], workers: int) -> Iterator[tuple[int, Any]]:
    """Yields the number and the result of each job as it ends, `jobs` being the arguments of each;
    None for one that kills its process.

    A killed process ends the pool. What was under way is then done again one by one, so that the
    job which kills its process is known and stops no other.
    """
    waiting = list(enumerate(jobs))[::-1]
    while waiting:
        running: dict[concurrent.futures.Future, tuple[int, tuple]] = {}
        with (
            contextlib.suppress(concurrent.futures.process.BrokenProcessPool),
            pool(min(workers, len(waiting))) as together,
        ):
            while waiting or running:
                while waiting and len(running) < workers:
                    running[together.submit(function, *waiting[-1][1])] = waiting[-1]
                    waiting.pop()
                for future in concurrent.futures.wait(
                    running, return_when=concurrent.futures.FIRST_COMPLETED
                ).done:
                    result = future.result()
                    yield running.pop(future)[0], result
        for number, arguments in running.values():
            result = None
            with (
                contextlib.suppress(concurrent.futures.process.BrokenProcessPool),
                pool(1) as alone,
            ):
                result = alone.submit(function, *arguments).result()
            yield number, result


def _start(
    held: multiprocessing.connection.Connection, initializer: Callable | None, initargs: tuple
) -> None:
    threading.Thread(target=_end_with, args=(held,), name="leash", daemon=True).start()
    if initializer is not None:
        initializer(*initargs)


def _end_with(held: multiprocessing.connection.Connection) -> None:
    held.poll(None)  # nothing is ever sent: it returns when the other end is closed
    os._exit(1)


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

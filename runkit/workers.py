"""Worker processes that end when their parent ends, even if the parent is killed."""

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
from typing import TypeVar

Result = TypeVar("Result")


class Pool:
    """A process pool whose workers never receive Ctrl-C: their parent decides when they end."""

    def __init__(self, executor: concurrent.futures.ProcessPoolExecutor):
        self._executor = executor

    def submit(
        self, function: Callable[..., Result], *arguments: object
    ) -> concurrent.futures.Future[Result]:
        """Runs `function(*arguments)` in a worker."""
        # Workers are started here and inherit the signal mask. Without it, the terminal's SIGINT
        # would reach them too, and each would print a stack trace.
        with _without_interrupts():
            return self._executor.submit(function, *arguments)


@contextlib.contextmanager
def pool(
    count: int, *, initializer: Callable | None = None, initargs: tuple = ()
) -> Iterator[Pool]:
    """Yields a pool of `count` processes.

    The end of the block waits for running jobs; if an error or Ctrl-C ends the block, the workers
    are ended at once. They also end when this process is terminated or killed: each holds one end
    of a pipe, whose other end closes with this process.
    """
    # spawn: a forked child of a process that runs TensorFlow can hang on a lock held at the fork
    context = multiprocessing.get_context("spawn")
    worker_end, parent_end = context.Pipe(duplex=False)
    executor = concurrent.futures.ProcessPoolExecutor(
        count, mp_context=context, initializer=_start, initargs=(worker_end, initializer, initargs)
    )
    try:
        yield Pool(executor)
    except BaseException:
        parent_end.close()
        raise
    finally:
        executor.shutdown(cancel_futures=True)
        parent_end.close()
        worker_end.close()


def results(
    function: Callable[..., Result], jobs: Sequence[tuple], workers: int
) -> Iterator[tuple[int, Result | None]]:
    """Yields (index, result) of each job as it ends; the result is None if the job's process died.

    A dead process breaks the pool. The jobs that were running are then repeated one at a time, so
    that the job that kills its process is identified and does not stop the others.

    Args:
      jobs: the arguments of each call of `function`.
      workers: number of jobs at the same time, each in its own process. With 1, or a single job,
        they run in this process, one after another.
    """
    if workers <= 1 or len(jobs) <= 1:
        yield from ((number, function(*job)) for number, job in enumerate(jobs))
        return
    result: Result | None
    waiting = list(enumerate(jobs))[::-1]
    while waiting:
        running: dict[concurrent.futures.Future[Result], tuple[int, tuple]] = {}
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
    worker_end: multiprocessing.connection.Connection, initializer: Callable | None, initargs: tuple
) -> None:
    threading.Thread(
        target=_end_with_parent, args=(worker_end,), name="parent-watch", daemon=True
    ).start()
    if initializer is not None:
        initializer(*initargs)


def _end_with_parent(worker_end: multiprocessing.connection.Connection) -> None:
    worker_end.poll(None)  # nothing is ever sent: returns when the parent's end closes
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

"""Work that is repeated at intervals in its own thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def calls(
    work: Callable[[], object],
    every_s: float,
    *,
    name: str,
    over: threading.Event | None = None,
    join_s: float | None = None,
) -> Iterator[None]:
    """Calls `work` every `every_s` seconds while the block runs, first after `every_s` seconds.

    If `work` raises an error, the calls end, so `work` must handle the errors that it expects.

    Args:
      name: name of the thread.
      over: set at the end of the block, so that `work` can stop early. If `work` or anyone else
        sets it earlier, the calls end.
      join_s: how long the end of the block waits for a call in progress; None waits as long as it
        takes.
    """
    over = over or threading.Event()

    def run() -> None:
        while not over.wait(every_s):
            work()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(join_s)

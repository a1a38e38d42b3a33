"""Starts two workers, which create an empty file <process id>.worker and then wait for ever."""

from __future__ import annotations

import os
import pathlib
import sys
import threading

from runkit import interrupts, workers


def work(folder: pathlib.Path) -> None:
    (folder / f"{os.getpid()}.worker").touch()
    threading.Event().wait()


def main(folder: pathlib.Path) -> None:
    with workers.pool(2) as pool:
        for future in [pool.submit(work, folder) for _ in range(2)]:
            future.result()


if __name__ == "__main__":
    interrupts.raise_instead()
    try:
        main(pathlib.Path(sys.argv[1]))
    except KeyboardInterrupt:
        interrupts.end("stopped")

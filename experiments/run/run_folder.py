"""The folder of one run: its settings, and which stages are done and how long they took."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable
from typing import TypedDict

from experiments.results import table1_values
from experiments.results.case_rows import CaseRow
from experiments.run import processes
from experiments.run.run_cost import minutes
from runkit import atomic

_TIMES = "stages.json"
BEYOND_ROWS = "rows_beyond.jsonl"  # of the models that the paper does not have


class _Attempts(TypedDict, total=False):
    unfinished_seconds: dict[str, float]


class StageTimes(_Attempts):
    """The content of stages.json.

    Attributes:
      wall_seconds: finished stage -> its wall time.
      unfinished_seconds: unfinished stage -> the wall time of its attempts so far.
      peak_memory_bytes: the highest sum over all programs.
    """

    wall_seconds: dict[str, float]
    peak_memory_bytes: int


class RunFolder:
    """The folder of one run: its settings, and which stages are done and how long they took.

    Args:
      settings: text of the flags; a folder with other settings is refused, except that a limit of
        the GPU memory may change from start to start.
      remedy: what the refusal advises.
      programs: creates the group that starts programs, from a log folder.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        settings: str,
        remedy: str = "choose another folder with --runs (make: RUNS=...)",
        programs: Callable[[pathlib.Path], processes.ProgramGroup] = processes.ProgramGroup,
    ):
        self.folder = folder
        self._programs = programs
        self._state_file = folder / _TIMES
        self._flag_file = flag_file = folder / "run.flags"
        earlier = flag_file.read_text(encoding="utf-8") if flag_file.exists() else settings
        if _deciding(earlier) != _deciding(settings):
            old, new = set(_deciding(earlier)), set(_deciding(settings))
            raise ValueError(
                f"{folder} holds a run with other settings ({' '.join(sorted(old - new))}; "
                f"now {' '.join(sorted(new - old))}); {remedy}, or delete this one"
            )
        if not flag_file.exists():
            atomic.write_text(flag_file, settings)
        self.state = times_so_far(folder)

    def done(self, name: str) -> bool:
        """Returns whether a stage is finished."""
        return name in self.state["wall_seconds"]

    def stage(
        self,
        name: str,
        budget_s: float,
        work: Callable[[processes.ProgramGroup], None],
        *,
        checks_settings: bool = False,
    ) -> None:
        """Does `work`, unless the stage is finished. Its time includes interrupted attempts.

        Args:
          budget_s: the estimated time.
          checks_settings: whether the stage refuses settings that cannot work. If it does so before
            any stage is finished, the folder can be used again with corrected ones.
        """
        if self.done(name):
            print(
                f"{name}: done earlier, in {minutes(self.state['wall_seconds'][name])}", flush=True
            )
            return
        print(f"{name}: about {minutes(budget_s)} on two cores", flush=True)
        start = time.monotonic()
        with self._programs(self.folder / "logs") as group:
            try:
                work(group)
            except processes.ProgramFailed:
                if checks_settings and not self.state["wall_seconds"]:
                    self._flag_file.unlink()
                raise
            finally:
                self.state["peak_memory_bytes"] = max(
                    self.state["peak_memory_bytes"], group.peak_memory_bytes
                )
                spent = self.state.setdefault("unfinished_seconds", {})
                spent[name] = round(spent.get(name, 0.0) + time.monotonic() - start, 1)
                atomic.write_json(self._state_file, self.state)
        self.state["wall_seconds"][name] = self.state["unfinished_seconds"].pop(name)
        atomic.write_json(self._state_file, self.state)
        print(f"{name}: {minutes(self.state['wall_seconds'][name])}", flush=True)


def _deciding(settings: str) -> list[str]:
    """Returns the settings that must stay the same when a run is resumed."""
    return [one for one in settings.split() if not one.startswith("--gpu_memory_mib=")]


def times_so_far(folder: pathlib.Path) -> StageTimes:
    """Returns the times in a run's folder, finished or not; empty if the run has not begun."""
    file = folder / _TIMES
    return atomic.read_json(file) if file.exists() else {"wall_seconds": {}, "peak_memory_bytes": 0}


def rows_so_far(folder: pathlib.Path) -> list[CaseRow]:
    """Returns the rows in a run's folder, finished or not, of the sites in Table 1."""
    rows: list[CaseRow] = []
    for file in (folder / "server" / "rows.jsonl", folder / BEYOND_ROWS):
        if file.exists():
            rows += [
                row
                for row in table1_values.read_rows(file, any_site=True)
                if row["site"] in table1_values.SITES
            ]
    return rows

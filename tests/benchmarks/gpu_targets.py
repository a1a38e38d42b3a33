"""What the product must reach on a GPU, and whether figures of gpu_speed.py do. Computes nothing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
      name: as printed.
      function: of gpu_rows.py.
      arguments: of the function.
      batches: patches per step for which it is measured; empty for all.
      keeps: name of the folder for what XLA keeps, which the rows with this name share.
    """

    name: str
    function: str
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    batches: tuple[int, ...] = ()
    keeps: str = ""

    @property
    def half(self) -> bool:
        return "float16" in self.arguments.get("precision", "") or "amp" in self.arguments

    @property
    def deterministic(self) -> bool:
        return self.arguments.get("deterministic", True)

    @property
    def counts(self) -> bool:
        """Whether it is one of the ways to take the step that the goals compare."""
        return not {"vae", "replicas", "tf32"} & self.arguments.keys()


@dataclasses.dataclass(frozen=True)
class Goal:
    """One goal: `value` must be at most `bound`, or at least if `at_least`; None: not measured."""

    name: str
    value: float | None
    bound: float
    at_least: bool = False

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        reached = self.value >= self.bound if self.at_least else self.value <= self.bound
        return "reached" if reached else "missed"


def goals(found: Mapping[str, Mapping[str, Figures]], rows: Sequence[Row]) -> list[Goal]:
    """Returns all goals.

    Args:
      found: heading -> name of a row -> its figures, as gpu_speed.py keeps them.
      rows: the rows of the training steps.
    """

    def least(heading: str, column: str, function: str, **properties: bool) -> float | None:
        values = [
            found.get(heading, {}).get(row.name, {}).get(column)
            for row in rows
            if row.function == function
            and row.counts
            and all(getattr(row, name) == wanted for name, wanted in properties.items())
        ]
        known = [value for value in values if value is not None and not math.isnan(value)]
        return min(known, default=None)

    def figure(heading: str, name: str, column: str) -> float | None:
        return found.get(heading, {}).get(name, {}).get(column)

    listed = []
    for batch in (2, 8):
        for half, precision in ((False, "float32"), (True, "float16")):
            heading, where = f"batch {batch}", f"batch {batch}, {precision}"
            theirs = least(heading, "step_s", "pytorch", half=half)
            ours = least(heading, "step_s", "product", half=half)
            same = least(heading, "step_s", "product", half=half, deterministic=True)
            peaks = [
                least(heading, "peak_gib", function, half=half)
                for function in ("product", "pytorch")
            ]
            listed += [
                Goal(f"step of PyTorch's best, {where}", _ratio(ours, theirs), 0.95),
                Goal(f"deterministic, {where}", _ratio(same, theirs), 0.95 * 1.3),
                Goal(f"peak memory of PyTorch's, {where}", _ratio(*peaks), 0.9),
            ]
    whole, mixed = (least("batch 8", "step_s", "product", half=half) for half in (False, True))
    listed.append(Goal("float32 of mixed, batch 8", _ratio(whole, mixed), 1.4, at_least=True))
    rate = figure("demo", "a site with tumours", "patches_per_s")
    listed.append(Goal("patches per second, demo", rate, 200.0, at_least=True))
    for column, bound in (("seconds", 1.0), ("peak_gib", 0.5)):
        own = figure("mask", "ours", column)
        peer = figure("mask", "MONAI, PyTorch's network", column)
        listed.append(Goal(f"mask's {column} of MONAI's", _ratio(own, peer), bound))
    for name in ("ours, deterministic, started again", "ours, xla, started again"):
        seconds = figure("batch 2", name, "second_step_s")
        listed.append(Goal(f"start to second step, s: {name}", seconds, 30.0))
    share = figure("feeding", "ours, paper's profile", "data_wait_share")
    return [*listed, Goal("share of waiting for patches", share, 0.02)]


def table(goals: Sequence[Goal]) -> list[str]:
    """Returns the goals as a Markdown table."""
    lines = ["| goal | measured | bound | |", "|---|---|---|---|"]
    for goal in goals:
        value = "" if goal.value is None else f"{goal.value:.3g}"
        bound = f"{'at least' if goal.at_least else 'at most'} {goal.bound:.3g}"
        lines.append(f"| {goal.name} | {value} | {bound} | {goal.verdict} |")
    return lines


def _ratio(value: float | None, other: float | None) -> float | None:
    if value is None or other is None or math.isnan(value) or math.isnan(other):
        return None
    return value / other

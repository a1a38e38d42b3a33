"""Finds out why a site or a server cannot work, and says how to mend it: one finding a check,
nothing is changed.

The checks of a kit and a machine are in `doctor_kit`, those of the way to the server in
`doctor_network`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from runkit import printable

_TEXT = 2_000  # characters of what is found, and of its remedy
State = Literal["good", "warning", "fault", "skipped"]
MARKS: dict[State, str] = {"good": "✓", "warning": "!", "fault": "✗", "skipped": "-"}


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What a check found. `mend` says what to do about a warning or a fault, and who can do it."""

    check: str
    state: State
    found: str
    mend: str = ""

    def __post_init__(self):
        # Findings quote certificates, proxies, servers and the system.
        for field in ("found", "mend"):
            object.__setattr__(self, field, printable.text(getattr(self, field), limit=_TEXT))

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def good(check: str, found: str) -> Diagnosis:
    return Diagnosis(check, "good", found)


def warning(check: str, found: str, mend: str) -> Diagnosis:
    return Diagnosis(check, "warning", found, mend)


def fault(check: str, found: str, mend: str) -> Diagnosis:
    return Diagnosis(check, "fault", found, mend)


def skipped(check: str, why: str) -> Diagnosis:
    return Diagnosis(check, "skipped", why)


def is_well(findings: Iterable[Diagnosis]) -> bool:
    """Returns whether nothing was found that keeps the federation from working. Warnings do not."""
    return all(finding.state != "fault" for finding in findings)


def table(findings: Sequence[Diagnosis], *, width: int = 110) -> str:
    """Returns the findings as text: a mark, the check, what was found; below it, how to mend it."""
    left = max((len(finding.check) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines += _wrapped(f"{MARKS[finding.state]} {finding.check:<{left}}  ", finding.found, width)
        if finding.mend:
            lines += _wrapped(" " * (left + 4) + "→ ", finding.mend, width)
    counts = {state: sum(finding.state == state for finding in findings) for state in MARKS}
    faults, warnings = counts["fault"], counts["warning"]
    summary = f"{len(findings)} checks: {_number(faults, 'fault')}, {_number(warnings, 'warning')}"
    return "\n".join(
        [*lines, "", summary + (f", {counts['skipped']} not reached" if counts["skipped"] else "")]
    )


def _wrapped(head: str, text: str, width: int) -> list[str]:
    lines, indent, current = [], " " * len(head), head
    for word in text.split():
        if len(current) + len(word) > width and current.strip():
            lines.append(current.rstrip())
            current = indent
        current += word + " "
    return [*lines, current.rstrip()]


def _number(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"

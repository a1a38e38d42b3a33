"""The result of one of the doctor's checks, and the table of all of them.

The checks of a kit and of a machine are in `local_checks`, those of the connection to the server in
`connection_checks`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

from runkit import printable

_TEXT = 2_000  # largest number of characters of `found` and of `remedy`
State = Literal["good", "warning", "fault", "skipped"]
MARKS: dict[State, str] = {"good": "✓", "warning": "!", "fault": "✗", "skipped": "-"}


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The result of one check.

    `remedy` says what to do about a warning or fault, and who can do it.
    """

    check: str
    state: State
    found: str
    remedy: str = ""

    def __post_init__(self) -> None:
        # The texts quote certificates, proxies, servers and the operating system.
        for field in ("found", "remedy"):
            object.__setattr__(self, field, printable.text(getattr(self, field), limit=_TEXT))

    def to_json(self) -> dict[str, str]:
        # "mend" is the remedy's key since the first release.
        return {
            "check": self.check,
            "state": self.state,
            "found": self.found,
            "mend": self.remedy,
        }


def good(check: str, found: str) -> Diagnosis:
    return Diagnosis(check, "good", found)


def warning(check: str, found: str, remedy: str) -> Diagnosis:
    return Diagnosis(check, "warning", found, remedy)


def fault(check: str, found: str, remedy: str) -> Diagnosis:
    return Diagnosis(check, "fault", found, remedy)


def skipped(check: str, why: str) -> Diagnosis:
    return Diagnosis(check, "skipped", why)


def is_well(findings: Iterable[Diagnosis]) -> bool:
    """Returns whether there is no fault; warnings do not keep a federation from working."""
    return all(finding.state != "fault" for finding in findings)


def table(findings: Sequence[Diagnosis], *, width: int = 110) -> str:
    """Returns a table: per check a mark, its name and what was found, and below it the remedy."""
    left = max((len(finding.check) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines += _wrapped(f"{MARKS[finding.state]} {finding.check:<{left}}  ", finding.found, width)
        if finding.remedy:
            lines += _wrapped(" " * (left + 4) + "→ ", finding.remedy, width)
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

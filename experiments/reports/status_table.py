"""The status of a federation as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from federated.wire.status import RoundStatus, RunStatus, SiteStatus, SumStatus
from runkit import byte_counts

_SUM_PHASES = {  # phase of a secure sum -> what the sites send in it
    "keys": "keys",
    "share": "sealed shares",
    "mask": "masked updates",
    "consent": "consents",
    "reveal": "shares that open the sum",
}


def render(status: RunStatus, *, rounds: int = 10) -> str:
    """Returns a status as text; `rounds` is the number of newest rounds to show."""
    lines = [f"run {status['run']}   {_phase(status)}   release {status['release']}"]
    if status.get("aggregation") and status["num_rounds"]:  # earlier releases do not send it
        lines.append(f"aggregation {status['aggregation']}")
    if found := status.get("sum"):
        lines.append(_sum(found))
    lines.append("")
    lines += _table(
        ("site", "state", "cases", "heard", "updates", "from it", "to it", "score", "last done"),
        [_site(name, site) for name, site in status["sites"].items()],
        right=(2, 3, 4, 5, 6, 7),
    )
    if not status["sites"]:
        lines.append("no site has logged in yet")
    shown = status["rounds"][-rounds:] if rounds else []
    if shown:
        lines += [
            "",
            *_table(
                ("round", "cases of each site", "seconds", "received", "mean score", "worst site"),
                map(_round, shown),
                right=(0, 2, 3, 4, 5),
            ),
        ]
    declared = {
        name: ", ".join(f"{of} {word}" for of, word in site["labels"].items())
        for name, site in status["sites"].items()
        if site.get("labels")  # servers of earlier releases do not send them
    }
    if declared:
        lines += ["", *(f"labels of {name}: {words}" for name, words in declared.items())]
    best = next(
        (entry for entry in status["rounds"] if entry["round"] == status["best_round"]), None
    )
    if best is not None and best["mean"] is not None:
        worst = "" if best["worst"] is None else f", worst site {best['worst']:.4f}"
        lines += ["", f"best so far: round {best['round']}, mean score {best['mean']:.4f}{worst}"]
    audit = status["audit"]
    lines += [
        "",
        f"model {byte_counts.text(status['model_bytes'])}, "
        f"{byte_counts.text(status['disk_free_bytes'])} free at the server, "
        f"audit line {audit['lines']} {audit['head'][:16]}",
        *(f"! {warning}" for warning in status["warnings"]),
    ]
    return "\n".join(lines)


def _phase(status: RunStatus) -> str:
    if status["num_rounds"] == 0:
        return f"{status['phase']}; {_evaluated(status)}"
    done = f"{status['rounds_done']} of {status['num_rounds']} rounds done"
    if status["phase"] == "rounds":
        again = f", attempt {status['attempt']}" if (status["attempt"] or 1) > 1 else ""
        needed = status["min_num_clients"]
        received = f"{len(status['updates'])} of {needed} required updates received"
        return f"round {status['open_round']} open: {received}{again}; {done}"
    return f"{status['phase']}; {done}"


def _sum(found: SumStatus) -> str:
    """Returns how far the secure sum of the open round is."""
    what = _SUM_PHASES.get(found["phase"], found["phase"])
    done = f"{what} of {', '.join(found['done'])}" if found["done"] else f"no {what} yet"
    awaited = f", waiting for {', '.join(found['awaited'])}" if found["awaited"] else ""
    return (
        f"secure sum, exchange {found['exchange']}, phase {found['phase']!r}: "
        f"{done} ({found['needed']} needed){awaited}"
    )


def _evaluated(status: RunStatus) -> str:
    """Returns the progress of an evaluation without training."""
    models, reported = status["models"], status["reported"]
    return (
        f"{len(models)} given {'model' if len(models) == 1 else 'models'}; rows of "
        f"{len(reported)} sites received, {status['min_num_clients']} required"
    )


def _site(name: str, site: SiteStatus) -> tuple[str, ...]:
    newest = max(site["scores"], key=int, default=None)
    score = site["scores"][newest].get("dice") if newest is not None else None
    return (
        name,
        site["state"],
        str(site["num_examples"]),
        _ago(site["seconds_since_heard"]),
        str(site["updates"]),
        byte_counts.text(site["bytes_received"]),
        byte_counts.text(site["bytes_sent"]),
        "-" if score is None else f"{score:.4f}",
        ", ".join(
            filter(None, [site["doing"], f"{site['refused']} refusals" if site["refused"] else ""])
        ),
    )


def _round(entry: RoundStatus) -> tuple[str, ...]:
    return (
        str(entry["round"]),
        ", ".join(f"{site} {examples}" for site, examples in sorted(entry["sites"].items())),
        "-" if entry["seconds"] is None else f"{entry['seconds']:.1f}",
        byte_counts.text(entry["bytes"]),
        "-" if entry["mean"] is None else f"{entry['mean']:.4f}",
        "-" if entry["worst"] is None else f"{entry['worst']:.4f}",
    )


def _table(
    head: tuple[str, ...], rows: Iterable[tuple[str, ...]], *, right: tuple[int, ...]
) -> list[str]:
    lines = [head, *rows]
    widths = [max(len(row[column]) for row in lines) for column in range(len(head))]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in lines
    ]


def _ago(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s ago"
    return f"{seconds / 60:.0f} min ago" if seconds < 7200 else f"{seconds / 3600:.0f} h ago"

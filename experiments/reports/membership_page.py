"""What models reveal about their training cases, as one HTML page and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.figures import membership_pictures as figures
from experiments.reports import cells, html_parts
from experiments.results.statistics import membership_rates
from runkit import markdown_tables

DEFINITIONS = (
    "Each attack orders candidate scans by how likely they were among the training cases "
    "(members). AUC is the chance that it puts a member before a non-member of the same hospital: "
    "0.5 is guessing, 1 is certainty. 'Found at 1 %' is the share of members found while at most "
    f"1 % of the non-members are accused; it needs {membership_rates.FEWEST} non-members. Brackets "
    "are 95 % intervals. For an AUC, they use DeLong's variance and Student's quantiles on the "
    "scale of log odds. For a share, they are exact for the threshold used; they ignore that other "
    "non-members would have given another threshold. With "
    f"{membership_rates.FEWEST} non-members, guessing finds 2 % of the members on average. The "
    "intervals are for other scans under the same models, not for another training. An attack "
    "counts as found if the interval of its AUC lies above 0.5; if there is nothing to find, "
    "that happens in 1 of 40 lines by chance. An attack whose AUC does not count as found may "
    "still be certain of a few members: compare 'Found at 1 %' with guessing."
)


def html(content: Mapping[str, Any], title: str) -> str:
    """Returns the page of a `membership.json`, without scripts, fonts or links."""
    entries = content["attacks"]
    parts = [f"<p>{html_parts.text(DEFINITIONS)}</p>", html_parts.table(*table(entries))]
    parts += ["<h2>Attacks</h2>", html_parts.table(["Attack", "It says member if"], _attacks())]
    by_round = series_by_round(entries)
    if by_round:
        parts += ["<h2>Area under the curve by round</h2>", areas(by_round, "round")]
    for name in dict.fromkeys(entry["model"] for entry in entries):
        own = last_round(entries, name)
        strongest = max(own, key=lambda entry: entry["auc"]["estimate"])
        where = name if own[0]["round"] is None else f"{name}, round {own[0]['round']}"
        parts += [
            f"<h2>{html_parts.text(where)}</h2>",
            '<div class="plots">',
            html_parts.drawing(
                figures.curves(own, "ROC, logarithmic axes"),
                f"ROC curves of the attacks on {where}",
                enlarge=False,
            ),
            html_parts.drawing(
                figures.histogram(strongest, "The strongest attack"),
                f"What the strongest attack on {where} gives members and non-members",
                enlarge=False,
            ),
            "</div>",
        ]
    return html_parts.page(title, subtitle(content), *parts)


def markdown(content: Mapping[str, Any], title: str) -> str:
    """Returns the table of a `membership.json` as Markdown."""
    lines = markdown_tables.lines(*table(content["attacks"]))
    return "\n".join([f"# {title}", "", subtitle(content), "", DEFINITIONS, "", *lines]) + "\n"


def subtitle(content: Mapping[str, Any]) -> str:
    words = [
        f"{site}: {own['members']} members, {own['nonmembers']} non-members, "
        f"{own['references']} reference models"
        for site, own in content["sites"].items()
    ]
    return f"{'; '.join(words)}; {content['patches']} patches per scan."


def table(entries: Iterable[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Returns headings and rows, one per model, round and attack."""
    head = ["Model", "Round#", "Attack", "AUC#", "Found at 1 %#", "Members#", "Verdict"]
    return head, [
        [
            entry["model"],
            cells.number(entry["round"], 0),
            entry["attack"],
            cells.with_interval(entry["auc"], 2),
            cells.with_interval(entry["tpr"], 0, factor=100),
            str(entry["members"]),
            membership_rates.verdict(entry["auc"]),
        ]
        for entry in entries
    ]


def last_round(entries: Sequence[Mapping[str, Any]], model: str) -> list[Mapping[str, Any]]:
    """Returns the attacks on a model, of its last round."""
    own = [entry for entry in entries if entry["model"] == model]
    last = max((entry["round"] for entry in own if entry["round"] is not None), default=None)
    return [entry for entry in own if entry["round"] == last]


def series_by_round(
    entries: Iterable[Mapping[str, Any]],
) -> dict[tuple[str, str], list[tuple[str, Mapping[str, Any]]]]:
    """Returns (model, attack) -> (round, area), where there is more than one round."""
    found: dict[tuple[str, str], list[tuple[str, Mapping[str, Any]]]] = {}
    for entry in entries:
        if entry["round"] is not None:
            key = (entry["model"], entry["attack"])
            found.setdefault(key, []).append((str(entry["round"]), entry["auc"]))
    return {key: own for key, own in found.items() if len(own) > 1}


def areas(series: Mapping[tuple[str, str], Sequence[Any]], label: str) -> str:
    """Returns the picture of areas under the curve, as `figures.areas` draws it."""
    return html_parts.drawing(
        figures.areas(series, label),
        f"Area under the curve of each attack by {label}",
        enlarge=False,
    )


def _attacks() -> list[list[str]]:
    return [[name, meaning] for name, meaning in membership_rates.ATTACKS.items()]

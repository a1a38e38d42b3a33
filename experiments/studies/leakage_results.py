"""What the models of a study reveal: membership inference pooled over sites and seeds.

Each run measures it (`experiments.membership`). Each site and seed is a stratum: its members are
compared with non-members of its own hospital, under its own models.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.figures import membership_pictures as figures
from experiments.reports import cells, html_parts, membership_page
from experiments.results.statistics import membership_rates
from experiments.results.statistics.membership_rates import FORMAT, Stratum
from experiments.studies.study_file import Study
from runkit import formats, markdown_tables

HEAD = ["Point", "Model", "Round#", "Attack", "AUC#", "Found at 1 %#", "Members#", "Verdict"]
HEAD_AGAINST = ["Point", "Against", "Model", "Attack", "AUC#", "AUC against#", "Verdict"]
_BY_ROUND = "Leakage by round"
_AGAINST = "Leakage with a setting and without"
_Key = tuple[str, str, int | None, str]  # point, model, round, attack
_REMEDY = "restore it, or remove the folder of the run to repeat it"


def collect(
    study: Study, runs: Iterable[Mapping[str, Any]], folder: pathlib.Path
) -> dict[str, Any]:
    """Returns the pooled results of the runs that have been measured so far, ready for JSON.

    Args:
      runs: from `study_results.collect`, with `label` and `folder`.
      folder: the folder of the study's runs.
    """
    strata: dict[_Key, list[Stratum]] = {}
    measured: dict[str, int] = {}
    for run in runs:
        path = folder / run["folder"] / "membership" / "membership.json"
        if not path.is_file():
            continue
        measured[run["label"]] = measured.get(run["label"], 0) + 1
        for (model, number, attack), own in _attacks(path).items():
            strata.setdefault((run["label"], model, number, attack), []).extend(own)
    lines = [
        {
            "point": point,
            "model": model,
            "round": number,
            "attack": attack,
            **membership_rates.summary(own),
        }
        for (point, model, number, attack), own in strata.items()
    ]
    return {
        "filtered": [point.label for point in study.points if point.privacy],
        "seeds": measured,
        "lines": lines,
        "against": _against(study, lines),
    }


def _attacks(path: pathlib.Path) -> dict[tuple[str, int | None, str], list[Stratum]]:
    """Returns (model, round, attack) -> the scores of all sites, from a `membership.json`."""
    content = formats.read_json(path, FORMAT, remedy=_REMEDY)
    found: dict[tuple[str, int | None, str], list[Stratum]] = {}
    try:
        for entry in content["attacks"]:
            key = (_model(entry), entry["round"], entry["attack"])
            found.setdefault(key, []).extend(figures.strata(entry))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not what experiments.membership writes; {_REMEDY}") from error
    return found


def _model(entry: Mapping[str, Any]) -> str:
    """Returns the name that a site's model shares with the other sites' models of its kind."""
    if entry["kind"] == "global":
        return str(entry["model"])
    return f"site's {str(entry['model']).partition('_')[2]}"


def latest(lines: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns the lines of each point's and model's last round."""
    last: dict[tuple[str, str], int] = {}
    for line in (all_lines := list(lines)):
        key = (line["point"], line["model"])
        last[key] = max(last.get(key, 0), line["round"] or 0)
    return [
        line for line in all_lines if (line["round"] or 0) == last[line["point"], line["model"]]
    ]


def compare(auc: Mapping[str, Any], without: Mapping[str, Any]) -> str:
    """Returns the effect of a setting on an attack, by the intervals with and without it.

    "nothing to hide" if the attack does not work without the setting, "hidden" if it does not work
    with it, "reduced" if the area with it is below every plausible value of the area without it.
    """
    if membership_rates.verdict(without) != "found":
        return "nothing to hide"
    if membership_rates.verdict(auc) != "found":
        return "hidden"
    return "reduced" if auc["high"] < without["low"] else "not reduced"


def _against(study: Study, lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found = {(line["point"], line["model"], line["attack"]): line for line in latest(lines)}
    compared = []
    for point in study.points:
        for (label, model, attack), line in found.items():
            base = found.get((point.against or "", model, attack))
            if label == point.label and base is not None:
                compared.append(
                    {
                        "point": label,
                        "against": point.against,
                        "model": model,
                        "attack": attack,
                        "auc": line["auc"],
                        "without": base["auc"],
                        "verdict": compare(line["auc"], base["auc"]),
                    }
                )
    return compared


def lines_of(content: Mapping[str, Any]) -> list[list[str]]:
    """Returns the table's rows: every point's models at their last round."""
    return [
        [
            line["point"],
            line["model"],
            cells.number(line["round"], 0),
            line["attack"],
            cells.with_interval(line["auc"], 2),
            cells.with_interval(line["tpr"], 0, factor=100),
            str(line["members"]),
            membership_rates.verdict(line["auc"]),
        ]
        for line in latest(content["lines"])
    ]


def lines_against(content: Mapping[str, Any]) -> list[list[str]]:
    """Returns the rows of the comparisons of points."""
    return [
        [
            line["point"],
            line["against"],
            line["model"],
            line["attack"],
            cells.with_interval(line["auc"], 2),
            cells.with_interval(line["without"], 2),
            line["verdict"],
        ]
        for line in content["against"]
    ]


def matters(areas: Iterable[Mapping[str, Any]]) -> str:
    """Returns "matters" if the intervals of two of these areas do not overlap, else "undecided"."""
    known = [area for area in areas if area["low"] is not None]
    apart = any(one["high"] < other["low"] for one in known for other in known)
    return "matters" if apart else "undecided"


def by_round(content: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Returns the table of the first point's areas by round: its heading and its rows.

    There are no rows if no model was looked at after more than one round.
    """
    series = _rounds_of_first_point(content)
    numbers = sorted({number for own in series.values() for number, _ in own}, key=int)
    rows = []
    for (model, attack), own in series.items():
        areas = dict(own)
        shown = [cells.with_interval(areas.get(number), 2) for number in numbers]
        rows.append([model, attack, *shown, matters(areas.values())])
    return ["Model", "Attack", *(f"Round {number}#" for number in numbers), "Rounds"], rows


def _rounds_of_first_point(
    content: Mapping[str, Any],
) -> dict[tuple[str, str], list[tuple[str, Mapping[str, Any]]]]:
    first = content["lines"][0]["point"]
    return membership_page.series_by_round(
        line for line in content["lines"] if line["point"] == first
    )


def markdown(content: Mapping[str, Any]) -> list[str]:
    """Returns the results as lines of Markdown."""
    lines = ["", "## What the models give away", ""]
    if not content["lines"]:
        return [*lines, "No run has been measured yet."]
    lines += [_measured(content), "", membership_page.DEFINITIONS, ""]
    lines += markdown_tables.lines(HEAD, lines_of(content))
    head, rows = by_round(content)
    if rows:
        lines += ["", f"## {_BY_ROUND}", "", f"Area under the curve, {_first(content)}.", ""]
        lines += markdown_tables.lines(head, rows)
    if content["against"]:
        lines += ["", f"## {_AGAINST}", ""]
        lines += markdown_tables.lines(HEAD_AGAINST, lines_against(content))
    return lines


def _first(content: Mapping[str, Any]) -> str:
    return f"point {content['lines'][0]['point']}"


def section(content: Mapping[str, Any]) -> str:
    """Returns the results as a section of the study's page, with pictures."""
    heading = "<h2>What the models give away</h2>"
    if not content["lines"]:
        return f'{heading}<p class="note">No run has been measured yet.</p>'
    parts = [
        heading,
        f'<p class="note">{html_parts.text(_measured(content))}</p>',
        f'<p class="note">{html_parts.text(membership_page.DEFINITIONS)}</p>',
    ]
    for model, series in by_point(content["lines"]).items():
        parts.append(
            f"<figure>{membership_page.areas(series, 'point of the study')}"
            f"<figcaption>{html_parts.text(model)}, last round</figcaption></figure>"
        )
    parts.append(html_parts.table(HEAD, lines_of(content)))
    rounds = _rounds_of_first_point(content)
    if rounds:
        parts.append(f"<h3>{_BY_ROUND}</h3>")
        parts.append(
            f"<figure>{membership_page.areas(rounds, 'round')}<figcaption>"
            f"{html_parts.text(f'By round, {_first(content)}')}</figcaption></figure>"
        )
        parts.append(html_parts.table(*by_round(content)))
    if content["against"]:
        parts.append(f"<h3>{_AGAINST}</h3>")
        parts.append(html_parts.table(HEAD_AGAINST, lines_against(content)))
    return "".join(parts)


def by_point(
    lines: Iterable[Mapping[str, Any]],
) -> dict[str, dict[tuple[str, str], list[tuple[str, Mapping[str, Any]]]]]:
    """Returns model -> ("", attack) -> (point, area) of the last round."""
    found: dict[str, dict[tuple[str, str], list[tuple[str, Mapping[str, Any]]]]] = {}
    for line in latest(lines):
        own = found.setdefault(line["model"], {}).setdefault(("", line["attack"]), [])
        own.append((line["point"], line["auc"]))
    return found


def _measured(content: Mapping[str, Any]) -> str:
    seeds = ", ".join(f"{label} {count}" for label, count in content["seeds"].items())
    filtered = content.get("filtered")  # not in results of earlier releases
    local = (
        " A filter changes what is sent. FL_local passes through no filter and stays at its site "
        f"in: {', '.join(filtered)}; its lines are about a model that nobody else has."
        if filtered
        else ""
    )
    return f"Pooled over sites and seeds. Seeds measured: {seeds}.{local}"

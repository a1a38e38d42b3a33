"""The page of a search: all scores, evolution beside random search, the winner, the evidence."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from c2fnas import genotype
from c2fnas.genotype import Genotype
from experiments import figures
from experiments.reports import cells, html_parts
from experiments.results import search_table
from experiments.results.search_table import ScoredCandidate
from experiments.results.verdicts.search_claims import NETWORKS, SEARCH_CLAIMS

PAPER_GPU_DAYS = 333  # cost of C2FNAS (Yu et al. 2020), whose search these are smaller versions of
_STAGES = {
    "topology": "Topology: each candidate was trained alone, from scratch",
    "operations": "Operations: each candidate is a path of one supernet",
}


@dataclasses.dataclass(frozen=True)
class StageResult:
    """One stage of a search.

    Attributes:
      stage: "topology" or "operations".
      candidates: those scored so far, in all arms.
      budget: number of candidates to score in all arms.
      winners: arm -> its best genotype.
      patch_size: of the training, in voxels.
      shared_seconds: time to train what all candidates share, e.g. the supernet.
      place: "federated" or "pooled" if the page shows two searches side by side.
    """

    stage: str
    candidates: Sequence[ScoredCandidate]
    budget: int
    winners: Mapping[str, Genotype]
    patch_size: Sequence[int]
    shared_seconds: float = 0.0
    place: str = ""

    @property
    def seconds(self) -> float:
        return self.shared_seconds + sum(one.seconds for one in self.candidates)


def page(
    stages: Sequence[StageResult],
    evidence: Mapping[str, Any] | None = None,
    *,
    title: str,
    cores: int,
    wall_seconds: float | None = None,
) -> str:
    """Returns the page.

    Args:
      stages: in their order.
      evidence: the content of evidence.json; None if it was not run.
      title: of the page.
      cores: number of cores that the search ran on, for CPU-hours.
      wall_seconds: wall time of the search on all of these cores; None adds up that of its
        trainings, each of which then had all of them.
    """
    seconds = wall_seconds
    if seconds is None:
        seconds = sum(stage.seconds for stage in stages)
        seconds += evidence["seconds"] if evidence else 0.0
    scored = sum(len(stage.candidates) for stage in stages)
    budget = sum(stage.budget for stage in stages)
    subtitle = "Scores are mean Dice over validation cases; no score uses a test case."
    if scored < budget:
        subtitle += f" The search is still running: {scored} of {budget}."
    if evidence and not evidence["finished"]:
        done, planned = evidence["trainings"]["done"], evidence["trainings"]["planned"]
        subtitle += f" The evidence is still being collected: {done} of {planned} trainings."
    cost = (
        (f"{seconds * cores / 3600:.2g}", f"CPU-hours, on {cores} cores", "")
        if seconds
        else ("–", "CPU-hours, not measured", "")
    )
    counted = (f"{scored} of {budget}", "candidates scored", "good" if scored >= budget else "")
    shown = [*([counted] if stages else []), cost, (PAPER_GPU_DAYS, "GPU-days of C2FNAS", "")]
    parts = [html_parts.tiles(shown)]
    for stage in stages:
        parts += _stage(stage)
    parts += _evidence(evidence) if evidence else _claims()
    return html_parts.page(title, subtitle, *parts)


def _stage(stage: StageResult) -> list[str]:
    heading = _STAGES[stage.stage] + (f" ({stage.place})" if stage.place else "")
    found = list(stage.candidates)
    parts = [f"<h2>{html_parts.text(heading)}</h2>"]
    if not found:
        return [*parts, "<p>Nothing has been scored yet.</p>"]
    published = _published_gmac(stage)
    parts += [
        html_parts.drawing(
            figures.pareto_figure(found, published_gmac=published),
            "Dice of each candidate against its multiply-accumulates",
        ),
        "<h3>Evolution beside the random arm</h3>",
        html_parts.drawing(
            figures.progress_figure(found), "Scores in the order of scoring, and the best so far"
        ),
        html_parts.table(
            ["Arm", "Generation#", "Scored#", "Mean#", "Best#", "From"], _generations(found)
        ),
        "<h3>The best of each arm</h3>",
        html_parts.table(
            ["Arm", "Genotype", "Score#", *(f"{s}#" for s in _sites(found)), "GMAC#", "Candidate#"],
            _best_rows(found),
        ),
    ]
    for arm, best in stage.winners.items():
        parts += [
            f"<p><b>Best of {html_parts.text(arm)}</b></p>",
            html_parts.drawing(
                figures.genotype_figure(best, stage.patch_size, vae=False),
                f"The best network of {arm}",
            ),
        ]
    return parts


def _published_gmac(stage: StageResult) -> float | None:
    winner = next(iter(stage.winners.values()), None)
    published = genotype.load("c2fnas")
    if winner is None or any(n % published.size_multiple for n in stage.patch_size):
        return None
    return published.with_size(filters=winner.filters).macs(stage.patch_size) / 1e9


def _generations(found: Sequence[ScoredCandidate]) -> list[list[str]]:
    rows = []
    for arm in search_table.arms(found):
        for generation, own in search_table.by_generation(search_table.of_arm(found, arm)).items():
            scores = [100 * one.score for one in own]
            origins = {name: sum(c.origin == name for c in own) for name in _ORIGINS}
            came = ", ".join(f"{count} {_ORIGINS[k]}" for k, count in origins.items() if count)
            rows.append(
                [
                    arm,
                    str(generation + 1),
                    str(len(own)),
                    f"{sum(scores) / len(scores):.1f}",
                    f"{max(scores):.1f}",
                    came,
                ]
            )
    return rows


_ORIGINS = {
    "given": "one per cluster",
    "random": "at random",
    "mutation": "by mutation",
    "crossover": "by crossover",
}


def _sites(found: Sequence[ScoredCandidate]) -> list[str]:
    return sorted({site for one in found for site in one.by_site})


def _best_rows(found: Sequence[ScoredCandidate]) -> list[list[str]]:
    rows = []
    for arm in search_table.arms(found):
        best = search_table.winner(found, arm)
        if best is not None:
            sites = [cells.number(best.by_site.get(site), 1, factor=100) for site in _sites(found)]
            rows.append(
                [
                    arm,
                    best.name,
                    f"{100 * best.score:.1f}",
                    *sites,
                    f"{best.macs / 1e9:.3g}",
                    str(best.number),
                ]
            )
    return rows


def _claims() -> list[str]:
    rows = [[claim.claim, claim.source] for claim in SEARCH_CLAIMS]
    return [
        "<h2>What the evidence will test</h2>",
        "<p>The evidence has not been run yet. Claims and rules were written before any number was "
        "known.</p>",
        html_parts.table(["Claim", "Source"], rows),
    ]


def _evidence(evidence: Mapping[str, Any]) -> list[str]:
    parts = [
        "<h2>Evidence</h2>",
        "<p>Networks trained alone with several seeds and compared on test cases, which the search "
        "did not use. Differences are in points of Dice. &quot;Shows&quot; is the smallest true "
        "difference that would be found in 80 of 100 such studies, if it were the only claim. The "
        "rules were written before any number was known.</p>",
        html_parts.table(*claims_table(evidence)),
    ]
    if (floor := evidence.get("noise")) is not None:
        parts.append(f"<p><b>Noise floor.</b> {html_parts.text(noise_text(floor))}</p>")
    if (ranks := evidence.get("ranks")) is not None and ranks["tau"] is not None:
        parts.append(
            html_parts.drawing(
                figures.ranks_figure(ranks["supernet"], ranks["alone"], caption=tau_text(ranks)),
                "Score of each path in the supernet against its trainings alone",
            )
        )
    parts += [
        "<h3>Trainings</h3>",
        html_parts.table(*networks_table(evidence)),
    ]
    return parts


def claims_table(evidence: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Returns the head and the rows of the table of verdicts."""
    head = ["Claim", "Verdict", "Estimate#", "95 % interval", "p after Holm#", "Remark"]
    return head, [_verdict_row(one) for one in evidence["verdicts"]]


def networks_table(evidence: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Returns the head and the rows of the table of the networks that were compared."""
    return ["Network", "Genotype", "Seeds#", "Mean Dice on test cases#", "SD over seeds#"], [
        [
            NETWORKS.get(name, name),
            about["genotype"],
            str(len(about["scores"])),
            f"{100 * sum(about['scores'].values()) / len(about['scores']):.1f}",
            f"{100 * statistics.stdev(about['scores'].values()):.1f}"
            if len(about["scores"]) > 1
            else "–",
        ]
        for name, about in evidence["networks"].items()
        if about["scores"]
    ]


def noise_text(floor: Mapping[str, Any]) -> str:
    """Returns the noise floor in words."""
    return (
        f"{floor['seeds']} trainings of the published genotype that differ by their seed alone: "
        f"mean {floor['mean']:.1f}, standard deviation {floor['deviation']:.1f} "
        f"[{floor['low']:.1f}, {floor['high']:.1f}] points. Two single trainings of equally good "
        f"networks differ by more than {floor['apart']:.1f} points in one case in twenty."
    )


def tau_text(ranks: Mapping[str, Any]) -> str:
    """Returns Kendall's tau with its interval in words."""
    return (
        f"Kendall's tau {ranks['tau']:.2f} [{ranks['low']:.2f}, {ranks['high']:.2f}], "
        f"{len(ranks['supernet'])} paths, {ranks['seeds']} trainings of each"
    )


def _verdict_row(one: Mapping[str, Any]) -> list[str]:
    interval = one["interval"]
    if interval is None:
        return [one["claim"], one["verdict"], "–", "–", "–", one["remark"]]
    tau = one["rule"].startswith("tau")
    digits = 2 if tau else 1
    ends = ["?" if interval[e] is None else f"{interval[e]:.{digits}f}" for e in ("low", "high")]
    detects = "" if one["detectable"] is None else f"detects {one['detectable']:.1f}"
    return [
        one["claim"],
        one["verdict"],
        f"{interval['estimate']:.{digits}f}",
        " to ".join(ends),
        cells.number(one["p_holm"], 3),
        one["remark"] or detects,
    ]

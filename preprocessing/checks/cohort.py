"""What a site's dataset is, in numbers that may be shown to the others: what a federation needs to
see before it trains.

A report holds no case id, path, date or picture and no value of a single patient. What describes
patients (volumes, HU, sizes) comes as percentiles, each the mean of the three cases around it, and
as histograms, in which a bin of one or two cases is not told; with fewer than three cases nothing
of it is told. The spacing, a setting of the scanner, has its range.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from preprocessing.checks.survey import HU_EDGES, Finding
from runkit.classes import FOREGROUND

FORMAT = 1
FEWEST_CASES = 3  # that a number about patients is made of
VOLUME_EDGES_ML = tuple(range(0, 201, 10))
_PERCENTILES = (5, 25, 50, 75, 95)


def summarise(
    site: str, findings: Sequence[Finding], splits: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Returns the report of a site, JSON values.

    Args:
      findings: of all its cases.
      splits: cases in each split, where the site is prepared.
    """
    usable = [f for f in findings if f.usable and f.facts is not None]
    labelled = [f.facts for f in usable if f.facts.volume_ml]
    axes = [f.facts for f in usable]
    report: dict[str, Any] = {
        "format": FORMAT,
        "site": site,
        "cases": {
            "listed": len(findings),
            "usable": len(usable),
            "refused": sum(not f.usable for f in findings),
            "without_label": sum(f.case.label is None for f in usable),
            "with_tumour": sum(2 in facts.volume_ml for facts in labelled),
        },
        "rules": dict(sorted(Counter(p.rule for f in findings for p in f.problems).items())),
        "splits": None if splits is None else dict(splits),
        "axes": dict(sorted(Counter(facts.axes for facts in axes).items())),
    }
    report["spacing_mm"] = {
        axis: _range([facts.spacing_mm[i] for facts in axes]) for i, axis in enumerate("xyz")
    }
    for name, values in (
        ("shape", [facts.shape for facts in axes]),
        (
            "extent_mm",
            [
                tuple(n * s for n, s in zip(facts.shape, facts.spacing_mm, strict=True))
                for facts in axes
            ],
        ),
    ):
        report[name] = {
            axis: _patients([value[i] for value in values]) for i, axis in enumerate("xyz")
        }
    report["volume_ml"], report["hu"] = {}, {}
    for class_, name in FOREGROUND.items():
        volumes = [facts.volume_ml[class_] for facts in labelled if class_ in facts.volume_ml]
        told = _patients(volumes)
        if told is None:
            continue
        report["volume_ml"][name] = {**told, "histogram": _histogram(volumes)}
        voxels = np.sum([facts.hu[class_] for facts in labelled if class_ in facts.hu], axis=0)
        medians = [facts.median_hu[class_] for facts in labelled if class_ in facts.median_hu]
        report["hu"][name] = {
            "median_of_case": _patients(medians),
            **_of_histogram(voxels),
            "histogram": {
                "edges": list(HU_EDGES),
                "share": [round(float(v), 5) for v in voxels / max(voxels.sum(), 1)],
            },
        }
    return report


def rows(*reports: Mapping[str, Any]) -> list[list[str]]:
    """Returns a table: what, and its value at each site."""

    def cases(key: str):
        return lambda r: str(r["cases"][key])

    def told(group: str, name: str, text):
        return lambda r: text(r[group][name]) if name in r[group] else "-"

    def spread(value: Mapping[str, Any]) -> str:
        return (
            "-"
            if value is None
            else f"{value['median']:.4g} ({value['p5']:.4g} - {value['p95']:.4g})"
        )

    def between(value: Mapping[str, Any] | None) -> str:
        return (
            "-"
            if value is None
            else f"{value['median']:.4g} ({value['lowest']:.4g} - {value['highest']:.4g})"
        )

    lines = [
        (f"cases {key.replace('_', ' ')}", cases(key))
        for key in ("listed", "usable", "refused", "without_label", "with_tumour")
    ]
    lines.append(
        (
            "training / validation / test",
            lambda r: " / ".join(map(str, r["splits"].values())) if r["splits"] else "not prepared",
        )
    )
    lines.append(
        (
            "broken rules",
            lambda r: ", ".join(f"{rule} {count}" for rule, count in r["rules"].items()) or "none",
        )
    )
    lines.append(
        (
            "axes of the files",
            lambda r: ", ".join(f"{name} {count}" for name, count in r["axes"].items()) or "-",
        )
    )
    lines += [
        (f"spacing {axis}, mm: median (range)", lambda r, a=axis: between(r["spacing_mm"][a]))
        for axis in "xyz"
    ]
    for quantity, what in (("shape", "voxels along {}"), ("extent_mm", "extent {}, mm")):
        lines += [
            (
                f"{what.format(axis)}: median (5 - 95 %)",
                lambda r, q=quantity, a=axis: spread(r[q][a]),
            )
            for axis in "xyz"
        ]
    for name in FOREGROUND.values():
        lines.append((f"{name}, ml: median (5 - 95 %)", told("volume_ml", name, spread)))
        lines.append((f"{name}, HU of voxels: median (5 - 95 %)", told("hu", name, spread)))
        lines.append(
            (
                f"{name}, median HU of a case: median (5 - 95 %)",
                told("hu", name, lambda v: spread(v["median_of_case"])),
            )
        )
    return [[what, *(value(report) for report in reports)] for what, value in lines]


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Returns in words what two sites differ in so much that a model trained at one may fail at the
    other.
    """
    names, found = (one["site"], other["site"]), []
    for axis in "xyz":
        values = [report["spacing_mm"][axis] for report in (one, other)]
        if all(values):
            medians = [value["median"] for value in values]
            if max(medians) > 1.5 * min(medians):
                found.append(
                    f"spacing along {axis}: {medians[0]:.3g} mm at {names[0]}, {medians[1]:.3g} mm at {names[1]}"
                )
    for name in FOREGROUND.values():
        told = [name in report["volume_ml"] for report in (one, other)]
        if told[0] != told[1]:
            found.append(
                f"{name} is labelled at {names[told.index(True)]} only, or too rarely at the other site to be told"
            )
        elif all(told):
            medians = [report["volume_ml"][name]["median"] for report in (one, other)]
            if max(medians) > 1.3 * min(medians):
                found.append(
                    f"{name} volume: {medians[0]:.3g} ml at {names[0]}, {medians[1]:.3g} ml at {names[1]}"
                )
            hu = [report["hu"][name]["median_of_case"]["median"] for report in (one, other)]
            if abs(hu[0] - hu[1]) >= 15:
                found.append(
                    f"{name} HU: {hu[0]:.0f} at {names[0]}, {hu[1]:.0f} at {names[1]} (another contrast phase?)"
                )
    if set(one["axes"]) != set(other["axes"]):
        found.append(
            f"axes of the files: {', '.join(one['axes'])} at {names[0]}, {', '.join(other['axes'])} at {names[1]} (preparation evens it out)"
        )
    return found


def _range(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {
        "lowest": _round(min(values)),
        "median": _round(np.median(values)),
        "highest": _round(max(values)),
    }


def _patients(values: Sequence[float]) -> dict[str, Any] | None:
    """Returns mean, spread and percentiles, each of them the mean of the three values around it;
    None of fewer values.
    """
    if len(values) < FEWEST_CASES:
        return None
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    middle = np.array(_PERCENTILES) / 100 * (len(ordered) - 1)
    starts = np.clip(
        np.rint(middle - (FEWEST_CASES - 1) / 2).astype(int), 0, len(ordered) - FEWEST_CASES
    )
    levels = [ordered[start : start + FEWEST_CASES].mean() for start in starts]
    named = {
        "median" if p == 50 else f"p{p}": _round(v)
        for p, v in zip(_PERCENTILES, levels, strict=True)
    }
    return {
        "cases": len(values),
        "mean": _round(np.mean(values)),
        "sd": _round(np.std(values)),
        **named,
    }


def _histogram(values: Sequence[float]) -> dict[str, Any]:
    inside = np.clip(values, VOLUME_EDGES_ML[0], VOLUME_EDGES_ML[-1] - 1e-6)
    counts = np.histogram(inside, VOLUME_EDGES_ML)[0]
    return {
        "edges": list(VOLUME_EDGES_ML),
        "cases": [int(n) if n == 0 or n >= FEWEST_CASES else None for n in counts],
    }


def _of_histogram(counts: np.ndarray) -> dict[str, float]:
    """Returns percentiles of binned HU, interpolated inside their bins."""
    below = np.concatenate([[0], np.cumsum(counts)]) / max(counts.sum(), 1)
    levels = np.interp(np.array(_PERCENTILES) / 100, below, HU_EDGES)
    return {
        "median" if p == 50 else f"p{p}": _round(v)
        for p, v in zip(_PERCENTILES, levels, strict=True)
    }


def _round(value: float) -> float:
    return float(f"{float(value):.4g}")

"""The page that goes with a model: what it is for, what it was trained on, how well it did and on
how many cases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from c2fnas.genotype import Genotype


def text(
    name: str,
    genotype: Genotype,
    plan: Mapping[str, Any],
    training_data: Mapping[str, Any],
    scores: Mapping[str, Any],
    gate: Mapping[str, Any] | None = None,
) -> str:
    """Returns the model card as Markdown.

    Args:
      training_data: JSON values by name; nested ones are listed beneath their name.
      gate: the model's healthy gate, see healthy_gate.
      scores: what was scored -> measure -> {"mean", "low", "high", "cases"}, e.g. {"test cases of
          C1": {"dice_pancreas": {...}}}.
    """
    classes = ", ".join(
        f"{value} {label}" for value, label in sorted(plan.get("classes", {}).items())
    )
    inference = plan.get("inference", {})
    lines = [
        f"# {name}",
        "",
        "Segments pancreas and pancreatic tumour in portal-venous abdominal CT. A research model: not a medical device, and no basis for "
        "a diagnosis or a treatment.",
        "",
        "## Use",
        "",
        "    python -m experiments.predict --model=<this folder> --image=scan.nii.gz --output=mask.nii.gz",
        "",
        f"Input is CT in HU with the whole upper abdomen. It is brought to {_lengths(plan.get('spacing_mm'))} mm, HU "
        f"{_lengths(plan.get('window_hu'), ' to ')} become -1 to 1, and it is read through windows of {_lengths(inference.get('window'))} voxels, "
        f"overlap {inference.get('overlap')}, {inference.get('blending')} weights. Classes: {classes}.",
        "",
        "## Network",
        "",
        f"C2FNAS genotype `{genotype.name}`: {len(genotype.cells)} cells, {genotype.filters} filters at full resolution, "
        f"{genotype.conv_weights():,} convolution weights. Fingerprint `{genotype.fingerprint()[:16]}`.",
        "",
        "## Training data",
        "",
        *(list(_listed(training_data)) or ["Not recorded."]),
        "",
        "## Scores",
        "",
        *(
            _table(scores)
            if scores
            else ["Not recorded: the model was not scored on cases with labels."]
        ),
        "",
        "Means over cases, with 95 % intervals (Student's t, wider where the cases are skewed). A class that neither prediction nor label holds does not count; one that only one "
        "of them holds scores the worst there is (Dice and surface Dice 0, Hausdorff distance the diagonal of the volume).",
        "",
        *(_gate(gate) if gate else []),
        "## Limits",
        "",
        "It has seen only what is listed above. Other scanners, contrast phases, ages, operated patients and other diseases are outside; "
        "look at every mask before it is used.",
    ]
    return "\n".join(lines) + "\n"


def _gate(gate: Mapping[str, Any]) -> list[str]:
    return [
        "## Healthy gate",
        "",
        f"`predict` takes a marked tumour out where the network is no surer of it than {gate['threshold']:.2f} (mean log-odds of the most "
        f"certain millilitre), and says so for each scan; `--nogate` leaves it in. The threshold was fitted on {gate['patients']} validation "
        f"cases of patients without a tumour: of further patients like them, at most {100 * gate['expected_share']:.0f} % are expected above it. "
        "That is an expectation, not a bound for one clinic, and it says nothing about tumours that the gate hides: see the scores with the "
        "gate above.",
        "",
    ]


def _listed(values: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    for key, value in values.items():
        label = str(key).replace("_", " ")
        if isinstance(value, Mapping):
            yield f"{indent}* {label}:"
            yield from _listed(value, indent + "  ")
        else:
            yield f"{indent}* {label}: {_lengths(value, ', ') if isinstance(value, list | tuple) else value}"


def _table(scores: Mapping[str, Any]) -> list[str]:
    lines = ["| on | measure | mean | 95 % interval | cases |", "|---|---|---|---|---|"]
    for where, measures in scores.items():
        for measure, mean in measures.items():
            if mean["mean"] is None:
                continue
            ends = ["?" if mean[end] is None else f"{mean[end]:.3f}" for end in ("low", "high")]
            interval = "" if mean["low"] is None and mean["high"] is None else " - ".join(ends)
            lines.append(
                f"| {where} | {measure.replace('_', ' ')} | {mean['mean']:.3f} | {interval} | {mean['cases']} |"
            )
    return lines


def _lengths(values: Any, separator: str = " x ") -> str:
    if values is None:
        return "unknown"
    return separator.join(
        f"{value:g}" if isinstance(value, float) else str(value) for value in values
    )

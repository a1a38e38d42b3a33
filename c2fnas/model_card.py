"""The model card: purpose, training data and scores of a model, as a page to read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from c2fnas.genotype import Genotype
from c2fnas.scores import healthy_gate
from runkit import markdown_tables


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
      name: name of the model.
      genotype: its network.
      plan: nested JSON values; `spacing_mm`, `window_hu`, `inference` and `classes` are printed.
      training_data: JSON values by name; nested ones are listed beneath their name.
      scores: cases -> measure -> {"mean", "low", "high", "cases"}, e.g.
        {"test cases of C1": {"dice_pancreas": {...}}}.
      gate: the model's healthy gate as JSON values, see `healthy_gate`; None or {} if it has none.
    """
    classes = ", ".join(
        f"{value} {label}" for value, label in sorted(plan.get("classes", {}).items())
    )
    inference = plan.get("inference", {})
    lines = [
        f"# {name}",
        "",
        "Segments pancreas and pancreatic tumour in portal-venous abdominal CT. This is a research "
        "model, not a medical device: do not base a diagnosis or a treatment on it.",
        "",
        "## Use",
        "",
        "    python -m experiments.predict --model=<this folder> "
        "--image=scan.nii.gz --output=mask.nii.gz",
        "",
        "The input is a CT in HU that covers the whole upper abdomen. It is resampled to "
        f"{_lengths(plan.get('spacing_mm'))} mm, HU {_lengths(plan.get('window_hu'), ' to ')} are "
        "mapped to -1 to 1, and the network runs over windows of "
        f"{_lengths(inference.get('window'))} voxels with overlap {inference.get('overlap')} and "
        f"{inference.get('blending')} weights. Classes: {classes}.",
        "",
        "## Network",
        "",
        f"C2FNAS genotype `{genotype.name}`: {len(genotype.cells)} cells, "
        f"{genotype.filters} filters at full resolution, {genotype.conv_weights():,} convolution "
        f"weights. Fingerprint `{genotype.fingerprint()[:16]}`.",
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
        "Means over cases with 95 % intervals (Student's t, wider where the cases are skewed). A "
        "class that neither the prediction nor the label contains does not count. A class that "
        "only one of them contains gets the worst possible score: Dice and surface Dice 0, "
        "Hausdorff distance the diagonal of the volume.",
        "",
        *(_gate(gate) if gate else []),
        "## Limits",
        "",
        "The model was trained only on the data listed above. They do not cover other scanners, "
        "contrast phases or ages, patients after surgery or other diseases. Look at every mask "
        "before you use it.",
    ]
    return "\n".join(lines) + "\n"


def _gate(gate: Mapping[str, Any]) -> list[str]:
    try:
        fitted = healthy_gate.HealthyGate.from_json(gate)
    except ValueError as error:  # of another release, or damaged
        return ["## Healthy gate", "", f"Cannot be applied: {error}.", ""]
    return [
        "## Healthy gate",
        "",
        "`predict` removes a marked tumour if its score, the mean log-odds of its most certain "
        f"millilitre, is at most {fitted.threshold:.2f}, and says so for each scan; `--nogate` "
        f"keeps it. The threshold was fitted on {fitted.patients} validation cases of patients "
        "without a tumour: of other patients like them, at most "
        f"{100 * fitted.expected_share:.0f} % are expected above it. This is an expectation, not "
        "a bound for one clinic. It says nothing about real tumours that the gate hides; see the "
        "scores with the gate above.",
        "",
    ]


def _listed(values: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    for key, value in values.items():
        label = str(key).replace("_", " ")
        if isinstance(value, Mapping):
            yield f"{indent}* {label}:"
            yield from _listed(value, indent + "  ")
        else:
            shown = _lengths(value, ", ") if isinstance(value, list | tuple) else value
            yield f"{indent}* {label}: {shown}"


def _table(scores: Mapping[str, Any]) -> list[str]:
    rows = []
    for where, measures in scores.items():
        for measure, mean in measures.items():
            if mean["mean"] is None:
                continue
            ends = ["?" if mean[end] is None else f"{mean[end]:.3f}" for end in ("low", "high")]
            interval = "" if mean["low"] is None and mean["high"] is None else " - ".join(ends)
            label = measure.replace("_", " ")
            rows.append([where, label, f"{mean['mean']:.3f}", interval, str(mean["cases"])])
    return markdown_tables.lines(["on", "measure", "mean", "95 % interval", "cases"], rows)


def _lengths(values: Iterable[object] | None, separator: str = " x ") -> str:
    if values is None:
        return "unknown"
    return separator.join(
        f"{value:g}" if isinstance(value, float) else str(value) for value in values
    )

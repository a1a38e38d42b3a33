"""Estimates what a run of Table 1 takes, before it starts: seconds of each stage, and disk."""

from __future__ import annotations

import math

from experiments.configuration import load_genotype
from experiments.run.run_plan import FINETUNED, MEMBERSHIP, NONMEMBERS, PATCHES, POOLED, RunSpec
from runkit import progress

# Measured with the demo profile on two cores: one thread per site, both sites at once, batches of
# four 48^3 patches, 8 filters, cases at 3 mm.
_STEP_S, _VALIDATION_S, _TEST_S, _COHORT_S, _PREPARE_S, _START_S = 0.82, 0.8, 0.8, 1.6, 0.25, 8.0
_RECEIVED = 0.3  # the received model's forward pass adds this share of a step
# For a copy of a scan of 512 x 512 x 200 voxels; experiments.deform_cohort estimates it better,
# because it knows the sources.
_DEFORMED_S = 60.0
# a quarter of the filters needs a sixteenth of the operations
_DEMO_MACS = 4 * 48**3 * 189_772_333_056 / 96**3 / 16
_WEIGHT_BYTES, _CASE_BYTES = 4, 17e6
_PREPARED_BYTES = 2e6  # of these for the prepared case at 3 mm; the rest is its scan
# Passes over a site's scans: losses under three global models; for the last three updates, losses
# under the received and the trained model, and gradients, each as long as three losses; two local
# models.
_LOSSES, _GRADIENTS = 3 + 2 * 3 + 3, 3
_FORWARD = 0.3  # of a training step for the same patches


def estimated_seconds(spec: RunSpec) -> dict[str, float]:
    """Returns stage -> estimated seconds on two cores.

    A rough estimate: within about a third for the demo profile, an order of magnitude elsewhere.
    """
    config = spec.config
    genotype = load_genotype(config)
    work = config.batch_size * genotype.macs(config.patch_size) / _DEMO_MACS
    step = _STEP_S * work
    size = (config.filters / 8) ** 2 * 27.0 / math.prod(config.spacing_mm)
    validated, tested = _VALIDATION_S * size, _TEST_S * size
    counts = [site.counts or (200, 70, 70) for site in spec.sites]
    together = max(1.0, len(spec.sites) / 2)  # two cores
    epochs = config.num_rounds * config.local_epochs
    longest = max(math.ceil(c[0] * config.patches_per_case / config.batch_size) for c in counts)
    validation, test = max(c[1] for c in counts), max(c[2] for c in counts)
    own_validations = math.ceil(config.num_rounds / config.validation_every) * validated
    alone = epochs * longest * step + own_validations * validation
    models = 2 + len(spec.sites) * (spec.baselines + spec.local_models)
    # Validation cases are scored too: a site without tumours fits a gate to them for every model,
    # and the shared candidates are chosen on those of all sites.
    evaluation = (models + config.shared_candidates) * (test * tested + validation * validated)
    received = (
        epochs
        * longest
        * step
        * (_RECEIVED if config.missing_labels == "distil" or config.absence_evidence else 0.0)
    )
    stages = {
        "initial model": _START_S,
        "cohort": max(
            (site.made * (_COHORT_S if site.cohort else _DEFORMED_S) for site in spec.sites),
            default=0.0,
        )
        * together,
        "preparation": max(sum(c) for c in counts)
        * _PREPARE_S
        * together
        * 27.0
        / math.prod(config.spacing_mm)
        + _START_S,
        "baselines": alone * together + 2 * _START_S if spec.baselines else 0.0,
        "federation and cross-site evaluation": (
            alone + received + own_validations * validation + evaluation
        )
        * together
        + 3 * _START_S,
        "table and figures": _START_S / 2,
    }
    if POOLED in spec.beyond:
        steps = math.ceil(sum(c[0] for c in counts) * config.patches_per_case / config.batch_size)
        # divided by 1.3: pooled training runs on both cores
        stages["pooled training"] = (
            epochs * steps * step / 1.3 + own_validations * sum(c[1] for c in counts) / 1.3
        )
    if FINETUNED in spec.beyond:
        stages["fine-tuning"] = alone * together + 2 * _START_S
    if spec.nonmembers:
        stages |= _membership_seconds(spec, validated / _VALIDATION_S, step / config.batch_size)
    if spec.beyond:
        stages["scores of the models beyond the paper"] = 3 * test * tested + 2 * _START_S
        stages["table with them"] = _START_S / 2
    return stages


def _membership_seconds(spec: RunSpec, size: float, patch_s: float) -> dict[str, float]:
    """Estimates the seconds of membership inference.

    Args:
      size: size of a scan, relative to the demo profile's.
      patch_s: seconds of a step for one patch.
    """
    scans = sum(spec.nonmembers + (site.counts or (200, 0, 0))[0] for site in spec.sites)
    made = spec.nonmembers * len(spec.sites)
    return {
        NONMEMBERS: made * (_COHORT_S + _PREPARE_S * size) + 2 * _START_S,
        MEMBERSHIP: scans * PATCHES * patch_s * (_LOSSES * _FORWARD + _GRADIENTS) + _START_S,
    }


def disk_bytes(spec: RunSpec, *, scans: bool = True, others: bool = True) -> float:
    """Returns a rough estimate of what a run writes: scans, prepared cases, the global models.

    Args:
      scans: whether the run makes its scans; otherwise another run has already made them.
      others: whether it makes and prepares its non-members.
    """
    weights = load_genotype(spec.config).conv_weights()
    cases, further = sum(site.made for site in spec.sites), spec.nonmembers * len(spec.sites)
    prepared = _PREPARED_BYTES * 27.0 / math.prod(spec.config.spacing_mm)
    return (
        cases * (_CASE_BYTES if scans else prepared)
        + further * (_CASE_BYTES if others else 0.0)
        + (spec.config.num_rounds + 6 * len(spec.sites)) * _WEIGHT_BYTES * 1.4 * weights
    )


def duration(seconds: float) -> str:
    """Returns an estimate in minutes, hours or days, whichever is easiest to read."""
    if seconds < 2 * 3600:
        return minutes(seconds)
    return f"{seconds / 3600:.0f} hours" if seconds < 2 * 86400 else f"{seconds / 86400:.0f} days"


def minutes(seconds: float) -> str:
    """Returns a measured time, e.g. "2:05 min"."""
    return progress.elapsed(seconds, unit=True)

"""One run of Table 1 as a value: its sites, their scans, what is trained, and an estimated cost."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping

from experiments.configuration import ExperimentConfig, load_genotype
from federated.aggregation import rules
from federated.privacy.policy import PrivacyPolicy
from runkit import progress

POOLED, FINETUNED = "pooled", "finetuned"
BEYOND = (POOLED, FINETUNED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SiteSpec:
    """A site of a run.

    Attributes:
      name: "C1" or "C2"; further sites, without a column in Table 1, are "C3" and so on.
      cohort: number of patients by synthetic hospital ("C1" healthy, "C2" with tumours); empty if
          `manifest` or `deformed` is given.
      phantom: the phantom that its synthetic patients come from, see
          `preprocessing.phantom.hospital`.
      cohort_seed: seed of the synthetic patients; two sites with the same hospital and seed share
          patients.
      manifest: list of real scans.
      deformed: list of real CTs with masks of healthy pancreases; the site's cases are deformed
          copies of them, drawn with the run's seed.
      split: number of training, validation and test cases; None means the default of
          experiments.prepare.
      split_list: file that assigns each case to a split, in place of a random split.
      fault: what the site does wrong on purpose, a key of `studies.faults.FAULTS`; "" for nothing.
      privacy: the policy that the site sets for itself.
    """

    name: str
    cohort: Mapping[str, int] = dataclasses.field(default_factory=dict)
    cohort_seed: int = 1
    phantom: str = "standard"
    manifest: pathlib.Path | None = None
    deformed: pathlib.Path | None = None
    split: tuple[int, int, int] | None = None
    split_list: pathlib.Path | None = None
    fault: str = ""
    privacy: PrivacyPolicy = dataclasses.field(default_factory=PrivacyPolicy)

    def __post_init__(self):
        if bool(self.cohort) + (self.manifest is not None) + (self.deformed is not None) != 1:
            raise ValueError(
                f"site {self.name}: give exactly one of `cohort` (synthetic), `manifest` (real "
                "scans) and `deformed` (a manifest of sources to deform)"
            )
        if self.phantom != "standard" and not self.cohort:
            raise ValueError(
                f"site {self.name}: `phantom` is {self.phantom!r}, but only a synthetic `cohort` "
                "has one; leave it out"
            )
        if self.deformed is not None and (self.split is None or self.split_list is not None):
            raise ValueError(
                f"site {self.name}: `deformed` sources need a `split`, the number of copies, and "
                "take no split list"
            )
        if self.cohort and self.split and sum(self.split) > sum(self.cohort.values()):
            raise ValueError(
                f"site {self.name}: the split has {sum(self.split)} cases, but the cohort only "
                f"{sum(self.cohort.values())}; enlarge the cohort"
            )

    @property
    def made(self) -> int:
        """The number of scans that the run makes for this site."""
        if self.deformed is not None:
            assert self.split is not None  # checked in __post_init__
            return sum(self.split)
        return sum(self.cohort.values())

    @property
    def counts(self) -> tuple[int, int, int] | None:
        """The number of training, validation and test cases; None if not known in advance."""
        if self.split:
            return self.split
        total = sum(self.cohort.values())
        return None if not total else (total - 2 * (total // 5), total // 5, total // 5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run.

    Attributes:
      flags_text: text of the flag file that all its programs receive.
      environment: variables added to this process's environment for its programs.
      stack: "own", or "other" for the Python of the other stack's environment.
      nonmembers: number of patients per site, belonging to no site of the run, against whom
          membership inference is measured; 0 measures nothing.
      local_models: whether the sites lend their local models to the cross-site evaluation.
    """

    config: ExperimentConfig
    flags_text: str
    folder: pathlib.Path
    cohorts: pathlib.Path
    sites: tuple[SiteSpec, ...]
    threads_per_site: int = 1
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stack: str = "own"
    baselines: bool = True
    beyond: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    nonmembers: int = 0
    local_models: bool = True

    def __post_init__(self) -> None:
        filtered = [site.name for site in self.sites if site.privacy.active]
        if self.baselines and filtered:
            raise ValueError(
                f"site {filtered[0]} has a privacy policy, under which it lends no baseline; set "
                "`baselines` to false"
            )
        mixed = [site.name for site in self.sites if len(site.cohort) != 1]
        if self.nonmembers and mixed:
            raise ValueError(
                f"site {mixed[0]}: membership inference needs further patients of the same "
                "hospital; give the site a synthetic `cohort` of one hospital, or leave out "
                "`nonmembers`"
            )
        rule = rules.parse(self.config.aggregation)
        rule.check_updates(
            len(self.sites),
            given=f"this run has {len(self.sites)} sites: give it {rule.min_updates} or more, "
            "or choose another aggregation rule",
        )


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


NONMEMBERS, MEMBERSHIP = "non-members", "membership inference"
PATCHES = 2  # per scan; two patches of a toy setting nearly cover its foreground
# Passes over a site's scans: losses under three global models; for the last three updates, losses
# under the received and the trained model, and gradients, each as long as three losses; two local
# models.
_LOSSES, _GRADIENTS = 3 + 2 * 3 + 3, 3
_FORWARD = 0.3  # of a training step for the same patches


def nonmember_seed(seed: int) -> int:
    """Returns the cohort seed of a run's non-members, far from those of its sites."""
    return 900_000 + seed


def preparation_name(config: ExperimentConfig) -> str:
    """Returns a folder name for cases that are prepared as a configuration says."""
    spacing = "x".join(f"{value:g}" for value in config.spacing_mm)
    return f"{spacing}mm-{config.window_hu[0]:g}to{config.window_hu[1]:g}hu"


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

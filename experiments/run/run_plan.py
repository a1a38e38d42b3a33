"""One run of Table 1 as a value: its sites, their scans, and what is trained."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

from experiments.configuration import ExperimentConfig
from federated.aggregation import rules
from federated.privacy.policy import PrivacyPolicy

POOLED, FINETUNED = "pooled", "finetuned"
BEYOND = (POOLED, FINETUNED)
NONMEMBERS, MEMBERSHIP = "non-members", "membership inference"  # stages of a run
PATCHES = 2  # per scan for membership inference; two of a toy setting nearly cover its foreground


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


def nonmember_seed(seed: int) -> int:
    """Returns the cohort seed of a run's non-members, far from those of its sites."""
    return 900_000 + seed


def preparation_name(config: ExperimentConfig) -> str:
    """Returns a folder name for cases that are prepared as a configuration says."""
    spacing = "x".join(f"{value:g}" for value in config.spacing_mm)
    return f"{spacing}mm-{config.window_hu[0]:g}to{config.window_hu[1]:g}hu"

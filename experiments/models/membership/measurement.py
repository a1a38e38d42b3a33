"""Measures attacks on the models of a run: losses in, scores of every attack out.

The losses of each model on each site's scans are stored in one file, so that an interrupted
measurement continues after the last one.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from c2fnas import named_weights
from experiments.configuration import ExperimentConfig, load_genotype
from experiments.models.membership.losses import MembershipLosses
from experiments.models.membership.targets import AttackedModel, Candidates
from experiments.results.statistics import membership_rates
from experiments.results.statistics.membership_rates import FORMAT, Stratum
from federated.tensors.tensor_files import TensorFile, file_digest
from runkit import atomic, formats, release

# One patch of 48^3 voxels with 8 filters, forward, on one of two cores.
_FORWARD_S, _FORWARD_MACS = 0.07, 48**3 * 189_772_333_056 / 96**3 / 16
_REMEDY = "remove it, and it is computed again"
_BACKWARD = 3.0  # a gradient takes this many times as long as a loss


@dataclasses.dataclass(frozen=True)
class Pass:
    """One computation: a model's losses on a site's scans, or the alignment of an update."""

    file: pathlib.Path
    site: str
    received: pathlib.Path | None = None  # for an alignment only


class Measurement:
    """The attacks on the targets of one run.

    Args:
      config: the settings of the run.
      candidates: site -> its scans.
      targets: the models under attack.
      references: site -> models that were not trained on its scans.
      folder: where the losses are kept.
      patches: number of patches per scan.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        candidates: Mapping[str, Candidates],
        targets: Sequence[AttackedModel],
        references: Mapping[str, Sequence[pathlib.Path]],
        folder: pathlib.Path,
        *,
        patches: int = 4,
    ):
        self._config, self._candidates, self._targets = config, candidates, list(targets)
        self._references = {site: list(references.get(site, ())) for site in candidates}
        self._folder, self._patches = folder / "losses", patches
        self._digests: dict[pathlib.Path, str] = {}
        self._losses: MembershipLosses | None = None

    def passes(self) -> list[Pass]:
        """Returns all computations, each once."""
        found: dict[Pass, None] = {}
        for target in self._targets:
            for site in target.sites:
                found[Pass(target.file, site)] = None
                if target.received is not None:
                    found[Pass(target.received, site)] = None
                    found[Pass(target.file, site, target.received)] = None
                for file in self._references[site]:
                    found[Pass(file, site)] = None
        return list(found)

    def seconds(self) -> float:
        """Returns a rough estimate of the remaining time, on two cores."""
        macs = load_genotype(self._config).macs(self._config.patch_size)
        patch = _FORWARD_S * macs / _FORWARD_MACS
        return sum(
            len(self._candidates[one.site].scans)
            * self._patches
            * patch
            * (_BACKWARD if one.received else 1.0)
            for one in self.passes()
            if self._kept(one) is None
        )

    def run(self, note: Callable[[str], object] = lambda text: None) -> dict[str, Any]:
        """Computes whatever is missing; returns the contents of `membership.json`."""
        passes = self.passes()
        for number, one in enumerate(passes, start=1):
            if self._kept(one) is None:
                note(f"{number} of {len(passes)}: {one.file.name}, scans of {one.site}")
                self._compute(one)
        return {
            "format": FORMAT,
            "release": release.version(),
            "patches": self._patches,
            "false_positives": membership_rates.FALSE_POSITIVES,
            "configuration": self._config.to_json(),
            "sites": {
                site: {
                    "members": own.members,
                    "nonmembers": len(own.scans) - own.members,
                    "references": len(self._references[site]),
                }
                for site, own in self._candidates.items()
            },
            "attacks": [entry for target in self._targets for entry in self._attacks(target)],
        }

    def _attacks(self, target: AttackedModel) -> list[dict[str, Any]]:
        names = ["loss"]
        if all(self._references[site] for site in target.sites):
            names.append("calibrated")
        if target.received is not None:
            names += ["update", "alignment"]
        return [self._attack(target, name) for name in names]

    def _attack(self, target: AttackedModel, attack: str) -> dict[str, Any]:
        strata = {site: self._stratum(target, attack, site) for site in target.sites}
        return {
            "model": target.name,
            "kind": target.kind,
            "round": target.round,
            "attack": attack,
            **membership_rates.summary(list(strata.values())),
            "by_site": {site: membership_rates.summary([one]) for site, one in strata.items()},
            "scores": {
                site: {
                    "members": [round(float(score), 9) for score in one.members],
                    "nonmembers": [round(float(score), 9) for score in one.others],
                }
                for site, one in strata.items()
            },
        }

    def _stratum(self, target: AttackedModel, attack: str, site: str) -> Stratum:
        if attack == "alignment":
            scores = self._values(Pass(target.file, site, target.received))
        else:
            losses = {"model": self._values(Pass(target.file, site))}
            if target.received is not None:
                losses["received"] = self._values(Pass(target.received, site))
            references = [self._values(Pass(file, site)) for file in self._references[site]]
            scores = membership_rates.scores(attack, losses, references)
        members = self._candidates[site].members
        return Stratum(scores[:members], scores[members:])

    def _values(self, one: Pass) -> np.ndarray:
        kept = self._kept(one)
        assert kept is not None  # `run` has computed it
        return kept

    def _digest(self, file: pathlib.Path) -> str:
        if file not in self._digests:
            with TensorFile(file) as stored:
                self._digests[file] = file_digest(stored)
        return self._digests[file]

    def _path(self, one: Pass) -> pathlib.Path:
        of = self._digest(one.file)[:16]
        if one.received is not None:
            of = f"{of}-from-{self._digest(one.received)[:16]}"
        return self._folder / f"{of}.{one.site}.json"

    def _key(self, one: Pass) -> list[Any]:
        return [self._candidates[one.site].key, self._patches, list(self._config.patch_size)]

    def _kept(self, one: Pass) -> np.ndarray | None:
        path = self._path(one)
        if not path.is_file():
            return None
        found = formats.read_json(path, FORMAT, remedy=_REMEDY)
        scans = len(self._candidates[one.site].scans)
        try:
            values = np.asarray(found["values"], float)
            if found["key"] != self._key(one):
                return None
            if values.shape != (scans,) or not np.isfinite(values).all():
                raise ValueError(f"{values.shape} values for {scans} scans")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not what this program writes there; {_REMEDY}") from error
        return values

    def _compute(self, one: Pass) -> None:
        if self._losses is None:
            self._losses = MembershipLosses(self._config, patches=self._patches)
        scans, what = self._candidates[one.site].scans, f"{one.file.stem} on {one.site}"
        weights = named_weights.load(one.file)[0]
        if one.received is None:
            values = self._losses.of_scans(weights, scans, what=what)
        else:
            before = named_weights.load(one.received)[0]
            values = self._losses.alignment(before, weights, scans, what=f"gradients, {what}")
        if not np.isfinite(values).all():
            raise ValueError(
                f"{one.file}: the losses of {int((~np.isfinite(values)).sum())} scans of "
                f"{one.site} are not finite; the model is damaged or has diverged"
            )
        content = {"format": FORMAT, "key": self._key(one), "values": [float(v) for v in values]}
        atomic.write_json(self._path(one), content)

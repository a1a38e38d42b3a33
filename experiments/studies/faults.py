"""Faults of a site in an experiment: it trains like any other, but corrupts the updates it sends.

Nothing here is part of a real site's program; only `experiments.faulty_site` uses it.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from federated.site.trainer import SiteTrainer
from federated.tensors import tensor_files
from federated.tensors.weights import NamedArrays
from preprocessing.case_source import CaseSource, PreparedCase
from preprocessing.foreground import LabelBox, LabelRuns
from preprocessing.volume import Grid

SCALE = 100.0
_OWN_MACHINE = ("localhost", "127.0.0.1", "::1")
LABELS_SHUFFLED, STUCK = "labels_shuffled", "stuck"

# What is sent in place of an update. The arguments are one array of the received global model, of
# the trained model, and of the first model that the site received.
_SENT: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "sign_flipped": lambda model, update, first: model - (update - model),
    "scaled": lambda model, update, first: model + np.float32(SCALE) * (update - model),
    LABELS_SHUFFLED: lambda model, update, first: update,
    STUCK: lambda model, update, first: first,
}
FAULTS: Mapping[str, str] = {
    "sign_flipped": "sends its change of the model with the opposite sign",
    "scaled": f"sends {SCALE:g} times its change of the model",
    LABELS_SHUFFLED: "trains on labels of other patients: each of the next training case",
    STUCK: "sends the first model that it received, round after round",
}


def require_own_machine(host: str, *, of_kit: str = "") -> None:
    """Raises ValueError unless the server is on this machine, so that no real federation is harmed.

    Args:
      of_kit: the kit that names this host; without it, the host is the one to connect to.
    """
    if host not in _OWN_MACHINE:
        what = f"kit {of_kit} is for a server on" if of_kit else "server is on"
        raise ValueError(
            f"{what} {host!r}: this program corrupts a run on purpose, so it only takes part in "
            f"runs on this machine ({', '.join(_OWN_MACHINE)}); use experiments.join"
        )


def sent(fault: str, model: NamedArrays, update: NamedArrays, first: NamedArrays) -> dict[str, Any]:
    """Returns the weights that a bad site sends, in the dtypes of the update.

    Args:
      fault: a key of `FAULTS`.
      model: the received global model.
      update: the weights after local training.
      first: the first global model that the site received.
    """
    spoil = _SENT[fault]
    return {
        name: spoil(model[name], value, first[name]).astype(value.dtype)
        for name, value in update.items()
    }


class FaultyTrainer:
    """Wraps a trainer and corrupts its updates; everything else is unchanged.

    Args:
      trainer: the site's trainer.
      fault: a key of `FAULTS`.
      folder: where the first received model is kept, so that it is sent again after a restart.
    """

    def __init__(self, trainer: SiteTrainer, fault: str, folder: pathlib.Path):
        self._trainer, self._fault = trainer, fault
        self._first = folder / "first_received.safetensors"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)

    def train(
        self, weights: NamedArrays, round_number: int
    ) -> tuple[NamedArrays, Mapping[str, float]]:
        if not self._first.exists():
            tensor_files.save(self._first, dict(weights))
        update, metrics = self._trainer.train(weights, round_number)
        first, _ = tensor_files.load(self._first)
        return sent(self._fault, weights, update, first), metrics


class ShuffledLabels:
    """A store whose training cases have swapped labels; validation and test cases are unchanged."""

    def __init__(self, store: CaseSource):
        self._store = store
        training = store.case_ids("training")
        if len(training) < 2:
            raise ValueError(
                f"site {store.site} has {len(training)} training case(s), and labels are swapped "
                "between two or more; give it more, or another fault"
            )
        self._next = dict(zip(training, (*training[1:], *training[:1]), strict=True))

    @property
    def site(self) -> str:
        return self._store.site

    @property
    def declared(self) -> Mapping[str, str] | None:
        return self._store.declared

    def case_ids(self, split: str | None = None) -> tuple[str, ...]:
        return self._store.case_ids(split)

    def open(self, case_id: str) -> PreparedCase:
        case = self._store.open(case_id)
        if case_id not in self._next:
            return case
        return _OtherLabel(case, self._store.open(self._next[case_id]))


class _OtherLabel:
    """A case with another case's label, aligned at the centre and cropped to the scan."""

    def __init__(self, case: PreparedCase, other: PreparedCase):
        self._case = case
        self.image, self.label = case.image, _fitted(np.asarray(other.label), case.image.shape)
        if not self.label.any():
            raise ValueError(
                f"case {case.number}: the label of case {other.number} lies outside its scan; "
                "use another seed of the cohort"
            )
        self.runs: LabelRuns = LabelBox.of(self.label).runs()

    @property
    def case_id(self) -> str:
        return self._case.case_id

    @property
    def number(self) -> int:
        return self._case.number

    @property
    def native(self) -> Grid:
        return self._case.native

    @property
    def target_mm(self) -> tuple[float, float, float]:
        return self._case.target_mm

    def native_label(self) -> np.ndarray:
        return self._case.native_label()


def _fitted(label: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns a label map of `shape` with `label` at its centre, cropped to it, 0 elsewhere."""
    result = np.zeros(shape, dtype=np.uint8)
    source, target = [], []
    for own, wanted in zip(label.shape, shape, strict=True):
        size = min(own, wanted)
        source.append(slice((own - size) // 2, (own - size) // 2 + size))
        target.append(slice((wanted - size) // 2, (wanted - size) // 2 + size))
    result[tuple(target)] = label[tuple(source)]
    return result

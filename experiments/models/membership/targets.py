"""The models of a run and the candidate scans on which membership inference is measured.

A candidate is a member if a model was trained on it: a global model on the training cases of all
sites, a site's own model and its update on those of the site. Non-members are other patients of
the same hospital whom no site of the run has.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from federated.rounds.tasks import LAST_GLOBAL, global_name, global_number
from federated.storage.store_folder import StoreFolder
from preprocessing.case_source import CaseSource, PreparedCase

Kind = Literal["global", "local", "update"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackedModel:
    """A model whose training cases an attacker looks for.

    Attributes:
      name: name of the model; the same in all rounds.
      round: number of the global model, or of the update's round; None for other models.
      sites: the sites whose training cases are its members.
      received: for an update, the global model that the site trained from.
    """

    name: str
    kind: Kind
    file: pathlib.Path
    sites: tuple[str, ...]
    round: int | None = None
    received: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The scans of one site: members first, then non-members.

    Attributes:
      members: number of members.
      key: a digest of the scans and labels, on which the losses depend.
    """

    scans: tuple[PreparedCase, ...]
    members: int
    key: str

    @classmethod
    def of(
        cls,
        members: CaseSource,
        others: CaseSource,
        limit: int = 0,
        *,
        elsewhere: Sequence[CaseSource] = (),
    ) -> Candidates:
        """Returns the training cases of `members` and all cases of `others`.

        Args:
          limit: largest number of non-members, 0 for all.
          elsewhere: the cases of the run's other sites, which are members of the global model.
        Raises:
          ValueError: if there are no members or no non-members, or if a scan is both.
        """
        inside = [members.open(case) for case in members.case_ids("training")]
        outside = [others.open(case) for case in others.case_ids()][: limit or None]
        if not inside or not outside:
            raise ValueError(
                f"site {members.site}: {len(inside)} training cases and {len(outside)} "
                "non-members; both are needed"
            )
        known = {
            _digest(store.open(case)): f"case {case} of site {store.site}"
            for store in (*elsewhere, members)
            for case in store.case_ids()
        }
        digests = [_digest(case) for case in (*inside, *outside)]
        for case, digest in zip(outside, digests[len(inside) :], strict=True):
            if digest in known:
                raise ValueError(
                    f"site {members.site}: the non-member {case.case_id} is "
                    f"{known[digest]}; give patients that no site has, e.g. of another --seed of "
                    "experiments.synthesize"
                )
        labels = [_digest_of(case.label) for case in (*inside, *outside)]
        key = hashlib.sha256("".join([*digests, *labels]).encode()).hexdigest()
        return cls((*inside, *outside), len(inside), key)


def _digest(case: PreparedCase) -> str:
    return _digest_of(case.image)


def _digest_of(volume: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(volume).tobytes()).hexdigest()


def of_run(
    folder: pathlib.Path, sites: Sequence[str], rounds: Sequence[int] = ()
) -> list[AttackedModel]:
    """Returns the targets in the folder of a run on one machine.

    They are the global models of `rounds`, the updates of these rounds that the server has kept
    (`--keep_updates`), and the sites' best local models and baselines.

    Args:
      sites: the sites whose training cases are looked for.
      rounds: by default those after a quarter, half and all of the run's rounds.
    Raises:
      ValueError: for a folder without global models, or a round whose model is not there.
    """
    store = StoreFolder(folder / "server")
    files = (store.folder / "global").glob("round_*.safetensors")
    last = max((global_number(file.stem) or 0 for file in files), default=0)
    if not last:
        raise ValueError(
            f"{folder}: holds no global model that was trained; give the folder of a finished run "
            "of experiments.table1 or experiments.study"
        )
    found = []
    for number in rounds or sorted({max(1, last // 4), max(1, last // 2), last}):
        if number < 1 or not store.global_path(number).is_file():
            raise ValueError(
                f"{store.global_path(number)}: {'not trained' if number < 1 else 'no such file'}; "
                f"--rounds takes rounds from 1 to {last} whose models are kept"
            )
        found.append(
            AttackedModel(
                name=LAST_GLOBAL,
                kind="global",
                file=store.global_path(number),
                sites=tuple(sites),
                round=number,
            )
        )
        found += _updates(store, number, sites)
    for part, name in (("federated", "FL_local"), ("baseline", "baseline")):
        for site in sites:
            file = folder / "sites" / site / part / "best.safetensors"
            if file.is_file():
                found.append(
                    AttackedModel(name=f"{site}_{name}", kind="local", file=file, sites=(site,))
                )
    return found


def _updates(store: StoreFolder, number: int, sites: Sequence[str]) -> list[AttackedModel]:
    received, found = store.global_path(number - 1), []
    for site in sites:
        kept = sorted(store.kept_folder(number).glob(f"{global_name(number)}.{site}.*.safetensors"))
        if kept and received.is_file():
            found.append(
                AttackedModel(
                    name=f"{site}_update",
                    kind="update",
                    file=kept[-1],
                    sites=(site,),
                    round=number,
                    received=received,
                )
            )
    return found


def references_of_run(folder: pathlib.Path, sites: Sequence[str]) -> dict[str, list[pathlib.Path]]:
    """Returns site -> models of the run that were never trained on its cases.

    These are the other sites' baselines, which have seen no federation.
    """
    found: Mapping[str, pathlib.Path] = {
        path.parents[1].name: path for path in folder.glob("sites/*/baseline/best.safetensors")
    }
    return {
        site: [path for other, path in sorted(found.items()) if other != site] for site in sites
    }

"""What a site remembers across restarts: which run it is in, what it has done, and the update it
has not delivered yet.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from federated.errors import DifferentRun
from federated.rounds.tasks import check_model_name
from federated.security import certificates
from federated.tensors import tensor_files
from federated.tensors.weights import TensorManifest
from runkit import atomic, private


@dataclasses.dataclass(frozen=True)
class PendingUpdate:
    """An update on disk that the server has not confirmed yet."""

    round: int
    num_examples: int
    metrics: Mapping[str, float]
    sha256: str


class Journal:
    """A folder that is consistent after a kill at any moment: one JSON file, replaced atomically,
    and files it points to.

    What is in a file counts only while it is what this class wrote there: the update and the rows
    of a model are known by digest.

    Raises:
      ValueError: for a journal that is not JSON, or not a journal's.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = private.tree(folder)
        self._path = self.folder / "journal.json"
        self._syncing: threading.Thread | None = None
        self._manifest: tuple[TensorManifest, tuple[int, ...]] | None = (
            None  # of the update, and the stamp of its file
        )
        self._state: dict[str, Any] = {
            "run": None,
            "authority": None,
            "trained": 0,
            "discarded": 0,
            "scores": {},
            "update": None,
            "published": {},
            "rows": {},
            "declared": False,
            "reported": False,
            "finished": False,
        }
        if self._path.exists():
            self._read()
            self._check_update()

    def _read(self) -> None:
        found = atomic.read_json(self._path)
        whole = isinstance(found, dict) and all(
            isinstance(found.get(key, value), _KINDS[key]) for key, value in self._state.items()
        )
        update = found.get("update") if whole else None
        if not whole or (update is not None and not _is_update(update)):
            raise ValueError(
                f"{self._path}: not what this program writes there; restore it, or give the run a new folder"
            )
        self._state.update(found)
        if self.update is not None:
            self._state["trained"] = max(
                self.trained, self.update.round
            )  # an earlier release noted the round with the update only

    def manifest(self) -> TensorManifest | None:
        """Of the update, where this process wrote or read it and nobody has touched the file since."""
        if self._manifest is None or _stamp(self.update_path) != self._manifest[1]:
            return None
        return self._manifest[0]

    def _check_update(self) -> None:
        """Forgets an update whose file is not the one that was noted: a kill came between the two."""
        noted = self._state["update"]
        if noted is None:
            return
        stamp = _stamp(self.update_path)
        try:
            with tensor_files.TensorFile(self.update_path) as file:
                manifest = tensor_files.file_manifest(file)
        except (
            ValueError,
            FileNotFoundError,
        ):  # any other error of the system says nothing about the update: it must not be forgotten
            manifest = None
        if manifest is None or manifest.sha256 != noted["sha256"]:
            self._state["update"] = None
        else:
            self._manifest = manifest, stamp

    def check_authority(self, authority: str) -> None:
        """Raises DifferentRun where the folder belongs to a run of another federation.

        Args:
          authority: fingerprint of the authority that this site trusts now, "" where there is none.
        """
        known = self._state["authority"]
        if authority and known not in (None, authority):
            raise DifferentRun(
                f"{self.folder} belongs to run {self._state['run']} of the federation whose authority is {certificates.spoken(known)}; "
                f"the authority of this kit is {certificates.spoken(authority)}. {self._remedy()}, or use the kit of that federation"
            )

    def enter(self, run: str, authority: str = "") -> None:
        """Begins or continues a run. Raises DifferentRun where the folder belongs to another one,
        or to another federation.

        A journal of an earlier release has no authority yet: it takes that of the run that it
        continues.
        """
        self.check_authority(authority)
        if self._state["run"] not in (None, run):
            raise DifferentRun(
                f"{self.folder} belongs to run {self._state['run']}{', which is finished' if self.finished else ''}; "
                f"the server leads run {run}. {self._remedy()}, or start the server with the store of the earlier run"
            )
        authority = authority or self._state["authority"]
        if (self._state["run"], self._state["authority"]) != (run, authority):
            self._set(run=run, authority=authority)

    def _remedy(self) -> str:
        # Weights, optimiser and best model of the earlier run lie beside the journal, and must not
        # begin the next run.
        return f"To take part in the other run, move {self.folder.parent} away (it holds what the earlier run left) and start again"

    @property
    def run(self) -> str | None:
        return self._state["run"]

    @property
    def finished(self) -> bool:
        return self._state["finished"]

    def finish(self) -> None:
        self._set(finished=True)

    def scores(self, model: int) -> dict[str, float] | None:
        """Returns what this site scored on a global model, so that no model is scored twice."""
        found = self._state["scores"].get(str(model))
        return found if isinstance(found, dict) else None

    def keep_scores(self, model: int, scores: Mapping[str, float]) -> None:
        # Worth keeping, not worth a wait: lost in a power cut, the model is scored again.
        self._set(durable=False, scores={**self._state["scores"], str(model): dict(scores)})

    @property
    def trained(self) -> int:
        """Returns the last round that this site has trained, 0 before the first."""
        return self._state["trained"]

    @property
    def discarded(self) -> int:
        """Returns how often the operator had taken the run back when this site heard of it last."""
        return self._state["discarded"]

    def go_back(self, round_number: int, discarded: int) -> None:
        """Forgets what came of a round and of all later ones: they are trained, scored and
        evaluated anew.
        """
        scores = {
            model: found
            for model, found in self._state["scores"].items()
            if int(model) < round_number
        }
        self._manifest = None
        self._set(
            discarded=discarded,
            trained=min(self.trained, round_number - 1),
            scores=scores,
            update=None,
            published={},
            rows={},
            declared=False,
            reported=False,
        )
        self.update_path.unlink(missing_ok=True)

    @property
    def update_path(self) -> pathlib.Path:
        return self.folder / "update.safetensors"

    @property
    def incoming_path(self) -> pathlib.Path:
        """Where global models arrive; one stays until the next is written over it, so that a
        restart need not fetch it again.
        """
        return self.folder / "incoming.safetensors"

    @property
    def update(self) -> PendingUpdate | None:
        state = self._state["update"]
        return None if state is None else PendingUpdate(**state)

    def spool(
        self,
        round_number: int,
        arrays: Mapping[str, np.ndarray],
        num_examples: int,
        metrics: Mapping[str, float],
    ) -> PendingUpdate:
        """Keeps a trained update until its receipt is there; it survives a kill at once, a power
        cut once `wait_until_durable` returns.
        """
        self.wait_until_durable()
        self._state["update"] = self._manifest = None
        manifest = tensor_files.save_as(
            self.update_path, arrays, {"round": str(round_number)}, sync=False
        )
        self._manifest = manifest, _stamp(self.update_path)
        spooled = PendingUpdate(round_number, num_examples, dict(metrics), manifest.sha256)
        self._set(update=dataclasses.asdict(spooled), trained=max(self.trained, round_number))
        self._syncing = threading.Thread(
            target=self._sync_update, args=(os.open(self.update_path, os.O_RDWR),), name="sync"
        )
        # while the update is sent: the server's copy is soon as good, and a corrupt one here is
        # known by its digest
        self._syncing.start()
        return spooled

    def _sync_update(self, file: int) -> None:
        try:
            os.fsync(file)
            atomic.sync_directory(self.folder)
        except OSError as error:
            logging.warning("event=update_not_synced reason=%s", error.strerror)
        finally:
            os.close(file)

    def wait_until_durable(self) -> None:
        """Returns once the update is on disk."""
        if self._syncing is not None:
            self._syncing.join()
            self._syncing = None

    def release_update(self) -> None:
        """Forgets an update that was confirmed, and removes it.

        That it was noted may survive a kill: without its file it counts for nothing, and sent again
        it is only confirmed again.
        """
        self._state["update"] = self._manifest = None
        # now, while others are waited for, and not when the next takes its place: removing takes as
        # long as copying
        self.update_path.unlink(missing_ok=True)

    def drop_update(self) -> None:
        """Forgets an update for good."""
        self._manifest = None
        self._set(update=None)
        self.update_path.unlink(missing_ok=True)

    @property
    def published(self) -> dict[str, str]:
        """Returns name to digest of the models the server has confirmed."""
        return dict(self._state["published"])

    def keep_published(self, model: str, sha256: str) -> None:
        self._set(published={**self._state["published"], model: sha256})

    def forget_published(self) -> None:
        self._set(published={}, declared=False)

    @property
    def declared(self) -> bool:
        return self._state["declared"]

    def keep_declared(self) -> None:
        self._set(declared=True)

    @property
    def reported(self) -> bool:
        """Whether the server has confirmed the last thing that a site owes it: its rows, or else
        its scores of the last global model.
        """
        return self._state["reported"]

    def keep_reported(self) -> None:
        self._set(reported=True)

    @property
    def evaluated(self) -> tuple[str, ...]:
        """Returns the models whose rows are noted."""
        return tuple(self._state["rows"])

    def rows(self, model: str) -> list[dict[str, Any]] | None:
        """Returns the rows of a model that has been evaluated already; None where the file is not
        the one that was noted.
        """
        try:
            content = self._rows_path(model).read_bytes()
        except FileNotFoundError:
            return None
        return (
            json.loads(content)
            if hashlib.sha256(content).hexdigest() == self._state["rows"].get(model)
            else None
        )

    def keep_rows(self, model: str, rows: Sequence[Mapping[str, Any]]) -> None:
        content = (
            json.dumps([dict(row) for row in rows], indent=2, allow_nan=False) + "\n"
        ).encode("utf-8")
        atomic.write_bytes(self._rows_path(model), content)
        self._set(rows={**self._state["rows"], model: hashlib.sha256(content).hexdigest()})

    def _rows_path(self, model: str) -> pathlib.Path:
        check_model_name(model)
        return self.folder / "rows" / f"{model}.json"

    def _set(self, *, durable: bool = True, **changes: Any) -> None:
        self._state.update(changes)
        with atomic.replacing(self._path, sync_folder=durable) as temporary:
            temporary.write_text(
                json.dumps(self._state, indent=2, allow_nan=False) + "\n", encoding="utf-8"
            )


_KINDS: Mapping[str, tuple[type, ...]] = {
    "run": (str, type(None)),
    "authority": (str, type(None)),
    "update": (dict, type(None)),
    "trained": (int,),
    "discarded": (int,),
    **dict.fromkeys(("scores", "published", "rows"), (dict,)),
    **dict.fromkeys(("declared", "reported", "finished"), (bool,)),
}


def _is_update(found: Mapping[str, Any]) -> bool:
    kinds = {"round": int, "num_examples": int, "metrics": dict, "sha256": str}
    return found.keys() == kinds.keys() and all(
        isinstance(found[key], kind) for key, kind in kinds.items()
    )


def _stamp(path: pathlib.Path) -> tuple[int, ...]:
    """Returns what a change of a file alters; empty where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

"""A site's records, which survive restarts.

They state the run in which it takes part and what it has done there, and hold the update that it
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
from typing import Any, TypedDict

import numpy as np
from absl import logging

from federated.errors import DifferentRun, PolicyRefused
from federated.rounds.tasks import check_model_name, global_number
from federated.security import certificates
from federated.tensors import tensor_files
from federated.tensors.weights import TensorManifest
from runkit import atomic, formats, private

# Of journal.json; increase it if earlier releases can no longer read a new journal. Format 2 has
# `filtered`: an earlier release, which does not know privacy policies, must not continue with it.
FORMAT = 2
_UNFILTERED_FORMAT = 1
# Follows the id of a run in format 2. Release 0.1.0 does not read the format, but the id, and says
# that the folder belongs to another run.
_UNDER_POLICY = " (under a privacy policy, which release 0.1.0 does not know)"


@dataclasses.dataclass(frozen=True)
class PendingUpdate:
    """An update on disk that the server has not confirmed yet."""

    round: int
    num_examples: int
    metrics: Mapping[str, float]
    sha256: str


class _Update(TypedDict):
    round: int
    num_examples: int
    metrics: dict[str, float]
    sha256: str


class _State(TypedDict):
    """The content of `journal.json`."""

    format: int
    run: str | None
    authority: str | None  # fingerprint
    trained: int
    discarded: int
    scores: dict[str, dict[str, float]]  # number of a global model -> its scores
    update: _Update | None
    published: dict[str, str]  # model -> digest
    rows: dict[str, str]  # model -> digest of the file of its rows
    private: dict[str, str]  # a round or a lent model -> digest of its arrays kept at the site
    globals: dict[str, int]  # digest of a global model -> its number
    records: list[str]  # further files of the folder, without which the run does not continue
    declared: bool
    reported: bool
    finished: bool
    filtered: bool  # whether updates pass a privacy policy before they leave
    filtered_updates: int  # how many did, those of discarded rounds included


class Journal:
    """A folder that is consistent after a kill at any moment.

    It contains one JSON file, which is replaced atomically, and the files to which it refers. The
    JSON file has the digests of the update and of each model's rows; a file with another digest
    does not count.

    Raises:
      ValueError: if `journal.json` is not JSON, or was not written by this class, or was written by
        a newer release.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = private.tree(folder)
        self._path = self.folder / "journal.json"
        self._syncing: threading.Thread | None = None
        # The update's manifest, and the stamp of its file when it was read.
        self._manifest: tuple[TensorManifest, tuple[int, ...]] | None = None
        self._state: _State = {
            "format": _UNFILTERED_FORMAT,
            "run": None,
            "authority": None,
            "trained": 0,
            "discarded": 0,
            "scores": {},
            "update": None,
            "published": {},
            "rows": {},
            "private": {},
            "globals": {},
            "records": [],
            "declared": False,
            "reported": False,
            "finished": False,
            "filtered": False,
            "filtered_updates": 0,
        }
        if self._path.exists():
            # A killed process may not have synced the names of the files here. They count now.
            atomic.sync_directory(self.folder)
            self._read()
            self.check_update()

    def _read(self) -> None:
        found = formats.read_json(self._path, FORMAT, remedy=_REMEDY)
        whole = isinstance(found, dict) and all(
            _is_value(key, found.get(key, value)) for key, value in self._state.items()
        )
        update = found.get("update") if whole else None
        if not whole or (update is not None and not _is_update(update)):
            raise ValueError(f"{self._path}: not what this program writes there; {_REMEDY}")
        self._state.update(found)
        self._state["format"] = FORMAT if self.filtered else _UNFILTERED_FORMAT
        if self.run is not None:
            self._state["run"] = self.run.removesuffix(_UNDER_POLICY)
        if self.update is not None:
            # An earlier release recorded the round with the update only.
            self._state["trained"] = max(self.trained, self.update.round)

    def manifest(self) -> TensorManifest | None:
        """Returns the update's manifest, or None if its file has changed since it was read."""
        if self._manifest is None or _stamp(self.update_path) != self._manifest[1]:
            return None
        return self._manifest[0]

    def check_update(self) -> None:
        """Forgets an update whose file is not the recorded one, as after a kill between the two, or
        if the disk has corrupted it.
        """
        noted = self._state["update"]
        if noted is None:
            return
        stamp = _stamp(self.update_path)
        try:
            with tensor_files.TensorFile(self.update_path) as file:
                manifest = tensor_files.file_manifest(file)
        except (ValueError, FileNotFoundError):
            # Any other system error implies nothing about the update, so it must not be forgotten.
            manifest = None
        if manifest is None or manifest.sha256 != noted["sha256"]:
            self._state["update"] = None
        else:
            self._manifest = manifest, stamp

    def check_authority(self, authority: str) -> None:
        """Raises DifferentRun if the folder belongs to a run of another federation.

        Args:
          authority: fingerprint of the authority that this site trusts now; "" for none.
        """
        known = self._state["authority"]
        if authority and known not in (None, authority):
            raise DifferentRun(
                f"{self.folder} belongs to run {self._state['run']} of the federation whose "
                f"authority is {certificates.spoken(known)}; the authority of this kit is "
                f"{certificates.spoken(authority)}. {self._remedy()}, "
                "or use the kit of that federation"
            )

    def enter(self, run: str, authority: str = "") -> None:
        """Begins or continues a run.

        A journal of an earlier release has no authority yet, and takes this one.

        Raises:
          DifferentRun: if the folder belongs to another run, or to another federation.
        """
        self.check_authority(authority)
        if self._state["run"] not in (None, run):
            raise DifferentRun(
                f"{self.folder} belongs to run {self._state['run']}"
                f"{', which is finished' if self.finished else ''}; the server leads run {run}. "
                f"{self._remedy()}, or start the server with the store of the earlier run"
            )
        trusted = authority or self._state["authority"]
        if (self._state["run"], self._state["authority"]) != (run, trusted):
            self._state.update({"run": run, "authority": trusted})
            self._write()

    def keep_record(self, name: str) -> None:
        """Records that the run does not continue without a file of the folder, which is on disk."""
        if name not in self._state["records"]:
            self._state["records"] = [*self._state["records"], name]
            self._write()

    def check_records(self) -> None:
        """Raises PolicyRefused if one of the files that `keep_record` named is missing."""
        for name in self._state["records"]:
            if not (self.folder / name).exists():
                raise PolicyRefused(
                    f"{self.folder / name}: is missing, so nobody knows what this site has "
                    "answered or helped to open in this run; put back the file itself (an older "
                    "copy lacks what came after it), or leave this run"
                )

    def _remedy(self) -> str:
        # The earlier run's weights, optimiser and best model are next to the journal; the next run
        # must not start from them.
        spent = ", and the next ledger does not count what these patients spent" * self.filtered
        return (
            f"To take part in the other run, move {self.folder.parent} away (it holds what the "
            f"earlier run left{spent}) and start again"
        )

    @property
    def run(self) -> str | None:
        return self._state["run"]

    @property
    def finished(self) -> bool:
        return self._state["finished"]

    def finish(self) -> None:
        """Records that the run is finished, and removes what only an unfinished run needs."""
        self._state["update"] = self._manifest = None
        self._state["finished"] = True
        self._write()
        self.update_path.unlink(missing_ok=True)
        self.lent_path.unlink(missing_ok=True)

    def remove_leftovers(self) -> None:
        """Removes partly written files left by a kill; other processes must not write here now."""
        for folder in (self.folder, self.folder / "rows", self.folder / "private"):
            for path in atomic.leftovers(folder):
                path.unlink(missing_ok=True)

    def scores(self, model: int) -> dict[str, float] | None:
        """Returns this site's scores of a global model, so that it is not scored twice.

        Only those of the newest 16 are kept, so that the journal stays small in a run of thousands
        of rounds. An older one is scored again if the operator goes back to it.
        """
        found = self._state["scores"].get(str(model))
        return found if isinstance(found, dict) else None

    def keep_scores(self, model: int, scores: Mapping[str, float]) -> None:
        # It is not necessary to wait for the disk: after a power cut the model is scored again.
        kept = {**self._state["scores"], str(model): dict(scores)}
        newest = sorted(kept, key=int)[-_KEPT_SCORES:]
        self._state["scores"] = {number: kept[number] for number in newest}
        self._write(durable=False)

    @property
    def trained(self) -> int:
        """The last round that this site has trained; 0 before the first."""
        return self._state["trained"]

    @property
    def discarded(self) -> int:
        """How often the operator has discarded rounds, as far as this site knows."""
        return self._state["discarded"]

    def go_back(self, round_number: int, discarded: int) -> None:
        """Forgets the results of a round and all later ones, which will be done again."""
        scores = {
            model: found
            for model, found in self._state["scores"].items()
            if int(model) < round_number
        }
        private = {
            name: sha256
            for name, sha256 in self._state["private"].items()
            if (global_number(name) or round_number) < round_number
        }
        known = {
            sha256: number
            for sha256, number in self._state["globals"].items()
            if number < round_number
        }
        self._manifest = None
        self._state.update(
            {
                "private": private,
                "globals": known,
                "discarded": discarded,
                "trained": min(self.trained, round_number - 1),
                "scores": scores,
                "update": None,
                "published": {},
                "rows": {},
                "declared": False,
                "reported": False,
            }
        )
        self._write()
        self.update_path.unlink(missing_ok=True)

    @property
    def private(self) -> dict[str, str]:
        """Name of a round or of a lent model -> digest of the site's private arrays of it."""
        return dict(self._state["private"])

    def note_private(self, name: str, sha256: str) -> None:
        self._state["private"][name] = sha256
        self._write()

    def note_global(self, sha256: str, number: int) -> None:
        """Records the number of the global model with that digest."""
        if self._state["globals"].get(sha256) != number:
            self._state["globals"][sha256] = number
            self._write(durable=False)

    def number_of(self, sha256: str) -> int | None:
        """Returns the number of a global model that this site has received; else None."""
        return self._state["globals"].get(sha256)

    @property
    def update_path(self) -> pathlib.Path:
        return self.folder / "update.safetensors"

    @property
    def lent_path(self) -> pathlib.Path:
        """The path of a model while it is published."""
        return self.folder / "model.safetensors"

    @property
    def incoming_path(self) -> pathlib.Path:
        """The path at which global models arrive.

        A model remains until the next overwrites it, so that a restart need not download it again.
        """
        return self.folder / "incoming.safetensors"

    @property
    def update(self) -> PendingUpdate | None:
        state = self._state["update"]
        return None if state is None else PendingUpdate(**state)

    def keep_update(
        self,
        round_number: int,
        arrays: Mapping[str, np.ndarray],
        num_examples: int,
        metrics: Mapping[str, float],
    ) -> PendingUpdate:
        """Stores a trained update until the server confirms it.

        From now on the update survives a kill; once `wait_until_durable` has returned, it also
        survives a power cut.
        """
        self.wait_until_durable()
        self._state["update"] = self._manifest = None
        manifest = tensor_files.save_as(
            self.update_path, arrays, {"round": str(round_number)}, sync=False
        )
        self._manifest = manifest, _stamp(self.update_path)
        pending = PendingUpdate(round_number, num_examples, dict(metrics), manifest.sha256)
        self._state.update(
            {
                "update": {
                    "round": round_number,
                    "num_examples": num_examples,
                    "metrics": dict(metrics),
                    "sha256": manifest.sha256,
                },
                "trained": max(self.trained, round_number),
                "filtered_updates": self.filtered_updates + self.filtered,
            }
        )
        self._write()
        self._syncing = threading.Thread(
            target=self._sync_update, args=(os.open(self.update_path, os.O_RDWR),), name="sync"
        )
        # Synced while the update is sent: soon the server's copy is as good, and the digest shows
        # whether this one is corrupt.
        self._syncing.start()
        return pending

    def _sync_update(self, file: int) -> None:
        try:
            os.fsync(file)
            atomic.sync_directory(self.folder)
        except OSError as error:
            logging.warning("event=update_not_synced reason=%s", error.strerror)
        finally:
            os.close(file)

    def wait_until_durable(self) -> None:
        """Waits until the update is synced to disk."""
        if self._syncing is not None:
            self._syncing.join()
            self._syncing = None

    def release_update(self) -> None:
        """Removes an update that the server has confirmed.

        After a kill, its entry may reappear in `journal.json`. The entry is ignored if the file is
        missing, and if the update is sent again, the server merely confirms it again.
        """
        self._state["update"] = self._manifest = None
        # Removing a file takes as long as copying it, so this is done while waiting for other
        # sites.
        self.update_path.unlink(missing_ok=True)

    def drop_update(self) -> None:
        """Removes an update, so that it is never sent again."""
        self._manifest = None
        self._state["update"] = None
        self._write()
        self.update_path.unlink(missing_ok=True)

    @property
    def published(self) -> dict[str, str]:
        """Name -> digest, for the models that the server has confirmed."""
        return dict(self._state["published"])

    def keep_published(self, model: str, sha256: str) -> None:
        self._state["published"][model] = sha256
        self._write()

    def forget_published(self) -> None:
        self._state.update({"published": {}, "declared": False})
        self._write()

    @property
    def declared(self) -> bool:
        return self._state["declared"]

    def keep_declared(self) -> None:
        self._state["declared"] = True
        self._write()

    @property
    def reported(self) -> bool:
        """Whether the server has confirmed everything that it expects from this site.

        Last, that is its rows or, in a run without evaluation, its scores of the last global model.
        """
        return self._state["reported"]

    def keep_reported(self) -> None:
        self._state["reported"] = True
        self._write()

    @property
    def filtered(self) -> bool:
        """Whether this run's updates pass a privacy policy; once true, this remains so."""
        return self._state["filtered"]

    @property
    def filtered_updates(self) -> int:
        """How many updates of this run passed a privacy policy; discarded rounds count, too."""
        return self._state["filtered_updates"]

    def keep_filtered(self) -> None:
        """Records that this run has a privacy policy. An earlier update is not sent again."""
        self._state.update({"filtered": True, "format": FORMAT, "update": None})
        self._manifest = None
        self._write()
        self.update_path.unlink(missing_ok=True)

    @property
    def evaluated(self) -> tuple[str, ...]:
        """The models whose rows are recorded."""
        return tuple(self._state["rows"])

    def rows(self, model: str) -> list[dict[str, Any]] | None:
        """Returns the rows of a model that has been evaluated already, else None.

        Also returns None if the file is not the recorded one.
        """
        try:
            with atomic.naming(self._rows_path(model)):
                content = self._rows_path(model).read_bytes()
        except FileNotFoundError:
            return None
        if hashlib.sha256(content).hexdigest() != self._state["rows"].get(model):
            return None
        return json.loads(content)

    def keep_rows(self, model: str, rows: Sequence[Mapping[str, Any]]) -> None:
        content = (
            json.dumps([dict(row) for row in rows], indent=2, allow_nan=False) + "\n"
        ).encode("utf-8")
        atomic.write_bytes(self._rows_path(model), content)
        self._state["rows"][model] = hashlib.sha256(content).hexdigest()
        self._write()

    def _rows_path(self, model: str) -> pathlib.Path:
        check_model_name(model)
        return self.folder / "rows" / f"{model}.json"

    def _write(self, *, durable: bool = True) -> None:
        state = dict(self._state)
        if self.filtered and self.run is not None:
            state["run"] = self.run + _UNDER_POLICY
        with atomic.replacing(self._path, sync_folder=durable) as temporary:
            temporary.write_text(
                json.dumps(state, indent=2, allow_nan=False) + "\n", encoding="utf-8"
            )


_KEPT_SCORES = 16
_REMEDY = "restore it, or give the run a new folder"
_ENTRIES = {"published": str, "rows": str, "private": str, "globals": int}
_KINDS: Mapping[str, tuple[type, ...]] = {
    "format": (int, str),
    "run": (str, type(None)),
    "authority": (str, type(None)),
    "update": (dict, type(None)),
    **dict.fromkeys(("trained", "discarded", "filtered_updates"), (int,)),
    **dict.fromkeys(("scores", "published", "rows", "private", "globals"), (dict,)),
    "records": (list,),
    **dict.fromkeys(("declared", "reported", "finished", "filtered"), (bool,)),
}


def _is_value(key: str, value: Any) -> bool:
    """Returns whether a value may have that key in `journal.json`."""
    if not isinstance(value, _KINDS[key]):
        return False
    if type(value) is int:
        return value >= 0
    if isinstance(value, list):
        return all(isinstance(entry, str) and entry for entry in value)
    if isinstance(value, dict) and key == "scores":
        return all(name.isdecimal() and isinstance(of, dict) for name, of in value.items())
    if isinstance(value, dict) and key in _ENTRIES:
        return all(type(entry) is _ENTRIES[key] for entry in value.values())
    return _KINDS[key] == (bool,) or not isinstance(value, bool)  # which is an int, too


def _is_update(found: Mapping[str, Any]) -> bool:
    kinds = {"round": int, "num_examples": int, "metrics": dict, "sha256": str}
    return found.keys() == kinds.keys() and all(
        isinstance(found[key], kind) for key, kind in kinds.items()
    )


def _stamp(path: pathlib.Path) -> tuple[int, ...]:
    """Returns a value that changes with the file; empty if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

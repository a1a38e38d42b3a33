"""A site's private arrays: those that the plan keeps at the site, after every round it trained.

In a global model these arrays have the initial model's values. A site replaces them by its own
before it scores, trains or evaluates, and removes them before anything is sent. One file per round
is kept, because the operator may go back to any round and any global model may be the best one.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from federated import errors
from federated.rounds.sharing import Sharing
from federated.rounds.tasks import global_name, global_number
from federated.site.journal import Journal
from federated.tensors import tensor_files
from federated.tensors.weights import NamedArrays, TensorSpec
from runkit import atomic, private


class PrivateArrays:
    """Splits a site's models into shared and private arrays, and stores the private ones.

    Args:
      journal: records the digest of every file; the files are in its folder `private`.
      sharing: how the plan treats each array.
      specs: the tensors of the model in canonical order.
    Attributes:
      shared_specs: the tensors of an update, and of a lent model.
    """

    def __init__(self, journal: Journal, sharing: Sharing, specs: Sequence[TensorSpec]):
        self._journal, self.sharing, self._specs = journal, sharing, tuple(specs)
        self.shared_specs = tuple(spec for spec in specs if spec.name in sharing.shared)
        self._folder = journal.folder / "private"

    def shared(self, arrays: NamedArrays, *, what: str) -> NamedArrays:
        """Returns the arrays that may be sent.

        Raises:
          IncompatibleWeights: if a shared array is missing.
        """
        if self.sharing.everything:
            return arrays
        sent = {name: array for name, array in arrays.items() if name in self.sharing.shared}
        self.sharing.check_sent(sent, what=what)
        return sent

    def keep(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Stores the private arrays of a model on disk before the rest of it is sent.

        Args:
          name: `global_name` of the trained round, or the name of a lent model.
        Raises:
          IncompatibleWeights: if a private array is missing.
        """
        if not self.sharing.kept:
            return
        if missing := sorted(self.sharing.kept - arrays.keys()):
            raise errors.IncompatibleWeights(
                f"{name} of this site lacks {missing[0]}, which the plan keeps at the site; "
                "a trainer returns all arrays of its specs"
            )
        private.folder(self._folder)
        temporary = self._folder / f"{atomic.PARTIAL}private"
        own = {array: arrays[array] for array in self.sharing.kept}
        sha256 = tensor_files.save(temporary, own, {"model": name})
        os.replace(temporary, self._path(name, sha256))
        atomic.sync_directory(self._folder)
        self._journal.note_private(name, sha256)
        self.remove_unnoted()

    def completed(
        self, model: str, arrays: NamedArrays, *, number: int | None = None
    ) -> tuple[NamedArrays, str]:
        """Completes a received model with this site's private arrays.

        For a model that this site lent, these are the ones with which it was lent; otherwise those
        of the last round that this site trained, up to round `number` if it is given.

        Returns:
          (All arrays, name of the model to which the private arrays belong; "" if they are the
          received ones).
        Raises:
          ValueError: if the file of the private arrays is missing or was changed.
        """
        if self.sharing.everything:
            return arrays, ""
        name = self._name_for(model, number)
        own = self._load(name) if name else {}
        whole = {**arrays, **own}
        return {spec.name: whole[spec.name] for spec in self._specs}, name

    def remove_unnoted(self) -> None:
        """Removes files that no longer count, or that a kill left behind."""
        noted = {self._path(*entry) for entry in self._journal.private.items()}
        for path in self._folder.glob("*"):
            if path not in noted:
                path.unlink(missing_ok=True)

    def _name_for(self, model: str, number: int | None) -> str:
        noted = self._journal.private
        if model in noted and global_number(model) is None:
            return model
        rounds = [found for name in noted if (found := global_number(name)) is not None]
        fitting = [found for found in rounds if number is None or found <= number]
        return global_name(max(fitting)) if fitting else ""

    def _load(self, name: str) -> NamedArrays:
        sha256 = self._journal.private[name]
        path = self._path(name, sha256)
        arrays = _intact(path, sha256)
        if arrays is None:
            first = self._first_to_train_again(name)
            raise ValueError(
                f"{path}: this site's private arrays are missing or were changed, and no other "
                "machine has them; restore the folder from a backup, or have the server's operator "
                f"discard the rounds from {first} on (--order=discard_round "
                f"--round={global_number(first)})"
            )
        return arrays

    def _first_to_train_again(self, name: str) -> str:
        """Returns the first round to discard if the file of `name` is missing.

        The site can then continue from the files that remain.
        """
        noted = self._journal.private
        rounds = sorted(found for of in noted if (found := global_number(of)) is not None)
        number = global_number(name)
        # A model is lent again after any discarded round.
        last = number if number is not None else max(rounds, default=1)
        for before in reversed(rounds):
            sha256 = noted[global_name(before)]
            path = self._path(global_name(before), sha256)
            if (number is None or before < number) and _intact(path, sha256) is not None:
                return global_name(min(before + 1, last))
        return global_name(min(rounds, default=1))

    def _path(self, name: str, sha256: str) -> pathlib.Path:
        return self._folder / f"{name}.{sha256[:16]}.safetensors"


def _intact(path: pathlib.Path, sha256: str) -> NamedArrays | None:
    """Returns the arrays of a file; None if it is missing or has another digest."""
    try:
        with tensor_files.TensorFile(path) as file:
            return file.read() if tensor_files.file_digest(file) == sha256 else None
    except (FileNotFoundError, ValueError):
        return None

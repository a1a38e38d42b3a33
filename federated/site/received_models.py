"""The models that a site downloads, one at a time, completed with the site's own arrays."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence

from federated.rounds.tasks import LAST_GLOBAL, is_global
from federated.site.journal import Journal
from federated.site.private_arrays import PrivateArrays
from federated.site.retries import Persistent
from federated.tensors import tensor_files
from federated.tensors.weights import NamedArrays, TensorSpec


class ReceivedModels:
    """Downloads models into the journal's folder.

    Args:
      server: the calls, which are tried again.
      private_arrays: what the plan keeps at the site.
      specs: of the global model.
      note: writes an event.
    Attributes:
      sha256: of the model that was downloaded last.
      whole_sha256: digest of the same model with all arrays that it was completed with; equal to
        `sha256` if there were none.
    """

    def __init__(
        self,
        server: Persistent,
        journal: Journal,
        private_arrays: PrivateArrays,
        specs: Sequence[TensorSpec],
        note: Callable[..., None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._server, self._journal, self._private = server, journal, private_arrays
        self._specs, self._note, self._clock = specs, note, clock
        self._last: tuple[str, NamedArrays] | None = None
        # What no lent model holds: arrays that sites only receive, and the initial model's for a
        # site that has none of its own, as after the loss of its journal.
        self._unsent: NamedArrays = {}
        self._unsent_sha256 = ""
        self.sha256 = self.whole_sha256 = ""

    def pull(self, model: str, number: int | None = None) -> NamedArrays:
        """Returns a model with this site's private arrays, if the plan keeps any. The one that was
        asked for last is not downloaded again.

        Args:
          number: of the global model, where the task says it.
        """
        if self._last is not None and self._last[0] == model:
            return self._last[1]
        self._last = None  # one model at a time in memory
        lent, sharing = not is_global(model), self._private.sharing
        lacking = sharing.received if self._journal.private else sharing.received | sharing.kept
        if lent and not lacking <= self._unsent.keys():
            last = self._download(LAST_GLOBAL, self._specs)
            self._unsent = {name: last[name].copy() for name in lacking}
            self._unsent_sha256 = self.sha256
        arrays = self._download(model, self._private.shared_specs if lent else self._specs)
        if lent:
            arrays = {**arrays, **self._unsent}
        elif sharing.kept and number is not None:
            self._journal.note_global(self.sha256, number)
        elif sharing.kept:
            number = self._journal.number_of(self.sha256)
        arrays, of = self._private.completed(model, arrays, number=number)
        if of:
            self._note("private_arrays", model=model, of=of)
        elif sharing.kept and number != 0:  # a late site, or one that lost its journal
            self._note("private_arrays", model=model, of="the initial model")
        added = [self._unsent_sha256] if lent and lacking else []
        added += [self._journal.private[of]] if of else []
        self.whole_sha256 = _digest(self.sha256, added)
        self._last = model, arrays
        return arrays

    def forget(self) -> None:
        """Forgets the last model, which somebody changes in place or nobody needs."""
        self._last = None

    def _download(self, model: str, specs: Sequence[TensorSpec]) -> NamedArrays:
        began = self._clock()
        manifest = self._server.pull(model, self._journal.incoming_path, specs=specs)
        arrays, _ = tensor_files.load(self._journal.incoming_path)
        self.sha256 = manifest.sha256
        seconds = round(self._clock() - began, 3)
        self._note("pulled", model=model, bytes=manifest.nbytes, seconds=seconds)
        return arrays


def _digest(sha256: str, added: Sequence[str]) -> str:
    return hashlib.sha256(" ".join([sha256, *added]).encode()).hexdigest() if added else sha256

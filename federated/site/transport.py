"""What a site loop needs of its connection to the server."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from federated.rounds.tasks import Task
from federated.tensors.tensor_files import TensorFile, file_manifest
from federated.tensors.weights import TensorManifest, TensorSpec
from federated.wire.messages import Offer, Receipt, Session


def unknown() -> None:
    """What a caller knows of a file that it has not looked at."""


class Transport(Protocol):
    """Calls to the server. Each may be repeated: a lost reply does no harm.

    Every method raises ServerUnreachable when the server is away, SessionExpired when a login is
    due, and otherwise what the coordinator's method of the same name raises.
    """

    site: str

    def login(
        self, plan: dict, num_examples: int, labels: Mapping[str, str] | None = None
    ) -> Session:
        """Logs in; `labels` says of each class whether the site's labels show it, in the words of
        `declared.WORDS`.
        """

    def next_task(self) -> Task:
        """Returns the next task; waits for one on the server's side, as long as the session's
        `poll_s`.
        """

    def heart_beat(self) -> None: ...

    def pull(
        self, model: str, path: str | os.PathLike, *, specs: Sequence[TensorSpec] | None = None
    ) -> TensorManifest:
        """Brings a model into the file `path` and returns its manifest; what is there of it already
        is not sent again.

        Args:
          specs: of the site's own model; a description that differs raises ServerMisbehaves, and
              the file stays as it is.
        """

    def report_scores(self, model: int, scores: Mapping[str, float], *, sha256: str = "") -> None:
        """Tells what the site scored on global model number `model`; `sha256` is the digest of the
        weights that were scored.
        """

    def push(
        self,
        path: str | os.PathLike,
        sha256: str,
        *,
        round_number: int,
        num_examples: int,
        metrics: Mapping[str, float],
        discarded: int | None = None,
        manifest: Callable[[], TensorManifest | None] = unknown,
    ) -> Receipt:
        """Sends the update in the file `path`.

        Args:
          discarded: how often the run had gone back when the update was trained: it changes no
              global model made since.
          manifest: returns what the file holds while nobody has touched it since the caller looked,
              else None: then it is read.
        """

    def publish(self, path: str | os.PathLike, sha256: str, *, model: str) -> Receipt: ...

    def declare_models(self, names: Sequence[str]) -> None: ...

    def submit_rows(self, rows: Sequence[Mapping[str, Any]]) -> None: ...

    def close(self) -> None: ...


@contextlib.contextmanager
def offering(
    path: str | os.PathLike,
    sha256: str,
    *,
    manifest: Callable[[], TensorManifest | None] = unknown,
    **about: Any,
) -> Iterator[tuple[TensorFile, Offer]]:
    """Yields a model file, open, and its offer. Raises ValueError where the file is no longer the
    model of that digest.

    Args:
      manifest: as in `Transport.push`.
    """
    with TensorFile(path) as file:
        found = manifest() or file_manifest(file)
        if found.sha256 != sha256:
            raise ValueError(
                f"{path}: is not what was written there, and is not sent; start again, and the round is trained again"
            )
        yield file, Offer(found, **about)

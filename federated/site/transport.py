"""The calls of a site's loop to the server, over any connection."""

from __future__ import annotations

import abc
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from federated.errors import DamagedTransfer, VersionDiffers
from federated.rounds.tasks import Task
from federated.secure_aggregation.roster import Signer
from federated.tensors.tensor_files import (
    TensorFile,
    TensorSelection,
    file_manifest,
    selected,
)
from federated.tensors.weights import TensorManifest, TensorSpec
from federated.wire.messages import Offer, Receipt, Session, SumPlace, SumPost, SumState

_NO_SUMS = (
    "the run has secure aggregation, which this site's connection does not carry; connect with "
    "federated.site.grpc_transport, or give the connection ask_sum, post_sum and signer"
)


class ModelBefore(NamedTuple):
    """The global model from which an update was trained: its digest, and the update's tensors."""

    sha256: str
    tensors: TensorFile | TensorSelection


def unknown() -> None:
    """Stands for the manifest of a file that the caller has not read."""


class Transport(abc.ABC):
    """Calls to the server. Each may be repeated, so a lost reply does no harm.

    Every method raises ServerUnreachable if the server is down, SessionExpired if the site has to
    log in, and otherwise what the coordinator's method of the same name raises.
    """

    site: str

    @abc.abstractmethod
    def login(
        self, plan: dict[str, Any], num_examples: int, labels: Mapping[str, str] | None = None
    ) -> Session:
        """Logs in.

        Args:
          labels: class -> whether the site's labels show it, a word of `declarations.WORDS`.
        """

    @abc.abstractmethod
    def next_task(self) -> Task:
        """Returns the next task. The server waits for up to `poll_s` until there is one."""

    @abc.abstractmethod
    def heart_beat(self) -> None:
        """Tells the server that the site is alive."""

    @abc.abstractmethod
    def pull(
        self, model: str, path: str | os.PathLike, *, specs: Sequence[TensorSpec] | None = None
    ) -> TensorManifest:
        """Downloads a model into the file `path`; returns its manifest.

        Chunks that are already in the file are not sent again.

        Args:
          specs: the tensors of the site's own model. If the server describes another model, this
            raises ServerMisbehaves and does not change the file.
        """

    @abc.abstractmethod
    def report_scores(self, model: int, scores: Mapping[str, float], *, sha256: str = "") -> None:
        """Reports the site's scores of global model number `model`.

        Args:
          sha256: digest of the weights that were scored.
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
        trained_from: str | os.PathLike | None = None,
        manifest: Callable[[], TensorManifest | None] = unknown,
    ) -> Receipt:
        """Uploads the update in the file `path`.

        Args:
          discarded: how often the operator had discarded rounds when the update was trained. The
            update does not count in a model made after a later discard.
          trained_from: file of the global model from which the update was trained, as `pull` left
            it. If the server has the same model, only the differing values are sent for chunks in
            which they are few.
          manifest: returns the file's manifest if the file is unchanged since the caller read it,
            else None; the file is then read again.
        """
        with offering(
            path,
            sha256,
            manifest=manifest,
            round=round_number,
            num_examples=num_examples,
            metrics=metrics,
            discarded=discarded,
        ) as (file, offer):
            if trained_from is None:
                return self._send(file, offer)
            with contextlib.ExitStack() as files:
                before = model_before(trained_from, file, files)
                return self._send(file, offer, before)

    def publish(self, path: str | os.PathLike, sha256: str, *, model: str) -> Receipt:
        """Uploads a model that the site lends to the evaluation at all sites."""
        with offering(path, sha256, model=model) as (file, offer):
            return self._send(file, offer)

    @abc.abstractmethod
    def _send(self, file: TensorFile, offer: Offer, before: ModelBefore | None = None) -> Receipt:
        """Offers the model in `file` and uploads the chunks that the server lacks.

        Args:
          before: the model from which it was trained, for chunks that differ from it in few values.
        """

    @abc.abstractmethod
    def declare_models(self, names: Sequence[str]) -> None:
        """Declares that the site has published all its models, which have these names."""

    def ask_sum(self, phase: str, place: SumPlace) -> SumState:
        """Returns what the site needs for a phase of secure aggregation."""
        raise VersionDiffers(_NO_SUMS)

    def post_sum(self, post: SumPost) -> None:
        """Sends the site's part in a phase of secure aggregation."""
        raise VersionDiffers(_NO_SUMS)

    def signer(self) -> Signer:
        """Returns the site's signer towards the other sites, from the files as they are now."""
        raise VersionDiffers(_NO_SUMS)

    @abc.abstractmethod
    def submit_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Sends the site's rows of the evaluation."""

    @abc.abstractmethod
    def close(self) -> None:
        """Ends the connection."""


def model_before(
    path: str | os.PathLike, update: TensorFile, files: contextlib.ExitStack
) -> ModelBefore | None:
    """Returns the global model in the file `path`, open in `files`.

    Returns None if there is none or it lacks a tensor of the update. All of the update is sent
    then.
    """
    try:
        model = files.enter_context(TensorFile(path))
        tensors = selected(model, [spec.name for spec in update.specs])
    except (ValueError, FileNotFoundError):
        return None
    if tensors.specs != update.specs or "sha256" not in model.metadata:
        return None
    return ModelBefore(model.metadata["sha256"], tensors)


@contextlib.contextmanager
def offering(
    path: str | os.PathLike,
    sha256: str,
    *,
    manifest: Callable[[], TensorManifest | None] = unknown,
    **about: Any,
) -> Iterator[tuple[TensorFile, Offer]]:
    """Yields an open model file and its offer.

    Args:
      manifest: as in `Transport.push`.
    Raises:
      ValueError: if the file is no longer the model with that digest.
    """
    with TensorFile(path) as file:
        found = manifest() or file_manifest(file)
        if found.sha256 != sha256:
            raise _changed(path)
        try:
            yield file, Offer(found, **about)
        except DamagedTransfer as error:  # on the way, or on this site's disk
            if file_manifest(file).sha256 != sha256:
                raise _changed(path) from error
            raise


def _changed(path: str | os.PathLike) -> ValueError:
    return ValueError(
        f"{path}: was changed since it was written, and is not sent; "
        "start again, and the round is trained again"
    )

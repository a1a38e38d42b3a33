"""Aggregates a round's spooled updates into the files of the next global model.

Each update is read once, and meanwhile checked against the digest under which it was received.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Collection, Mapping

import numpy as np

from federated.aggregation.rule import AggregationRule
from federated.aggregation.slabs import NotFinite, Source, aggregate, state_specs
from federated.aggregation.unshared import CompletingSink
from federated.rounds.rounds import Update
from federated.tensors.tensor_files import TensorFile, TensorFileWriter, file_digest, selected
from federated.tensors.weights import CHUNK_BYTES, TensorManifest, TensorSpec
from runkit import atomic

STATE_FORMAT = "1"  # version of the file that holds a rule's state


Combine = Callable[[Mapping[str, tuple[Source, int]], Source], tuple[Source, int]]


class CorruptUpdate(Exception):
    """A spooled update differs from what was received."""

    def __init__(self, update: Update):
        super().__init__(update)
        self.update = update


class DamagedStore(OSError):
    """A file that the server itself wrote is missing or was changed."""


@dataclasses.dataclass(frozen=True)
class StoredFile:
    """A file of tensors and the digest of its content."""

    path: pathlib.Path
    sha256: str


@dataclasses.dataclass(frozen=True)
class Targets:
    """The files to write: the global model, and the rule's state beside it."""

    model: pathlib.Path
    state: pathlib.Path


def aggregate_spooled(
    rule: AggregationRule,
    updates: Mapping[pathlib.Path, Update],
    targets: Targets,
    specs: tuple[TensorSpec, ...],
    metadata: dict[str, str],
    *,
    model: StoredFile,
    state: StoredFile | None = None,
    shared: Collection[str] | None = None,
    rounding: Callable[[np.ndarray], np.ndarray] | None = None,
    verified: Collection[pathlib.Path] = (),
    combine: Combine | None = None,
) -> tuple[TensorManifest, TensorManifest | None]:
    """Writes the next global model, and the rule's state if it keeps one.

    Each file is written completely or not at all, the state first.

    Args:
      targets: `targets.state` is written only if the rule keeps a state.
      specs: the tensors of the model.
      metadata: metadata of the model's file.
      model: the global model that the sites trained from; opened only if the rule reads it.
      state: what the rule kept with that model; None for its initial values.
      shared: names of the tensors that the updates hold, by default all. The others are taken from
        `model`, which is then opened whatever the rule.
      rounding: applied to each piece of the new model.
      verified: those of the updates that are known to be as received.
      combine: takes the updates and the shared part of `model`, and returns one update that
        represents all of them, with its number of training cases. The updates must all be
        `verified`.
    Returns:
      The manifests of the model and of the state; None for a rule without a state.
    Raises:
      CorruptUpdate: naming an update whose content the disk has changed or lost; the targets are
        then unchanged.
      DamagedStore: if `model` or `state` is missing or was changed.
      NotFinite: if the rule made values that are not finite; the targets are then unchanged.
      OSError: if the system cannot read an update or write a target; the updates may be intact.
    """
    names = {spec.name for spec in specs} if shared is None else frozenset(shared)
    kept_specs = state_specs(rule, [spec for spec in specs if spec.name in names])
    partial = len(names) < len(specs)
    with contextlib.ExitStack() as opened:
        sources = {
            update.site: (
                opened.enter_context(_SpooledUpdate(path, update, verified=path in verified)),
                update.num_examples,
            )
            for path, update in updates.items()
        }
        before = None
        if rule.reads_model or partial or combine is not None:
            before = opened.enter_context(_open_stored(model))
        kept = None
        if kept_specs and state is not None:
            kept = opened.enter_context(_open_stored(state))
            _check_state(kept, kept_specs, state)
        writer = opened.enter_context(_writer(targets.model, specs, metadata))
        state_writer = None
        if kept_specs:
            about = {"format": STATE_FORMAT, "rule": str(rule)}
            # Entered last, so renamed first: a global model never exists without its state.
            state_writer = opened.enter_context(_writer(targets.state, kept_specs, about))
        sink = writer if before is None or not partial else CompletingSink(writer, before, names)
        shared_model = None if before is None else selected(before, names)
        combined: Mapping[str, tuple[Source, int]] = sources
        if combine is not None and shared_model is not None:
            combined = {"sum": combine(sources, shared_model)}
        not_finite = None
        try:
            aggregate(
                rule,
                combined,
                sink,
                model=shared_model,
                state=kept,
                state_sink=state_writer,
                **({} if rounding is None else {"finish": rounding}),
            )
        except NotFinite as error:  # or an update that the disk has changed
            not_finite = error
        for source, _ in sources.values():
            source.check()
        if not_finite is not None:
            raise not_finite
        if isinstance(sink, CompletingSink):
            sink.finish()
        return writer.finish(), state_writer.finish() if state_writer is not None else None


@contextlib.contextmanager
def _writer(path, specs, metadata):
    """Yields a writer of a file that gets its name once the block ends without an error."""
    with (
        atomic.replacing(path, sync=False) as temporary,
        TensorFileWriter(temporary, specs, metadata) as writer,
    ):
        yield writer


def _open_stored(stored: StoredFile) -> TensorFile:
    """Opens a file of the store after checking that its content still has its digest."""
    remedy = f"restore {stored.path.name} from a backup, or discard the round before"
    try:
        file = TensorFile(stored.path)
    except (FileNotFoundError, ValueError) as error:
        raise DamagedStore(f"{stored.path.name} cannot be read ({error}); {remedy}") from error
    if file_digest(file) != stored.sha256:
        file.close()
        raise DamagedStore(f"{stored.path.name} is not what the server wrote; {remedy}")
    return file


def _check_state(file: TensorFile, specs: tuple[TensorSpec, ...], stored: StoredFile) -> None:
    written = file.metadata.get("format")
    if written != STATE_FORMAT or file.specs != specs:
        raise DamagedStore(
            f"{stored.path.name} holds a rule's state of format {written}, {_text(file.specs)}; "
            f"this release reads format {STATE_FORMAT}, {_text(specs)}; "
            "start the release that wrote it"
        )


def _text(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.name} {spec}" for spec in specs)


class _SpooledUpdate:
    """A spooled update that is hashed as it is read, each chunk once and in order."""

    def __init__(self, path: pathlib.Path, update: Update, *, verified: bool):
        self._update, self._verified = update, verified
        try:
            self._file = TensorFile(path)
        except (ValueError, FileNotFoundError) as error:
            raise CorruptUpdate(update) from error
        self.specs = self._file.specs
        self._chunks: dict[int, hashlib._Hash] = {}

    def read_range(self, start: int, size: int) -> bytes:
        try:
            data = self._file.read_range(start, size)
        except ValueError as error:
            raise CorruptUpdate(self._update) from error
        if not self._verified:
            self._chunks.setdefault(start // CHUNK_BYTES, hashlib.sha256()).update(data)
        return data

    def check(self) -> None:
        """Raises CorruptUpdate unless the bytes read are those received."""
        if self._verified:
            return
        addresses = b"".join(self._chunks[index].digest() for index in sorted(self._chunks))
        if TensorManifest(self.specs, addresses).sha256 != self._update.sha256:
            raise CorruptUpdate(self._update)

    def __enter__(self) -> _SpooledUpdate:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

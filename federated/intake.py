"""What sites send: updates and published models, checked before, while and after they arrive, and durable before their receipt."""

from __future__ import annotations

import pathlib
import re
import sqlite3
import time
from collections.abc import Iterable, Mapping

from federated import agenda, codec, errors, privacy, rounds
from federated.admission import MAX_EXAMPLES
from federated.exchange import Offer, Receipt
from federated.run_state import RunState
from federated.tensor_files import MAX_BYTES
from federated.weights import check_declaration, check_same

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Intake:
    """Takes models from sites. Any number of threads call it."""

    def __init__(self, run: RunState):
        self._run = run

    def push(self, site: str, offer: Offer, chunks: Iterable[codec.Chunk]) -> Receipt:
        """Takes an update: checks what is announced, receives, checks what came, syncs it to disk, records it, and only then returns.

        Raises:
          StaleUpdate, UpdateRefused, IncompatibleWeights, DamagedTransfer, PrivacyRefused, StorageTrouble: and nothing changed.
        """
        run, began = self._run, time.monotonic()
        metrics = privacy.check_metrics(offer.metrics, what=f"metrics of site {site!r}")
        update = rounds.Update(site, offer.round, offer.num_examples, offer.sha256)
        receipt = Receipt(site, agenda.global_name(offer.round), offer.sha256)
        with run.changed:
            if run.store.update(site, offer.round) == update:
                return receipt  # the same bytes again: its receipt was lost on the way
            self._check_round_takes(update)
        if not 1 <= offer.num_examples <= MAX_EXAMPLES:
            raise errors.UpdateRefused(
                f"site {site!r} sent num_examples {offer.num_examples} for round {offer.round}; expected 1 to {MAX_EXAMPLES}"
            )
        with self._receiving(site, offer, chunks, f"update of site {site!r} for round {offer.round}") as received, run.changed:
            self._check_round_takes(update)
            now = run.clock()
            state = rounds.accept(run.round, update, policy=run.policy, now=now)
            run.store.keep_update(received, update, metrics, now=now, counts_in=state.number)
            run.round = state
            run.note_change()
            run.log(  # with the lock held: the log must have the update before the round that counts it
                "pushed",
                site=site,
                round=offer.round,
                counts_in=state.number,
                num_examples=offer.num_examples,
                sha256=offer.sha256,
                bytes=sum(spec.nbytes for spec in offer.specs),
                seconds=round(time.monotonic() - began, 3),
                metrics=metrics,
            )
        return receipt

    def publish(self, site: str, offer: Offer, chunks: Iterable[codec.Chunk]) -> Receipt:
        """Takes a model of `site` for cross-site evaluation; as durable as `push`.

        Raises:
          ModelRefused, IncompatibleWeights, UpdateRefused, DamagedTransfer, StorageTrouble.
        """
        run, began, name = self._run, time.monotonic(), offer.model
        receipt = Receipt(site, name, offer.sha256)
        if not _MODEL_NAME.fullmatch(name) or agenda.is_global(name):
            raise errors.ModelRefused(
                f"model name {name[:80]!r} of site {site!r} is reserved or malformed; use letters, digits, '_', '-', at most 64"
            )
        with run.changed:
            if self._is_published(site, offer):
                return receipt
        with self._receiving(site, offer, chunks, f"model {name!r} of site {site!r}") as received, run.changed:
            self._is_published(site, offer)
            run.store.keep_model(received, name, site, offer.sha256)
            run.note_change()
        nbytes = sum(spec.nbytes for spec in offer.specs)
        run.log("published", site=site, model=name, bytes=nbytes, seconds=round(time.monotonic() - began, 3))
        return receipt

    def _check_round_takes(self, update: rounds.Update) -> None:
        run = self._run
        if run.round is None:
            raise errors.StaleUpdate(f"site {update.site!r} sent round {update.round}, the last round is over; ask for the next task")
        while run.closing and run.policy.late_updates == "keep" and not run.stopping:
            run.changed.wait(1.0)  # it may count in the next round
        if run.closing and update.round == run.round.number:
            raise errors.StaleUpdate(f"site {update.site!r} sent round {update.round}, which has just closed; ask for the next task")
        rounds.accept(run.round, update, policy=run.policy, now=run.clock())

    def _is_published(self, site: str, offer: Offer) -> bool:
        """Returns whether the very model is there already. Raises ModelRefused where it may not be."""
        store = self._run.store
        owner, sha256 = store.models().get(offer.model, (site, ""))
        if owner != site:
            raise errors.ModelRefused(
                f"model {offer.model!r} of site {site!r} has the name of a model of site {owner!r}; begin the name with the site's"
            )
        if sha256 != offer.sha256 and store.fixed_models():
            raise errors.ModelRefused(f"model {offer.model!r} of site {site!r} came after the models to evaluate were fixed")
        return sha256 == offer.sha256

    def _receiving(self, site: str, offer: Offer, chunks: Iterable[codec.Chunk], what: str) -> _Incoming:
        check_declaration(offer.specs, max_bytes=MAX_BYTES)
        check_same(self._run.specs, offer.specs, what=what)
        return _Incoming(self._run.store.incoming_path(), offer, chunks, site, self._run.metadata)


class _Incoming:
    """A model while it arrives: enters with a whole, checked and synced file, and leaves nothing behind unless it was moved away."""

    def __init__(self, path: pathlib.Path, offer: Offer, chunks: Iterable[codec.Chunk], site: str, metadata: Mapping[str, str]):
        self._path, self._offer, self._chunks, self._site = path, offer, chunks, site
        self._metadata = {**metadata, "site": site}

    def __enter__(self) -> pathlib.Path:
        try:
            codec.receive_to_file(self._offer.specs, self._offer.sha256, self._chunks, self._path, metadata=self._metadata)
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self._path

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._path.unlink(missing_ok=True)
        if isinstance(error, (OSError, sqlite3.Error)):
            raise errors.StorageTrouble(
                f"the server could not store what site {self._site!r} sent ({getattr(error, 'strerror', None) or type(error).__name__}); "
                "free space or mend its folder, the site tries again by itself"
            ) from error

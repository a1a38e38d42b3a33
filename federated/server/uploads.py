"""What sites send: updates and published models, checked before, while and after they arrive, and
durable before their receipt.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from federated import errors
from federated.aggregation import update_checks
from federated.rounds import rounds, tasks
from federated.security import report_filter
from federated.server.incoming_models import Transfer, Transfers
from federated.server.run_state import RunState
from federated.tensors import codec
from federated.tensors.codec import Chunk
from federated.tensors.partial_file import PartialModel
from federated.tensors.tensor_files import MAX_BYTES, TensorFile
from federated.tensors.weights import check_declaration, check_same
from federated.wire.messages import Answer, Offer, Receipt

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
MAX_LENT = 8  # models of one site; each takes its place on the server's disk and everybody's time
# different updates that a site may send for one round; an honest one that was killed makes the same
# or one more
_REPLACED = 20
_HISTORY = 5  # closed rounds whose changes say what is usual
_NOTE_EVERY_S = 1.0  # that bytes of a site came
_LOOKING = max(
    2, os.cpu_count() or 1
)  # pieces that are checked at the same time: more would only wait for processors, each in its memory


class Uploads:
    """Takes models from sites. Any number of threads call it.

    An offer without a model's name is an update, else a model for cross-site evaluation.
    """

    def __init__(self, run: RunState, site_names: Callable[[], Collection[str]] = tuple):
        """`site_names`: every site there is, logged in or not; names of models begin with one of
        them.
        """
        self._run, self._transfers, self._site_names = run, Transfers(), site_names
        self._pushed: Counter[tuple[str, int]] = Counter()
        self._most: dict[
            str, tuple[tuple[int, int] | None, int]
        ] = {}  # site -> (round and attempt, pieces of its update at most)
        self._looking = threading.Semaphore(_LOOKING)

    def offer(self, site: str, offer: Offer) -> Answer:
        """Checks what a site announces and says which chunks are missing, or, where all of it is
        there already, its receipt.

        Raises:
          StaleUpdate, UpdateRefused, IncompatibleWeights, ModelRefused, DamagedTransfer,
          PrivacyRefused, StorageTrouble.
        """
        receipt = self._checked(site, offer)
        if receipt is not None:
            return Answer(receipt)
        self._note_progress(
            site, offer
        )  # it may have to wait for its turn: no deadline shall pass meanwhile
        with (
            self._storing(site),
            self._transfer(site, offer, self._run.store.discarded) as transfer,
        ):
            return Answer(missing=tuple(transfer.partial.missing()))

    def send(
        self,
        site: str,
        offer: Offer,
        chunks: Iterable[Chunk],
        verify: Callable[[], Any] = lambda: None,
    ) -> Receipt:
        """Takes the missing chunks; checks and syncs the whole, records it, and only then returns.

        Args:
          verify: raises once the site is no longer let in. An upload may take hours, so it is asked
              again when everything is there.
        Raises:
          As `offer`, and what `verify` raises: and nothing changed, but that a next attempt need
              not send again what arrived.
        """
        began, received = time.monotonic(), 0
        receipt = self._checked(site, offer)
        if receipt is not None:
            return receipt
        keep, discarded = self._publish if offer.model else self._push, self._run.store.discarded
        with self._storing(site), self._transfer(site, offer, discarded) as transfer:
            noted = time.monotonic()
            for chunk in chunks:
                if chunk.encoding not in codec.ENCODINGS[self._run.config.transport]:
                    raise errors.SessionExpired(
                        f"site {site!r} sends chunks in encoding {chunk.encoding}, and models travel {self._run.config.transport!r} here; "
                        "log in again to learn how"
                    )
                with self._looking:
                    transfer.partial.put(chunk)
                received += len(chunk.data)
                if time.monotonic() - noted >= _NOTE_EVERY_S:
                    noted = time.monotonic()
                    self._note_progress(site, offer, transfer.partial.num_there)
            verify()
            transfer.partial.finish()
            try:
                transfer.gate.check(_what(site, offer))
                about = {"received": received, "seconds": round(time.monotonic() - began, 3)}
                with self._run.changed:
                    verify()
                    if (
                        self._run.store.discarded != discarded
                    ):  # what it changes was measured against a model that may be gone
                        raise errors.StaleUpdate(
                            f"{_what(site, offer)} came while the operator took the run back; ask for the next task"
                        )
                    receipt = keep(site, offer, transfer, about)
            except errors.UpdateRefused as refusal:
                reasons = [reason._asdict() for reason in refusal.reasons[:30]]
                with self._run.changed:
                    self._run.log_repeatable(
                        "refused", site=site, what=_what(site, offer), reasons=reasons
                    )
                    if self._run.round is not None:
                        self._run.round = rounds.refused(self._run.round, site)
                        self._run.note_change()
                transfer.partial.path.unlink(
                    missing_ok=True
                )  # sent again it would be refused again
                raise
            finally:
                self._transfers.end(site, _key(offer, discarded))
        with self._run.changed:
            self._run.note_traffic(site, received=received)
        return receipt

    def close(self) -> None:
        self._transfers.close()

    def drop(self, site: str) -> None:
        """Forgets what a site that was sent away has under way."""
        self._transfers.end(site)
        self._run.store.drop_incoming(site)

    def _checked(self, site: str, offer: Offer) -> Receipt | None:
        """Returns the receipt of a model that is there already, None for one that may come."""
        run = self._run
        check_declaration(offer.manifest.specs, max_bytes=MAX_BYTES)
        offer.manifest.check(offer.sha256)
        if offer.model:
            self._check_name(site, offer.model)
            with run.changed:
                if self._is_published(site, offer):
                    return Receipt(site, offer.model, offer.sha256)
        else:
            report_filter.check_metrics(offer.metrics, what=f"metrics of site {site!r}")
            update = _update(site, offer)
            with run.changed:
                if run.store.update(site, offer.round) == update:
                    return Receipt(
                        site, tasks.global_name(offer.round), offer.sha256
                    )  # its receipt was lost on the way
                self._check_round_takes(update, offer.discarded)
                record = run.store.sites().get(site)
            if record is None or offer.num_examples != record.num_examples:
                known = record.num_examples if record else 0
                text = f"num_examples {offer.num_examples} for round {offer.round}; expected {known}, the number it logged in with"
                raise errors.UpdateRefused(
                    f"site {site!r} sent {text}", reasons=[errors.Reason("", "examples", text)]
                )
        check_same(run.specs, offer.manifest.specs, what=_what(site, offer))
        return None

    def _push(
        self, site: str, offer: Offer, transfer: Transfer, about: dict[str, float]
    ) -> Receipt:
        run, update = self._run, _update(site, offer)
        metrics = report_filter.check_metrics(offer.metrics, what=f"metrics of site {site!r}")
        with run.changed:
            if run.store.update(site, offer.round) != update:
                self._check_round_takes(update, offer.discarded)
                number, change = run.round.number, transfer.gate.change
                usual = update_checks.usual_change(
                    run.store.changes_of_others(site, since=number - _HISTORY),
                    initial_norm=run.initial_norm,
                    num_values=sum(spec.size for spec in run.specs),
                )
                update_checks.check_change(
                    change, usual, max_ratio=run.config.max_change_ratio, what=_what(site, offer)
                )
                self._pushed[site, number] += 1
                if self._pushed[site, number] > _REPLACED:
                    raise errors.UpdateRefused(
                        f"{_what(site, offer)}: {_REPLACED} different updates came before it; the last one counts"
                    )
                now = run.clock()
                state = rounds.accept(run.round, update, policy=run.policy, now=now)
                run.store.keep_update(
                    transfer.partial.path, update, metrics, now=now, counts_in=number, change=change
                )
                run.round = state
                run.untouched.note(run.store.update_path(update))
                run.note_change()
                # with the lock held: the log must have the update before the round that counts it
                run.log(
                    "pushed",
                    site=site,
                    round=offer.round,
                    counts_in=number,
                    num_examples=offer.num_examples,
                    sha256=offer.sha256,
                    bytes=offer.manifest.nbytes,
                    **about,
                    change=change if math.isfinite(change) else None,
                    metrics=metrics,
                )
        return Receipt(site, tasks.global_name(offer.round), offer.sha256)

    def _publish(
        self, site: str, offer: Offer, transfer: Transfer, about: dict[str, float]
    ) -> Receipt:
        run = self._run
        with run.changed:
            if not self._is_published(site, offer):
                run.store.keep_model(transfer.partial.path, offer.model, site, offer.manifest)
                run.note_change()
                run.log(
                    "published",
                    site=site,
                    model=offer.model,
                    sha256=offer.sha256,
                    bytes=offer.manifest.nbytes,
                    **about,
                )
        return Receipt(site, offer.model, offer.sha256)

    def _check_round_takes(self, update: rounds.Update, discarded: int | None) -> None:
        run = self._run
        while run.closing and run.policy.late_updates == "keep" and not run.stopping:
            run.changed.wait(1.0)  # it may count in the next round
        if discarded not in (
            None,
            run.store.discarded,
        ):  # its round may be open again, from another global model
            raise errors.StaleUpdate(
                f"site {update.site!r} trained round {update.round} before the operator took the run back; ask for the next task"
            )
        if run.stale:  # the store may have closed or discarded the round that is open here
            raise errors.StorageTrouble(
                "the server could not read or write its store just now; the site tries again by itself"
            )
        if run.round is None:
            raise errors.StaleUpdate(
                f"site {update.site!r} sent round {update.round}, the last round is over; ask for the next task"
            )
        if run.closing and update.round == run.round.number:
            raise errors.StaleUpdate(
                f"site {update.site!r} sent round {update.round}, which has just closed; ask for the next task"
            )
        rounds.check(run.round, update, policy=run.policy)

    def _is_published(self, site: str, offer: Offer) -> bool:
        """Returns whether the very model is there already. Raises ModelRefused where it may not be,
        StaleUpdate where not now.
        """
        store = self._run.store
        owner, sha256 = store.models().get(offer.model, (site, ""))
        if owner != site:
            raise errors.ModelRefused(
                f"model {offer.model!r} of site {site!r} has the name of a model of site {owner!r}; rename it"
            )
        if sha256 == offer.sha256:
            return True
        if store.fixed_models():
            raise errors.StaleUpdate(
                f"model {offer.model!r} of site {site!r} came after the models to evaluate were fixed; ask for the next task"
            )
        if self._run.round is not None:  # or open again, where the operator has taken the run back
            raise errors.StaleUpdate(
                f"model {offer.model!r} of site {site!r} came before the last round was over; ask for the next task"
            )
        if not sha256 and sum(owner == site for owner, _ in store.models().values()) >= MAX_LENT:
            raise errors.ModelRefused(
                f"model {offer.model!r} of site {site!r} is one too many; a site lends {MAX_LENT} at most"
            )
        return False

    def _check_name(self, site: str, name: str) -> None:
        """Raises ModelRefused unless the name is well-formed and begins with the site's own, so
        that nobody takes another's.
        """
        if not _MODEL_NAME.fullmatch(name) or tasks.is_global(name):
            raise errors.ModelRefused(
                f"model name {name[:80]!r} of site {site!r} is reserved or malformed; use letters, digits, '_', '-', at most 64"
            )
        # Of sites C1 and C1_north, C1_north_baseline belongs to the second.
        owner = max(
            (known for known in {*self._site_names(), site} if name.startswith(f"{known}_")),
            key=len,
            default=None,
        )
        if owner != site:
            raise errors.ModelRefused(
                f"model name {name!r} of site {site!r} does not begin with its own name; call it {site}_{name}"[
                    :300
                ]
            )

    def _note_progress(self, site: str, offer: Offer, pieces: int = 0) -> None:
        """Notes that a site's update gets on. Only pieces beyond those it has had of the round
        count: asking again keeps no round open.
        """
        run = self._run
        with run.changed:
            run.last_seen[site] = run.clock()
            if (
                run.round is not None
                and not offer.model
                and offer.round == run.round.number
                and not run.closing
            ):
                key, most = (run.round.number, run.round.attempt), self._most.get(site, (None, -1))
                if most[0] == key and pieces <= most[1]:
                    return
                self._most[site] = key, pieces
                run.round = rounds.progressed(run.round, site, policy=run.policy, now=run.clock())
                run.note_change()

    def _transfer(
        self, site: str, offer: Offer, discarded: int
    ) -> contextlib.AbstractContextManager[Transfer]:
        return self._transfers.of(site, _key(offer, discarded), lambda: self._begin(site, offer))

    def _begin(self, site: str, offer: Offer) -> Transfer:
        store, with_files = self._run.store, contextlib.ExitStack()
        with contextlib.ExitStack() as on_error:
            on_error.push(with_files)
            reference = None
            if not offer.model:
                with contextlib.suppress(
                    FileNotFoundError
                ):  # an old model may have been cleared away
                    reference = with_files.enter_context(
                        TensorFile(store.global_path(offer.round - 1))
                    )
            looking = update_checks.UpdateCheck(offer.manifest.specs, reference)
            path = store.incoming_path(site, offer.sha256)
            partial = PartialModel(
                path,
                offer.manifest,
                {**self._run.metadata, "site": site},
                durable=True,
                look=looking.look,
            )
            with_files.enter_context(partial)
            on_error.pop_all()
        return Transfer(partial, looking, with_files.close)

    @contextlib.contextmanager
    def _storing(self, site: str) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            self._transfers.end(site)
            raise errors.StorageTrouble(
                f"the server could not store what site {site!r} sent ({getattr(error, 'strerror', None) or error}); "
                "its operator must free space or mend the folder, and the site tries again by itself"
            ) from error


def _update(site: str, offer: Offer) -> rounds.Update:
    return rounds.Update(site, offer.round, offer.num_examples, offer.sha256)


def _key(offer: Offer, discarded: int) -> str:
    return f"{offer.model} {offer.round} {offer.sha256} {discarded}"


def _what(site: str, offer: Offer) -> str:
    return (
        f"model {offer.model!r} of site {site!r}"
        if offer.model
        else f"update of site {site!r} for round {offer.round}"
    )

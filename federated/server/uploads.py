"""Receives updates and published models from sites.

They are checked before, during and after their transfer, and are durable before the receipt is
sent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, NamedTuple

from federated import errors
from federated.aggregation import update_checks
from federated.rounds import rounds, tasks
from federated.security import report_filter
from federated.server.incoming_models import Transfer, Transfers
from federated.server.run_state import RunState, unread_store
from federated.server.sums import Sums
from federated.tensors import codec
from federated.tensors.codec import Chunk
from federated.tensors.partial_file import PartialModel
from federated.tensors.tensor_files import TensorFile, selected
from federated.tensors.weights import check_same
from federated.wire.messages import Answer, Offer, Receipt

# Models that one site may publish; each takes space on the server's disk and time at every site.
MAX_LENT = 8
# Models that all sites may publish: a site evaluates no more, the two global ones included.
_MAX_MODELS = tasks.MAX_MODELS - 2
# Different updates that a site may send for one round, and different contents of a model that it
# lends; an honest site that was killed sends the same one again, or a second one.
_REPLACED = 20
_HISTORY = 5  # closed rounds whose changes determine what is usual
_NOTE_EVERY_S = 1.0  # between two updates of the time at which a site's bytes last arrived
# Chunks that are checked at the same time: more would only wait for a processor and take memory.
_CHECKED_AT_ONCE = max(2, os.cpu_count() or 1)


@dataclasses.dataclass(frozen=True)
class CheckedOffer:
    """An offer of one site after all checks that need only the offer.

    The offer's manifest was checked when it was made. Every instance has passed these checks, so
    the code below does not repeat them.

    Args:
      site_names: every site of the federation, logged in or not; the name of a published model
        begins with one of them.
    Attributes:
      what: name of the upload for messages.
      update: the update as rounds represent it; None for a published model.
      metrics: metrics of an update, as plain floats.
      sha256: digest of the model.
    Raises:
      ModelRefused: if a model's name is malformed, reserved or begins with another site's name.
      PrivacyRefused: if the metrics may not leave a site.
    """

    site: str
    offer: Offer
    site_names: dataclasses.InitVar[Callable[[], Collection[str]]]
    what: str = dataclasses.field(init=False)
    sha256: str = dataclasses.field(init=False)
    update: rounds.Update | None = dataclasses.field(init=False, default=None)
    metrics: dict[str, float] = dataclasses.field(init=False, default_factory=dict)

    def __post_init__(self, site_names: Callable[[], Collection[str]]) -> None:
        site, offer, sha256 = self.site, self.offer, self.offer.manifest.sha256
        found: dict[str, Any] = {"sha256": sha256}
        if offer.model:
            _check_name(site, offer.model, site_names())
            found["what"] = f"model {offer.model!r} of site {site!r}"
        else:
            found["what"] = f"update of site {site!r} for round {offer.round}"
            found["update"] = rounds.Update(site, offer.round, offer.num_examples, sha256)
            found["metrics"] = report_filter.check_metrics(
                offer.metrics, what=f"metrics of site {site!r}"
            )
        for name, value in found.items():
            object.__setattr__(self, name, value)

    def receipt(self) -> Receipt:
        name = self.offer.model or tasks.global_name(self.offer.round)
        return Receipt(self.site, name, self.sha256)


class _Standing(NamedTuple):
    """How often the operator has discarded rounds, and the exchange of the open round."""

    discarded: int
    exchange: int  # its number; 0 without secure aggregation


class Uploads:
    """Receives models from sites. Any number of threads may call it.

    An offer without a model's name is an update; otherwise it is a model for cross-site evaluation.

    Args:
      site_names: as in `CheckedOffer`.
      sums: the exchanges of a run with secure aggregation, in which every update is masked.
    """

    def __init__(
        self,
        run: RunState,
        site_names: Callable[[], Collection[str]] = tuple,
        sums: Sums | None = None,
    ):
        self._run, self._transfers, self._site_names = run, Transfers(), site_names
        self._sums = sums
        # (site, round, standing) -> different updates
        self._sent: Counter[tuple[str, int, _Standing]] = Counter()
        # (site, how often rounds were discarded) -> different models that it lent
        self._lent: Counter[tuple[str, int]] = Counter()
        # site -> (round, attempt, openings and exchange; largest number of chunks of its update so
        # far)
        self._most: dict[str, tuple[tuple[int, int, int, int] | None, int]] = {}
        self._checking = threading.Semaphore(_CHECKED_AT_ONCE)

    def offer(self, site: str, offer: Offer) -> Answer:
        """Checks an offer.

        Returns:
          The missing chunks, or the receipt if the server has the whole model already.
        Raises:
          StaleUpdate, UpdateRefused, IncompatibleWeights, ModelRefused, DamagedTransfer,
          PrivacyRefused, StorageTrouble, ServerUnreachable.
        """
        checked = CheckedOffer(site, offer, self._site_names)
        standing = self._accepted(checked)
        if standing is None:
            return Answer(checked.receipt())
        # The transfer may have to wait for its slot, and a deadline must not pass meanwhile.
        self._note_progress(checked)
        with self._transfer(checked, standing) as transfer:
            return Answer(
                missing=tuple(transfer.partial.missing()), trained_from=transfer.trained_from
            )

    def send(
        self,
        site: str,
        offer: Offer,
        chunks: Iterable[Chunk],
        verify: Callable[[], object] = lambda: None,
        moved: Callable[[int], object] = lambda nbytes: None,
    ) -> Receipt:
        """Receives the missing chunks; checks, syncs and records the model, and only then returns.

        Args:
          verify: raises once the site is no longer admitted. An upload may take hours, so it is
            called again before the upload counts.
          moved: called with the number of bytes of every chunk that arrives.
        Raises:
          The errors of `offer` and of `verify`. Nothing has changed then, except that the next
          attempt need not resend the chunks that arrived.
        """
        run, began, received = self._run, time.monotonic(), 0
        checked = CheckedOffer(site, offer, self._site_names)
        standing = self._accepted(checked)
        if standing is None:
            return checked.receipt()
        with self._transfer(checked, standing) as transfer:
            noted = time.monotonic()
            for count, chunk in enumerate(chunks, start=1):
                if count > offer.manifest.num_chunks:
                    raise errors.DamagedTransfer(
                        f"{checked.what}: more than its {offer.manifest.num_chunks} chunks came in "
                        "one call; send the model again"
                    )
                sparse = chunk.encoding == codec.SPARSE and bool(transfer.trained_from)
                if not sparse and chunk.encoding not in codec.ENCODINGS[run.config.transport]:
                    raise errors.SessionExpired(
                        f"site {site!r} sends chunks in encoding {chunk.encoding}, but models "
                        f"travel {run.config.transport!r} here; log in again to learn how"
                    )
                moved(len(chunk.data))
                with self._checking:
                    transfer.partial.put(chunk)
                received += len(chunk.data)
                if time.monotonic() - noted >= _NOTE_EVERY_S:
                    noted = time.monotonic()
                    self._note_progress(checked, transfer.partial.num_there)
            try:
                transfer.partial.finish()
            except errors.DamagedTransfer:
                verify()  # an evicted site should be told the cause
                raise
            try:
                transfer.check.check(checked.what)
                about = {"received": received, "seconds": round(time.monotonic() - began, 3)}
                with run.changing():
                    self._wait_while_closing(checked)
                    verify()
                    self._check_not_taken_back(checked, standing)
                    if checked.update is None:
                        self._publish(checked, transfer, about)
                    else:
                        self._count(checked, checked.update, standing, transfer, about)
                    run.note_traffic(site, received=received)
            except errors.UpdateRefused as refusal:
                self._note_refusal(checked, refusal)
                # If the site sent it again, it would be refused again.
                transfer.partial.path.unlink(missing_ok=True)
                raise
            finally:
                self._transfers.end(site, transfer)
        return checked.receipt()

    def close(self) -> None:
        self._transfers.close()

    def drop(self, site: str) -> None:
        """Forgets the transfer of a site that was evicted."""
        self._transfers.end(site)
        self._run.store.drop_incoming(site)

    def _accepted(self, checked: CheckedOffer) -> _Standing | None:
        """Checks an offer against the state of the run: raises what `offer` raises.

        Returns:
          The standing of the run, or None if the server has the whole model already.
        """
        run, offer = self._run, checked.offer
        with run.changed:
            if self._is_there(checked):  # its receipt was lost in transit
                return None
            self._wait_while_closing(checked)
            exchange = 0 if run.exchange is None else run.exchange.number
            standing = _Standing(run.store.discarded, exchange)
            if checked.update is not None:
                # If rounds were discarded, this one may be open again, from another global model.
                if offer.discarded not in (None, standing.discarded):
                    raise errors.StaleUpdate(
                        f"site {checked.site!r} trained round {offer.round} before the operator "
                        "took the run back; ask for the next task"
                    )
                rounds.check(self._open_round(checked), checked.update, policy=run.policy)
                if self._sums is not None:
                    self._sums.check_upload(checked.site, standing.exchange)
                known = run.store.num_examples(checked.site)
                if offer.num_examples != known:
                    text = (
                        f"num_examples {offer.num_examples} for round {offer.round}; "
                        f"expected {known or 0}, the number it logged in with"
                    )
                    raise errors.UpdateRefused(
                        f"site {checked.site!r} sent {text}",
                        reasons=[errors.Reason("", "examples", text)],
                    )
        sent = offer.manifest.specs
        if self._sums is not None and checked.update is not None:
            if sent != self._sums.masked_specs():
                raise errors.UpdateRefused(
                    f"{checked.what} is not masked, and this server takes masked updates only; "
                    "install the server's release at the site"
                )
            return standing
        if sent != run.shared_specs:  # one of the two says what differs
            run.sharing.check_sent([spec.name for spec in sent], what=checked.what)
            check_same(run.shared_specs, sent, what=checked.what)
        return standing

    def _is_there(self, checked: CheckedOffer) -> bool:
        """Returns whether the server has this very model. Raises as `_is_published` does."""
        if checked.update is None:
            return self._is_published(checked)
        return self._run.store.update(checked.site, checked.offer.round) == checked.update

    def _wait_while_closing(self, checked: CheckedOffer) -> None:
        """Waits for the end of an aggregation if the update may count in the next round.

        The wait ends early if the server stops; the update then counts in no round.
        """
        run = self._run
        late = checked.update is not None and run.policy.late_updates == "keep"
        while late and run.closing and not run.stopping:
            run.changed.wait(1.0)

    def _open_round(self, checked: CheckedOffer) -> rounds.Round:
        """Returns the open round.

        Raises:
          StaleUpdate, StorageTrouble, ServerUnreachable: if it takes no updates.
        """
        run = self._run
        if run.stale:  # the store may have closed or discarded the round that is open here
            raise unread_store()
        sent = f"site {checked.site!r} sent round {checked.offer.round}"
        if run.round is None:
            raise errors.StaleUpdate(f"{sent}, the last round is over; ask for the next task")
        if run.closing and checked.offer.round == run.round.number:
            raise errors.StaleUpdate(f"{sent}, which has just closed; ask for the next task")
        if run.closing and run.stopping:  # otherwise a late update has waited for the next round
            raise errors.ServerUnreachable(
                f"{sent} while the server stops; the site tries again by itself"
            )
        return run.round

    def _check_not_taken_back(self, checked: CheckedOffer, standing: _Standing) -> None:
        """Raises StaleUpdate if rounds were discarded or the exchange changed during the transfer.

        The change of the update was measured against a global model that may be gone, and the masks
        of an update belong to one exchange.
        """
        if self._sums is not None and checked.update is not None:
            self._sums.check_upload(checked.site, standing.exchange)
        if self._run.store.discarded != standing.discarded:
            raise errors.StaleUpdate(
                f"{checked.what} came while the operator took the run back; ask for the next task"
            )

    def _count(
        self,
        checked: CheckedOffer,
        update: rounds.Update,
        standing: _Standing,
        transfer: Transfer,
        about: dict[str, float],
    ) -> None:
        """Makes an update count in the open round and exchange; called with the lock held."""
        run, site = self._run, checked.site
        if self._is_there(checked):
            return
        state, now = self._open_round(checked), run.clock()
        rounds.check(state, update, policy=run.policy)
        change = transfer.check.change
        usual = update_checks.usual_change(
            run.store.changes_of_others(site, since=state.number - _HISTORY),
            initial_norm=run.initial_norm,
            num_values=run.num_values,
        )
        update_checks.check_change(
            change, usual, max_ratio=run.config.max_change_ratio, what=checked.what
        )
        sent = (site, state.number, standing)
        if self._sent[sent] >= _REPLACED:
            raise errors.UpdateRefused(
                f"{checked.what}: {_REPLACED} different updates came before it; the last one counts"
            )
        keep = functools.partial(
            run.store.keep_update,
            update=update,
            metrics=checked.metrics,
            now=now,
            counts_in=state.number,
            change=change,
        )
        path = transfer.partial.hand_over(keep)
        # Counted only now: on a full disk the site sends the same update again and again.
        self._sent[sent] += 1
        run.round = rounds.recorded(state, update, policy=run.policy, now=now)
        if self._sums is not None:
            self._sums.note_uploaded(site)
        run.recently_verified.note(path)
        run.note_change()
        # Still with the lock held: the log must have the update before the round that counts it.
        run.log(
            "pushed",
            site=site,
            round=update.round,
            counts_in=state.number,
            num_examples=update.num_examples,
            sha256=update.sha256,
            bytes=checked.offer.manifest.nbytes,
            **about,
            change=change if math.isfinite(change) and self._sums is None else None,
            metrics=checked.metrics,
        )

    def _publish(self, checked: CheckedOffer, transfer: Transfer, about: dict[str, float]) -> None:
        """Stores a model for cross-site evaluation; called with the lock held."""
        if self._is_there(checked):
            return
        run, offer = self._run, checked.offer
        keep = functools.partial(
            run.store.keep_model, name=offer.model, site=checked.site, manifest=offer.manifest
        )
        transfer.partial.hand_over(keep)
        self._lent[checked.site, run.store.discarded] += 1
        run.note_change()
        run.log(
            "published",
            site=checked.site,
            model=offer.model,
            sha256=checked.sha256,
            bytes=offer.manifest.nbytes,
            **about,
        )

    def _note_refusal(self, checked: CheckedOffer, refusal: errors.UpdateRefused) -> None:
        run, reasons = self._run, [reason._asdict() for reason in refusal.reasons[:30]]
        with run.changed:
            run.log_repeatable("refused", site=checked.site, what=checked.what, reasons=reasons)
            if run.round is not None:
                run.round = rounds.refused(run.round, checked.site)
                run.note_change()

    def _is_published(self, checked: CheckedOffer) -> bool:
        """Returns whether this very model is published already.

        Raises:
          ModelRefused: if another site has a model of that name, or this one has too many.
          StaleUpdate: if models cannot be published now.
        """
        site, offer, store = checked.site, checked.offer, self._run.store
        owner, sha256 = store.models().get(offer.model, (site, ""))
        if owner != site:
            raise errors.ModelRefused(
                f"{checked.what} has the name of a model of site {owner!r}; rename it"
            )
        if sha256 == checked.sha256:
            return True
        if store.fixed_models():
            raise errors.StaleUpdate(
                f"{checked.what} came after the models to evaluate were fixed; "
                "ask for the next task"
            )
        if self._run.round is not None:  # or open again, if the operator has discarded rounds
            raise errors.StaleUpdate(
                f"{checked.what} came before the last round was over; ask for the next task"
            )
        owners, sites = [owner for owner, _ in store.models().values()], len(store.sites())
        most = min(MAX_LENT, _MAX_MODELS // sites)
        if not sha256 and (owners.count(site) >= most or len(owners) >= _MAX_MODELS):
            raise errors.ModelRefused(
                f"{checked.what} is one too many; a site lends {most} at most in a run of {sites} "
                "sites; lend fewer (--lend, --nolend_local)"
            )
        if self._lent[site, store.discarded] >= MAX_LENT * _REPLACED:
            raise errors.ModelRefused(
                f"{checked.what}: {MAX_LENT * _REPLACED} different models came before it; "
                "the last ones stay"
            )
        return False

    def _note_progress(self, checked: CheckedOffer, chunks: int = 0) -> None:
        """Records that a site's update makes progress.

        Only chunks beyond those that were present before in this round count, so that a round is
        not kept open by sending the same chunks again.
        """
        run, site = self._run, checked.site
        with run.changed:
            now = run.clock()
            run.last_seen[site] = now
            state = run.round
            if (
                state is None
                or checked.update is None
                or checked.update.round != state.number
                or run.closing
            ):
                return
            exchange = 0 if run.exchange is None else run.exchange.number
            # A round that the operator discarded opens again and is trained anew.
            key = (state.number, state.attempt, run.openings, exchange)
            most = self._most.get(site, (None, -1))
            if most[0] == key and chunks <= most[1]:
                return
            self._most[site] = key, chunks
            run.round = rounds.progressed(state, site, policy=run.policy, now=now)
            run.note_change()

    @contextlib.contextmanager
    def _transfer(self, checked: CheckedOffer, standing: _Standing) -> Iterator[Transfer]:
        """Yields the transfer of an accepted offer: the one in progress or a new one."""
        site, offer = checked.site, checked.offer
        key = f"{offer.model} {offer.round} {checked.sha256} {standing.discarded}"
        begin = functools.partial(self._begin, checked)
        try:
            with self._transfers.of(site, key, begin) as transfer:
                yield transfer
        except (OSError, sqlite3.Error) as error:
            self._transfers.end(site)
            raise errors.StorageTrouble(
                f"the server could not store what site {site!r} sent "
                f"({getattr(error, 'strerror', None) or error}); its operator must free space or "
                "repair the folder, and the site tries again by itself"
            ) from error

    def _begin(self, checked: CheckedOffer) -> Transfer:
        store, offer, reference, trained_from = self._run.store, checked.offer, None, ""
        with contextlib.ExitStack() as files:
            if checked.update is not None and self._sums is None:
                # An old model may have been removed.
                with contextlib.suppress(FileNotFoundError):
                    model = TensorFile(store.global_path(offer.round - 1))
                    files.callback(model.close)
                    reference = selected(model, self._run.sharing.shared)
                    trained_from = store.globals().get(offer.round - 1, "")
            check = update_checks.UpdateCheck(offer.manifest.specs, reference)
            partial = PartialModel(
                store.incoming_path(checked.site, checked.sha256),
                offer.manifest,
                {**self._run.metadata, "site": checked.site},
                durable=True,
                before=reference,
                look=check.look,
            )
            files.callback(partial.close)
            return Transfer(partial, check, files.pop_all().close, trained_from)


def _check_name(site: str, name: str, site_names: Collection[str]) -> None:
    """Raises ModelRefused unless a model's name is well-formed and begins with its site's name.

    A site thus cannot take a name that belongs to another.
    """
    if not tasks.MODEL_NAME.fullmatch(name) or tasks.is_global(name):
        raise errors.ModelRefused(
            f"model name {name[:80]!r} of site {site!r} is reserved or malformed; "
            "use letters, digits, '_', '-', at most 64"
        )
    # With sites C1 and C1_north, C1_north_baseline belongs to the second.
    owner = max(
        (known for known in {*site_names, site} if name.startswith(f"{known}_")),
        key=len,
        default=None,
    )
    if owner != site:
        raise errors.ModelRefused(
            f"model name {name!r} of site {site!r} does not begin with its own name; "
            f"call it {site}_{name}"[:300]
        )

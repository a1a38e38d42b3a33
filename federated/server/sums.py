"""Secure aggregation at the server: passes keys and shares between sites, and opens their sum.

The phases are those of `rounds.sum_phases`; the checks of the sites are in
`secure_aggregation.participant`, those of the server in `part_checks`.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Collection, Mapping

from absl import logging
from cryptography import x509

from federated import errors
from federated.aggregation.slabs import Source
from federated.aggregation.spooled_updates import CorruptUpdate
from federated.rounds import rounds, sum_phases
from federated.rounds.rounds import Round
from federated.rounds.sum_phases import Exchange, Phase
from federated.secure_aggregation import opening, part_checks, ring
from federated.secure_aggregation.keys import Context
from federated.secure_aggregation.masks import Mask
from federated.secure_aggregation.ring import Ring
from federated.secure_aggregation.roster import Roster
from federated.server.run_state import RunState, unread_store
from federated.storage.sum_records import SumRecords
from federated.tensors.tensor_files import TensorFile, file_digest
from federated.tensors.weights import TensorSpec
from federated.wire import conversion
from federated.wire import weight_exchange_pb2 as pb
from federated.wire.messages import SumKeys, SumPlace, SumPost, SumSettings, SumState
from runkit import printable


class Sums:
    """The exchanges of one run.

    Args:
      authority: the federation's authority, which certified the sites.
    Raises:
      ValueError: if there is no authority.
    """

    def __init__(self, run: RunState, authority: x509.Certificate | None):
        if authority is None:
            raise ValueError(
                "secure aggregation needs the certificate of the federation's authority, by which "
                "sites check each other's keys; use a server's kit as `provision` made it"
            )
        self._run, self._authority = run, authority
        self._began_at = run.clock()  # a phase never ends because the server was down
        # If a sum could not be opened: the exchange, and the sites that had revealed shares.
        self._unopened: tuple[SumPlace, frozenset[str]] | None = None
        self._reason = ""

    @property
    def _settings(self) -> SumSettings:
        settings = self._run.config.sums
        if settings is None:
            raise ValueError("the run has no secure aggregation; start it with the setting")
        return settings

    @property
    def _records(self) -> SumRecords:
        if self._run.store.sums is None:
            raise ValueError("the store has no secure aggregation; open it with the setting")
        return self._run.store.sums

    def masked_specs(self) -> tuple[TensorSpec, ...]:
        """Returns the tensor of a masked update."""
        return ring.masked_specs(self._run.num_values)

    # Requests of sites.

    def ask(self, site: str, phase: str, place: SumPlace) -> SumState:
        """Returns what `site` needs for a phase.

        Raises:
          StaleUpdate: if that is not the open phase, or the site does not take part in it.
        """
        with self._run.changed:
            state, _ = self._open(site, phase, place)
            if phase == "share":
                return SumState(keys=tuple(self._roster().keys.values()))
            if phase == "mask":
                sharers = state.closed["share"] - {site}
                posts = self._posts("share")
                return SumState(shares={by: posts[by].shares[site] for by in sharers})
            consents = {}
            if phase == "reveal":
                signed = state.closed["consent"]
                posts = self._posts("consent")
                consents = {by: posts[by].consent for by in signed}
            return SumState(
                survivors=tuple(sorted(state.survivors)),
                dropped=tuple(sorted(state.dropped)),
                consents=consents,
            )

    def post(self, site: str, post: SumPost) -> None:
        """Records the part of `site` in a phase; the same part sent again changes nothing.

        Raises:
          StaleUpdate: as in `ask`, and if the site sent something else before in the phase.
          UpdateRefused: if other sites would not accept the keys, shares or signature.
        """
        run = self._run
        with run.changing():
            if post.phase == "mask":
                raise errors.UpdateRefused(
                    f"site {site!r} sends parts in the phase 'mask', in which it uploads its "
                    "masked update; install the same release at both ends"
                )
            state, opened = self._open(site, post.phase, post.place)
            self._check(site, post, state)
            data = conversion.sum_post_to_message(post).SerializeToString(deterministic=True)
            if site in state.done:
                if self._records.parts(opened.number, state.phase).get(site) != data:
                    raise errors.StaleUpdate(
                        f"site {site!r} sent something else before in {post.phase!r} of exchange "
                        f"{state.number}; ask for the next task"
                    )
                return
            now = run.clock()
            self._records.keep_part(opened.number, state.phase, site, data, at=now)
            run.exchange = sum_phases.acted(state, site, now=now)
            run.note_change()
        logging.info(
            "event=sum_part round=%d exchange=%d phase=%s site=%s",
            opened.number,
            state.number,
            state.phase,
            site,
        )

    def check_upload(self, site: str, exchange: int) -> None:
        """Raises StaleUpdate unless `site` may upload its masked update for that exchange now.

        Called with the lock held.
        """
        state = self._run.exchange
        if state is None:
            raise errors.StaleUpdate(f"site {site!r}: no round is open; ask for the next task")
        sum_phases.check(state, site, "mask", exchange)

    def note_uploaded(self, site: str) -> None:
        """Records that the masked update of `site` counts; called with the lock held."""
        if self._run.exchange is not None:
            self._run.exchange = sum_phases.acted(self._run.exchange, site, now=self._run.clock())

    def _open(self, site: str, phase: str, place: SumPlace) -> tuple[Exchange, Round]:
        run = self._run
        if run.stale:
            raise unread_store()
        if phase not in sum_phases.PHASES:
            raise errors.UpdateRefused(
                f"site {site!r} names a phase {printable.text(repr(phase), limit=40)} of secure "
                "aggregation, which this release does not know; install the same release at both "
                "ends"
            )
        state, opened = run.exchange, run.round
        if (
            state is None
            or opened is None
            or run.closing
            or (place.round, place.discarded) != (opened.number, run.store.discarded)
        ):
            raise errors.StaleUpdate(
                f"site {site!r} is at {phase!r} of round {place.round}, which is not open now; "
                "ask for the next task"
            )
        sum_phases.check(state, site, phase, place.exchange)
        return state, opened

    def _check(self, site: str, post: SumPost, state: Exchange) -> None:
        """Raises as `part_checks.check_part` does."""
        now = datetime.datetime.fromtimestamp(self._run.wall_clock(), datetime.timezone.utc)
        standing = part_checks.Standing(
            frozenset(state.done),
            state.closed.get("keys", frozenset()),
            state.survivors,
            state.dropped,
        )
        context, known = self._context(state), self._keys()
        part_checks.check_part(site, post, standing, context, known, self._authority, now)

    def _context(self, state: Exchange) -> Context:
        store, number = self._run.store, self._number()
        place = SumPlace(store.discarded, number, state.number)
        return Context(store.run_id, place, store.globals()[number - 1], self._settings)

    def _number(self) -> int:
        if self._run.round is None:
            raise errors.StaleUpdate("no round is open; ask for the next task")
        return self._run.round.number

    def _posts(self, phase: Phase) -> dict[str, SumPost]:
        return {
            site: conversion.sum_post_from_message(pb.SumPart.FromString(data))
            for site, data in self._records.parts(self._number(), phase).items()
        }

    def _keys(self) -> dict[str, SumKeys]:
        posts = self._posts("keys")
        return {site: post.keys for site, post in posts.items() if post.keys is not None}

    def _roster(self) -> Roster:
        """Returns the keys of the sites of the exchange, each of which was checked on arrival."""
        state, known = self._run.exchange, self._keys()
        sites = state.closed["keys"] if state is not None else ()
        return Roster({site: known[site] for site in sorted(sites)})

    # The driving thread; called with the lock held.

    def advance(self, now: float) -> tuple[bool, float | None]:
        """Does what is due in the open exchange.

        Returns:
          (Whether the sum can be opened, seconds until something may be due without a further
          event). If it cannot be opened and the seconds are 0.0, something was done.
        """
        run, state = self._run, self._run.exchange
        if run.round is None or state is None:
            return False, None
        if state.phase == "keys":
            return self._gather(state, run.round, now)
        gone = {site for site, record in run.store.sites().items() if record.evicted}
        # Once shares may have been revealed, the agreed sum no longer changes: sites help to open
        # only that one in this round.
        if state.phase != "reveal" and state.survivors & gone:
            self.give_up(f"{', '.join(sorted(state.survivors & gone))} was evicted")
            return False, 0.0
        since = self._last_progress(state)
        policy = run.config.sum_policy
        verdict = sum_phases.outcome(state, run.absent(now), policy, since=since, now=now)
        if verdict == "wait":
            due = sum_phases.deadline(state, policy, since=since)
            return False, self._until(due, now)
        if verdict == "failed":
            self.give_up(
                f"{len(state.done)} sites did their part in {state.phase!r}, "
                f"{policy.threshold} are needed"
            )
            return False, 0.0
        if state.phase == "reveal":
            return self._opens(state, now, due=sum_phases.deadline(state, policy, since=since))
        self._enter(sum_phases.advanced(state, now=now))
        return False, 0.0

    def _gather(self, state: Exchange, opened: Round, now: float) -> tuple[bool, float | None]:
        """Does the work of `advance` in the phase of the keys.

        If a sum may have been opened before, the phase waits for the same sites for a while.
        """
        run = self._run
        gathered = sum_phases.gathering(state, opened, run.policy)
        if not rounds.is_over(gathered, run.policy, now=now):
            return False, self._until(rounds.next_moment(gathered, run.policy), now)
        coming = state.again - gathered.received.keys() - run.absent(now)
        since = self._last_progress(state)
        due = sum_phases.deadline(state, run.config.sum_policy, since=since)
        if coming and now < due:
            return False, self._until(due, now)
        counted = {site: state.done[site] for site in gathered.received}
        try:
            following = sum_phases.advanced(dataclasses.replace(state, done=counted), now=now)
            self._check_roster(following)
        except ValueError as error:
            self.give_up(f"the keys of the sites do not go together: {error}")
        else:
            self._enter(following)
        return False, 0.0

    def _opens(self, state: Exchange, now: float, *, due: float) -> tuple[bool, float | None]:
        """Returns as `advance` does.

        After shares that did not open the sum, it waits until more have arrived.
        """
        if self._unopened != (self._context(state).place, frozenset(state.done)):
            return True, 0.0
        coming = (state.members or frozenset()) - state.done.keys() - self._run.absent(now)
        if coming and now < due:
            return False, self._until(due, now)
        self.give_up(self._reason)
        return False, 0.0

    def cannot_open(self, reason: str) -> None:
        """Records that the shares so far do not open the sum: those of other sites may.

        Called with the lock held.
        """
        state = self._run.exchange
        if state is None or self._run.round is None:
            return
        if self._run.round.received.keys() != state.survivors:
            self.give_up(reason)
            return
        self._unopened, self._reason = (
            (self._context(state).place, frozenset(state.done)),
            reason,
        )
        self._run.log(
            "sum_not_opened",
            round=self._run.round.number,
            exchange=state.number,
            sites=sorted(state.done),
            reason=reason,
        )

    def keys_expired(self, now: float) -> bool:
        """Returns whether the round's deadline passed before the minimum of keys had arrived."""
        run, state = self._run, self._run.exchange
        if run.round is None or state is None or state.phase != "keys":
            return False
        gathered = sum_phases.gathering(state, run.round, run.policy)
        return rounds.is_expired(gathered, run.policy, now=now)

    def _until(self, due: float | None, now: float) -> float | None:
        """Returns seconds until `due`, or until a site may become silent if that is sooner."""
        run = self._run
        timeout_s = run.config.heart_beat_timeout_s
        moments = [seen + timeout_s for seen in run.last_seen.values() if seen + timeout_s > now]
        moments += [] if due is None else [due]
        return max(0.0, min(moments) - now) if moments else None

    def _check_roster(self, state: Exchange) -> None:
        known = self._keys()
        Roster.of([known[site] for site in state.closed["keys"]], self._context(state))

    def _enter(self, state: Exchange) -> None:
        run = self._run
        self._records.advance(self._number(), state)
        run.exchange = state
        run.note_change()
        logging.info(
            "event=sum_phase round=%d exchange=%d phase=%s sites=%s",
            self._number(),
            state.number,
            state.phase,
            ",".join(sorted(state.members or ())),
        )

    def _last_progress(self, state: Exchange) -> float:
        """Returns the time from which a phase's deadline counts.

        This is the start of the server, the end of a pause, or the arrival of the last bytes of an
        update, within the limit on all extensions.
        """
        run, opened = self._run, self._run.round
        if opened is None:
            return state.opened_at
        since = max(opened.opened_at, self._began_at)
        if state.phase != "mask":
            return since
        last = max((arrival.last for arrival in opened.arriving.values()), default=0.0)
        return max(since, min(last, state.opened_at + run.policy.max_extension_s))

    def give_up(self, reason: str) -> None:
        """Abandons the exchange; the round begins another one with new keys.

        After the last exchange that sites accept, the run is paused instead.
        """
        run, state, opened = self._run, self._run.exchange, self._run.round
        if state is None or opened is None:
            return
        if state.number >= sum_phases.MAX_EXCHANGES:
            run.store.pause(True)
            run.note_change()
            run.log("paused", round=opened.number, exchange=state.number, reason=reason)
            return
        run.store.restart_exchange(opened, sum_phases.restarted(state, now=run.clock()))
        run.reopen()
        run.closing = False
        run.note_change()
        run.log(
            "sum_given_up",
            round=opened.number,
            exchange=state.number,
            phase=state.phase,
            sites=sorted(state.done),
            reason=reason,
        )

    # Opening the sum, without the lock: a closing round does not change.

    def masks(self, closed: Round, state: Exchange) -> list[Mask]:
        """Returns the masks that remain in the sum of a round's masked updates.

        Raises:
          CannotOpen: if the revealed shares do not open the sum.
        """
        commitments = {site: post.commitment for site, post in self._posts("share").items()}
        if closed.received.keys() != state.survivors:
            raise opening.CannotOpen("an update of a site in the sum is no longer there")
        opened = opening.masks_of_sum(
            self._context(state),
            self._roster(),
            survivors=state.survivors,
            dropped=state.dropped,
            commitments=commitments,
            revealed=self._posts("reveal"),
        )
        if opened.liars:
            self._run.log(
                "sum_wrong_shares",
                round=closed.number,
                exchange=state.number,
                sites=list(opened.liars),
            )
        return opened.masks

    def mean(
        self, masks: Collection[Mask], updates: Mapping[str, tuple[Source, int]], model: Source
    ) -> tuple[Source, int]:
        """Returns (the weighted mean as a model, the number of training cases behind it)."""
        total = sum(examples for _, examples in updates.values())
        sources = [source for source, _ in updates.values()]
        return opening.OpenedMean(sources, masks, model, Ring.of(self._settings), total), total

    def verify(self, closed: Round) -> None:
        """Raises CorruptUpdate unless the masked updates are still as they were received."""
        store = self._run.store
        for update in closed.received.values():
            path = store.update_path(update)
            if not self._run.recently_verified.holds(path):
                try:
                    with TensorFile(path) as file:
                        sha256 = file_digest(file)
                except (ValueError, FileNotFoundError) as error:
                    raise CorruptUpdate(update) from error
                if sha256 != update.sha256:
                    raise CorruptUpdate(update)

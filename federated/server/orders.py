"""The operator's orders to a run in progress.

The operator can see its status, pause and resume it, evict and readmit a site, discard rounds, and
end the run early.
"""

from __future__ import annotations

from typing import Any

from federated import errors
from federated.rounds import rounds, tasks
from federated.server.evaluation import Evaluation
from federated.server.run_state import RunState
from federated.server.uploads import Uploads
from federated.storage.database import SiteRecord
from federated.wire.status import RunSnapshot, SiteSnapshot, SumStatus

_USUAL_EXCHANGES = 3  # of secure aggregation in one round; more should be examined


class Orders:
    """The operator's orders. Each survives restarts, and giving it twice does no harm."""

    def __init__(self, run: RunState, uploads: Uploads, evaluation: Evaluation):
        self._run, self._uploads, self._evaluation = run, uploads, evaluation

    def pause(self) -> None:
        """Stops giving tasks to sites and closing rounds; sites may still send updates."""
        run = self._run
        with run.changing():
            if not run.store.paused:
                run.store.pause(True)
                run.note_change()
                run.log("paused", round=run.round.number if run.round else None)

    def resume(self) -> None:
        """Ends a pause; deadlines count from now."""
        run = self._run
        with run.changing():
            if run.store.paused:
                run.store.pause(False)
                now = run.clock()
                if run.round is not None:
                    run.round = rounds.resumed(run.round, now=now)
                    run.store.keep_attempt(run.round.number, run.round.attempt, now)
                run.note_change()
                run.log("resumed", round=run.round.number if run.round else None)

    def evict(self, site: str) -> None:
        """Evicts a site: its sessions end, and what it sent does not count.

        That is its update of the open round, the models that it lent, its scores and its rows. With
        secure aggregation, an update still counts if it is in a sum to which the sites have agreed.

        Raises:
          UnknownSite.
          StaleUpdate: while its update is being averaged.
        """
        run = self._run
        with run.changed:
            self._check_known(site)
            update = run.round.received.get(site) if run.round else None
            if run.round is not None and run.closing and update is not None:
                raise errors.StaleUpdate(
                    f"round {run.round.number} is being averaged with the update of site {site!r}; "
                    "ask again in a moment"
                )
            # Sites have agreed to the sum that contains it, and help to open only that one in this
            # round.
            summed = run.exchange is not None and run.exchange.phase == "reveal"
            update = None if summed else update
            # Done first: if the eviction then fails, the site lends its models again.
            models = self._evaluation.withdraw(site)
            try:
                run.store.evict(site, True, update_counts=summed)
                if not run.closing:
                    run.reopen()
                if update is not None:
                    run.store.forget_update(update)
                self._uploads.drop(site)
                run.log(
                    "evicted", site=site, dropped=update.sha256 if update else None, models=models
                )
                self._evaluation.rewrite_rows()
            except BaseException:
                run.stale = run.log_is_behind = True
                raise
            finally:
                run.note_change()
        run.store.empty_discarded()

    def readmit(self, site: str) -> None:
        """Lets a site log in again: after its eviction, or with another number of training cases.

        Raises:
          UnknownSite.
        """
        run = self._run
        with run.changing():
            self._check_known(site)
            run.store.evict(site, False)
            run.store.allow_another_number(site)
            run.log("readmitted", site=site)
            self._evaluation.rewrite_rows()
            run.note_change()

    def discard_round(self, number: int) -> None:
        """Returns the run to the global model before round `number`.

        That round and all later ones are trained again.

        Raises:
          OrderRefused: if there is no such round, or a site that was not evicted has reported its
              rows and finished.
          StaleUpdate: while a round is being averaged.
        """
        run = self._run
        with run.changed:
            store = run.store
            last = max(store.globals())
            if run.closing:
                raise errors.StaleUpdate("a round is being averaged; ask again in a moment")
            if not 1 <= number <= last:
                done = f"rounds 1 to {last} are done" if last else "no round is done yet"
                raise errors.OrderRefused(f"round {number} cannot be discarded: {done}")
            reported = store.reported()
            left = [
                site
                for site, record in store.sites().items()
                if not record.evicted and (record.confirmed or site in reported)
            ]
            if left or store.finished:
                raise errors.OrderRefused(
                    f"round {number} cannot be discarded: {', '.join(left) or 'every site'} has "
                    "finished its part; a site that should not count can be evicted first"
                )
            if store.discarded >= tasks.MAX_DISCARDED:
                raise errors.OrderRefused(
                    f"the run has gone back {store.discarded} times, the most that sites follow; "
                    "start a new one"
                )
            if not store.global_path(number - 1).exists():
                raise errors.OrderRefused(
                    f"round {number} cannot be discarded: "
                    f"global model {number - 1} is no longer kept (--keep_globals)"
                )
            # Even if something fails from here on, updates are not accepted for a round that is no
            # longer in the store.
            run.stale = True
            try:
                store.discard_rounds(number)
                run.log(
                    "round_discarded",
                    round=number,
                    back_to=number - 1,
                    sha256=store.globals()[number - 1],
                    last=last,
                )
                run.recently_verified.forget()
                run.reopen()
                self._evaluation.select()
                run.stale = False
            finally:
                run.note_change()
            if run.round is not None:
                run.log("round_opened", round=run.round.number, received=[])
        run.store.empty_discarded()

    def finish(self, *, immediately: bool = False, reason: str = "operator") -> int:
        """Makes the open round the last one, or the round before it if `immediately` is true.

        Returns the number of the last round. The evaluation follows as usual.
        """
        run = self._run
        with run.changing():
            if run.store.only_evaluates:
                return self._finish_evaluation(reason)
            if run.round is None:
                return max(run.store.globals())
            number = run.round.number - (1 if immediately and not run.closing else 0)
            run.store.end_after(number, reason)
            if not run.closing:
                run.reopen()
            run.note_change()
        run.log("ending", after_round=number, reason=reason)
        return number

    def _finish_evaluation(self, reason: str) -> int:
        """Makes a run without rounds end with the sites that have joined.

        Called with the lock held.

        Raises:
          OrderRefused: if no site has joined.
        """
        run = self._run
        if not any(not record.evicted for record in run.store.sites().values()):
            raise errors.OrderRefused(
                "no site takes part yet, so there are no rows to finish with; "
                "stop the server instead"
            )
        if run.store.last_round is None and not run.store.finished:
            run.store.end_after(0, reason)
            run.note_change()
            run.log("ending", after_round=0, reason=reason)
        return 0

    def hindrance(self) -> str:
        """Returns what keeps the run from continuing by itself and which orders help, or "".

        A slow site is not a hindrance; one that has left or was evicted may be.
        """
        run = self._run
        with run.changed:
            store, state, now = run.store, run.round, run.clock()
            if store.finished:
                return ""
            if store.paused:
                return "the run is paused and continues after --order=resume"
            sites = store.sites()
            silent = [site for site in sorted(run.absent(now)) if not sites[site].evicted]
            # In a later phase of an exchange, fewer sites than the minimum are enough.
            gathering = run.exchange is None or run.exchange.phase == "keys"
            if state is not None and not run.closing and gathering:
                coming = (
                    {site for site, record in sites.items() if not record.evicted}
                    - set(silent)
                    - state.received.keys()
                )
                lacking = run.policy.min_num_clients - len(state.received) - len(coming)
                missing = [site for site in silent if site not in state.received]
                if lacking > 0 and (missing or any(record.evicted for record in sites.values())):
                    return (
                        f"round {state.number} needs {run.policy.min_num_clients} updates; "
                        f"{len(state.received)} are in, and {len(coming)} more can come from the "
                        f"sites that are heard{self._silence(missing, now)}. "
                        f"{self._remedy(missing, state.number)}"
                    )
            if state is not None and run.exchange and run.exchange.number > _USUAL_EXCHANGES:
                return (
                    f"round {state.number} is in exchange {run.exchange.number} of secure "
                    "aggregation, since those before could not be opened; the events sum_given_up "
                    "say why, and sum_sat_out in the logs of sites that sat one out"
                )
            taking_part = [site for site, record in sites.items() if not record.evicted]
            if (
                store.only_evaluates
                and store.last_round is None
                and len(taking_part) < min(run.policy.min_num_clients, len(sites))
            ):
                return (
                    f"the evaluation needs the rows of {run.policy.min_num_clients} sites, and "
                    f"{len(taking_part)} take part; have another site join, or end it without: "
                    "--order=finish"
                )
            waited_for, _ = run.expected(store.participants(), now)
            done = (
                store.reported()
                if run.config.cross_site_evaluation
                else store.scored(run.last_round)
            )
            missing = [site for site in silent if site in waited_for - done]
            if not missing:
                return ""
            orders = ", ".join(f"--order=evict --site={site}" for site in missing)
            waits = "waits" if state is None else "will wait"
            return f"the evaluation {waits} for {self._names(missing, now)}; without it: {orders}"

    def _silence(self, missing: list[str], now: float) -> str:
        return f" (not from {self._names(missing, now)})" if missing else ""

    def _names(self, missing: list[str], now: float) -> str:
        return ", ".join(
            f"{site}, silent for {_spoken(now - self._run.last_seen[site])}" for site in missing
        )

    def _remedy(self, missing: list[str], number: int) -> str:
        orders = [f"--order=evict --site={site}" for site in missing]
        if number == 1:
            return (
                "No round has been averaged yet, so the run cannot end with a model: "
                "have another site join, or stop the server"
            )
        end = (
            f"--order=finish_now ends the run with global model {number - 1}, "
            "whose evaluation then follows"
        )
        return f"Have another site join, or give up the round: {', then '.join([*orders, end])}"

    def standing(self, site: str) -> str:
        """Returns the standing of a site.

        This is "admitted", "welcome" (it may log in), "evicted" or "full".
        """
        run = self._run
        with run.changed:
            sites = run.store.sites()
            if site in sites:
                return "evicted" if sites[site].evicted else "admitted"
            taking_part = sum(not record.evicted for record in sites.values())
            return "full" if taking_part >= run.policy.max_num_clients else "welcome"

    def model_facts(self) -> tuple[int, dict[str, Any]]:
        """Returns (size of the model in bytes, the plan)."""
        with self._run.changed:
            return self._run.specs.nbytes, self._run.store.plan

    @property
    def trouble(self) -> str:
        """The failure of the system that keeps the run from continuing at the moment, or ""."""
        with self._run.changed:
            return self._run.trouble

    def status(self) -> RunSnapshot:
        """Returns the state of the run as plain values for a table or JSON; ages are in seconds."""
        run = self._run
        with run.changed:
            store, state, now = run.store, run.round, run.clock()
            last, scores, traffic = max(store.globals()), store.scores(), dict(run.traffic)
            sites: dict[str, SiteSnapshot] = {}
            for site, record in store.sites().items():
                sent, received = traffic.get(site, (0, 0))
                sites[site] = {
                    "state": self._state_of(site, record, now),
                    "num_examples": record.num_examples,
                    "labels": dict(record.labels),
                    "seconds_since_heard": round(now - run.last_seen.get(site, now), 1),
                    "bytes_received": received,
                    "bytes_sent": sent,
                    "scores": {
                        str(model): by_site[site]
                        for model, by_site in scores.items()
                        if site in by_site
                    },
                }
            return {
                "run": store.run_id,
                "phase": "finished"
                if store.finished
                else "paused"
                if store.paused
                else "evaluation"
                if state is None
                else "rounds",
                "paused": store.paused,
                "finished": store.finished,
                "rounds_done": last,
                "num_rounds": run.last_round,
                "open_round": None if state is None else state.number,
                "attempt": None if state is None else state.attempt,
                "updates": [] if state is None else sorted(state.received),
                "models": list(store.fixed_models()),
                "reported": sorted(
                    site for site in store.reported() if not store.sites()[site].evicted
                ),
                "min_num_clients": run.policy.min_num_clients,
                "max_num_clients": run.policy.max_num_clients,
                "best_round": store.best_round(),
                "aggregation": store.aggregation,
                "sum": self._sum(),
                "sites": sites,
            }

    def _sum(self) -> SumStatus | None:
        """Returns how far the secure sum of the open round is; None if there is none."""
        run, state = self._run, self._run.exchange
        if state is None or run.round is None:
            return None
        sites, policy = run.store.sites(), run.config.sum_policy
        expected = sites.keys() if state.members is None else state.members
        coming = {site for site in expected if not sites[site].evicted} - state.done.keys()
        return {
            "exchange": state.number,
            "phase": state.phase,
            "done": sorted(state.done),
            "awaited": [] if run.closing else sorted(coming),
            "needed": run.policy.min_num_clients if state.phase == "keys" else policy.threshold,
        }

    def _state_of(self, site: str, record: SiteRecord, now: float) -> str:
        run = self._run
        if record.evicted:
            return "evicted"
        if site in run.absent(now):
            return "silent"
        if record.confirmed:
            return "finished"
        if run.round is None:
            return "reported" if site in run.store.reported() else "evaluating"
        if site in run.round.received:
            return "pushed"
        return "sending" if site in run.round.arriving else "training"

    def _check_known(self, site: str) -> None:
        known = self._run.store.sites()
        if site not in known:
            raise errors.UnknownSite(
                f"site {site[:80]!r} never logged in; there are {', '.join(known) or 'none'}"
            )


def _spoken(seconds: float) -> str:
    """Returns a duration in words, e.g. "3 min" or "2.5 h"."""
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )

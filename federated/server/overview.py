"""The operator's view of a running server and its orders, for `admin_service`."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Callable

from federated import errors
from federated.audit.log import AuditLog
from federated.server.orders import Orders
from federated.server.run_statistics import RunStatistics, SiteStatistics
from federated.wire.status import RoundStatus, RunStatus, SiteSnapshot, SiteStatus
from runkit import atomic, release


class Overview:
    """Implements `admin_service.AdminApi`.

    Args:
      orders: carries out the operator's orders.
      events: the run's log, for the head of its chain.
      statistics: statistics of every event.
      store_folder: folder with the scores behind the selection; its free space is reported.
      warnings: returns warnings for the operator, e.g. of certificates that expire soon; called for
          every status.
    """

    def __init__(
        self,
        orders: Orders,
        events: AuditLog,
        statistics: RunStatistics,
        store_folder: str | os.PathLike,
        warnings: Callable[[], list[str]] = list,
    ):
        self._orders, self._events, self._statistics = orders, events, statistics
        self._folder, self._warnings = pathlib.Path(store_folder), warnings
        self.standing, self.model_facts = orders.standing, orders.model_facts

    def order(self, kind: str, site: str, round_number: int = 0) -> str:
        """Carries out an order; it is durable when this returns.

        The answer also states what keeps the run from continuing, if anything does.

        Raises:
          OrderRefused, UnknownSite, StaleUpdate.
        """
        answer = self._carried_out(kind, site, round_number)
        hindrance = "" if kind == "pause" else self._orders.hindrance()
        return f"{answer}. But {hindrance}" if hindrance else answer

    def _carried_out(self, kind: str, site: str, round_number: int) -> str:
        orders = self._orders
        if kind == "pause":
            orders.pause()
            return (
                "paused: sites finish and send what they have begun; they get no new task, "
                "and no round closes"
            )
        if kind == "resume":
            orders.resume()
            return "resumed"
        if kind == "evict":
            orders.evict(site)
            return (
                f"{site} is evicted: its token is void, it cannot log in, and its transfers end; "
                "its update of the open round, its lent models, its scores and its rows do not "
                "count"
            )
        if kind == "admit":
            orders.readmit(site)
            return f"{site} may log in again, also with another number of training cases"
        if kind == "discard_round":
            orders.discard_round(round_number)
            return (
                f"back to global model {round_number - 1}: round {round_number} is open again, "
                "and every site trains it again"
            )
        if kind in ("finish", "finish_now"):
            status = orders.status()
            if status["finished"]:
                return "the run has finished already" + (
                    f", with global model {status['rounds_done']}" if status["num_rounds"] else ""
                )
            if status["num_rounds"] == 0:
                orders.finish()
                return (
                    "the evaluation ends once the sites that take part have sent their rows, "
                    "without waiting for others; a site that will not send any can be evicted"
                )
            if status["open_round"] is None:
                return (
                    "the rounds are over already; the run ends with global model "
                    f"{status['rounds_done']} once the sites have evaluated it"
                )
            if kind == "finish":
                number = orders.finish()
                return (
                    f"round {number} is the last one; "
                    "once its updates are in, the sites' evaluation follows"
                )
            if status["open_round"] == 1:
                raise errors.OrderRefused(
                    "no round has been averaged yet, so there is no model to finish with; "
                    "stop the server instead"
                )
            last = orders.finish(immediately=True)
            return (
                f"the open round is abandoned; the run ends with global model {last}, "
                "whose evaluation follows"
            )
        raise errors.OrderRefused(f"unknown order {kind[:40]!r}")

    def log_head(self) -> tuple[int, str]:
        return self._events.head

    def status(self) -> RunStatus:
        """Returns the state of the run as JSON-able values, without secrets and paths."""
        snapshot, trouble = self._orders.status(), self._orders.trouble
        selection = self._folder / "selection.json"
        chosen = atomic.read_object(selection) if selection.exists() else {}
        scored = {entry["round"]: entry for entry in chosen.get("models", [])}
        rounds: list[RoundStatus] = [
            {
                "round": number,
                "sites": counted.sites,
                "seconds": counted.wall_s,
                "bytes": counted.bytes,
                "mean": scored.get(number, {}).get("mean"),
                "worst": scored.get(number, {}).get("worst"),
            }
            for number, counted in sorted(self._statistics.rounds.items())
        ]
        hindrance = "" if snapshot["paused"] else self._orders.hindrance()
        warnings = [
            *([hindrance] if hindrance else []),
            *([f"the store cannot be used: {trouble}; the server tries again"] if trouble else []),
            *self._warnings(),
        ]
        model_bytes, _ = self._orders.model_facts()
        lines, head = self.log_head()
        return {
            **snapshot,
            "sites": {name: self._site(name, site) for name, site in snapshot["sites"].items()},
            "rounds": rounds,
            "model_bytes": model_bytes,
            "disk_free_bytes": shutil.disk_usage(self._folder).free,
            "release": release.version(),
            "warnings": warnings,
            "audit": {"lines": lines, "head": head},
        }

    def _site(self, name: str, site: SiteSnapshot) -> SiteStatus:
        # Counted from the log, so that nothing is lost by a restart.
        counted = self._statistics.sites.get(name, SiteStatistics())
        return {
            **site,
            "bytes_received": counted.sent_bytes,
            "bytes_sent": counted.received_bytes,
            "updates": counted.updates,
            "last_round": counted.last_round,
            "doing": counted.doing,
            "refused": counted.refused,
        }

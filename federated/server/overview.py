"""The operator's place at a running server: the whole picture, and orders, for `operation` to carry
over the wire.
"""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

from federated import errors
from federated.audit.log import AuditLog
from federated.server.orders import Orders
from federated.server.run_statistics import RunStatistics, SiteStatistics
from runkit import atomic, release


class Overview:
    """Implements `operation.AdminApi`.

    Args:
      steering: of the run.
      events: the run's log, for the head of its chain.
      tally: hears every event.
      store_folder: for the scores behind the selection, and the space left.
      warnings: what the operator should know, e.g. certificates that end soon; asked at every
          status.
    """

    def __init__(
        self,
        steering: Orders,
        events: AuditLog,
        tally: RunStatistics,
        store_folder: str | os.PathLike,
        warnings: Callable[[], list[str]] = list,
    ):
        self._steering, self._events, self._tally = steering, events, tally
        self._folder, self._warnings = pathlib.Path(store_folder), warnings
        self.standing, self.model_facts = steering.standing, steering.model_facts

    def order(self, kind: str, site: str, round_number: int = 0) -> str:
        """Carries an order out, for good before it is answered; the answer says too what keeps the
        run from going on.

        Raises:
          OrderRefused, UnknownSite, StaleUpdate.
        """
        answer = self._carried_out(kind, site, round_number)
        hindrance = "" if kind == "pause" else self._steering.hindrance()
        return f"{answer}. But {hindrance}" if hindrance else answer

    def _carried_out(self, kind: str, site: str, round_number: int) -> str:
        steering = self._steering
        if kind == "pause":
            steering.pause()
            return "paused: what sites have begun they finish and send; nothing new is handed out and no round closes"
        if kind == "resume":
            steering.resume()
            return "resumed"
        if kind == "evict":
            steering.evict(site)
            return (
                f"{site} is sent away: its token is void, it cannot log in, what it is sending ends; its update of the open round, its lent "
                "models, its scores and its rows do not count"
            )
        if kind == "admit":
            steering.readmit(site)
            return f"{site} may log in again, and with another number of training cases"
        if kind == "discard_round":
            steering.discard_round(round_number)
            return f"back to global model {round_number - 1}: round {round_number} is open again, and every site trains it anew"
        if kind in ("finish", "finish_now"):
            status = steering.status()
            if status["finished"]:
                return f"the run is finished already, with global model {status['rounds_done']}"
            if status["open_round"] is None:
                return f"the rounds are over already; the run ends with global model {status['rounds_done']} once the sites have evaluated it"
            if kind == "finish":
                number = steering.finish()
                return f"round {number} is the last one; once its updates are in, the sites' evaluation follows"
            if status["open_round"] == 1:
                raise errors.OrderRefused(
                    "no round has been averaged yet, so there is no model to finish with; stop the server instead"
                )
            return f"the open round is abandoned; the run ends with global model {steering.finish(immediately=True)}, whose evaluation follows"
        raise errors.OrderRefused(f"there is no order {kind[:40]!r}")

    def log_head(self) -> tuple[int, str]:
        return self._events.head

    def status(self) -> dict[str, Any]:
        """Returns the whole picture as JSON-able values; no secret, no path."""
        status = self._steering.status()
        selection = self._folder / "selection.json"
        chosen = atomic.read_json(selection) if selection.exists() else {}
        scored = {entry["round"]: entry for entry in chosen.get("models", [])}
        for name, site in status["sites"].items():
            # Counted from the log, so that a restart forgets nothing.
            tally = self._tally.sites.get(name, SiteStatistics())
            site.update(
                bytes_received=tally.sent_bytes,
                bytes_sent=tally.received_bytes,
                updates=tally.updates,
                last_round=tally.last_round,
                doing=tally.doing,
                refused=tally.refused,
            )
        status["rounds"] = [
            {
                "round": number,
                "sites": tally.sites,
                "seconds": tally.wall_s,
                "bytes": tally.bytes,
                "mean": scored.get(number, {}).get("mean"),
                "worst": scored.get(number, {}).get("worst"),
            }
            for number, tally in sorted(self._tally.rounds.items())
        ]
        status["model_bytes"], _ = self._steering.model_facts()
        status["disk_free_bytes"] = shutil.disk_usage(self._folder).free
        status["release"] = release.version()
        trouble = status.pop("trouble")
        hindrance = "" if status["paused"] else self._steering.hindrance()
        status["warnings"] = [
            *([hindrance] if hindrance else []),
            *([f"the store cannot be used: {trouble}; the server tries again"] if trouble else []),
            *self._warnings(),
        ]
        status["audit"] = dict(zip(("lines", "head"), self.log_head(), strict=True))
        return status

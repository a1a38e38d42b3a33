"""Sends some of a run's events to TensorBoard.

These are the scores of every global model, the metrics of every update, and the size and duration
of rounds.
"""

from __future__ import annotations

from federated.rounds.log_lines import LogLine
from runkit.scalar_events import ScalarEvents


class RunScalars:
    """Writes events as scalars: `serve(..., listeners=[RunScalars(events).note])`.

    Args:
      events: writer of the scalars.
    """

    def __init__(self, events: ScalarEvents):
        self._events = events
        self._opened: dict[int, float] = {}

    def note(self, record: LogLine) -> None:
        if record["event"] == "scored":
            self._events.write(
                record["model"],
                {f"score/{record['site']}/{key}": value for key, value in record["scores"].items()},
            )
        elif record["event"] == "pushed":
            values = {
                f"update/{record['site']}/{key}": value
                for key, value in record.get("metrics", {}).items()
            }
            if "seconds" in record:
                values[f"transfer/{record['site']}/seconds"] = record["seconds"]
            self._events.write(record["round"], values)
        elif record["event"] == "round_opened":
            self._opened[record["round"]] = record["time"]
        elif record["event"] == "aggregated":
            values = {"round/sites": len(record["sites"])}
            opened = self._opened.pop(record["round"], None)
            if opened is not None:
                values["round/seconds"] = record["time"] - opened
            self._events.write(record["round"], values)
        elif record["event"] == "selected":
            # Sites score a model while they train the next one, so this belongs to the best round.
            self._events.write(
                record["best_round"],
                {"selected/mean": record["mean"], "selected/worst": record["worst"]},
            )

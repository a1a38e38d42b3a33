"""Completes the event log from the store, after a kill, a power cut or a full disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import cast

from federated.audit.carried import Carried
from federated.rounds.log_lines import ContinuedLine, LogLine
from federated.storage.database import GIVEN
from federated.storage.store import Store
from runkit.events import EventLog


def complete(log: EventLog, store: Store) -> None:
    """Logs what the store holds and the log lacks after a kill, a power cut or a full disk."""
    known = _replayed(cast(Iterable[LogLine], log.read()))
    globals_, counted, models = store.globals(), store.counted_updates(), store.models()
    rule_states = store.rule_states()
    beyond = [number for number in known.aggregated if number not in globals_]
    if beyond:
        first = min(*beyond, max(globals_, default=0) + 1)
        log.append(
            "round_discarded",
            round=first,
            back_to=first - 1,
            sha256=globals_.get(first - 1),
            backfilled=True,
        )
        # An update logged before this line no longer counts, so it is logged again if the store has
        # it.
        known = _replayed(cast(Iterable[LogLine], log.read()))
    for site, record in store.sites().items():
        if record.num_examples and known.num_examples.get(site) != record.num_examples:
            log.append("login", site=site, num_examples=record.num_examples, backfilled=True)
    for number in sorted({*globals_, *counted} - {*range(known.removed_rounds + 1)}):
        updates = counted.get(number, [])
        if number in globals_ and known.aggregated.get(number) == globals_[number]:
            continue
        for update in updates:
            if (number, update.site, update.sha256) not in known.pushed:
                log.append(
                    "pushed",
                    site=update.site,
                    round=update.round,
                    counts_in=number,
                    num_examples=update.num_examples,
                    sha256=update.sha256,
                    backfilled=True,
                )
        if number in globals_:
            log.append(
                "aggregated",
                round=number,
                sites={update.site: update.num_examples for update in updates},
                updates={update.site: update.sha256 for update in updates},
                sha256=globals_[number],
                aggregation=store.aggregation,
                **({"rule_state_sha256": rule_states[number]} if number in rule_states else {}),
                **_about_sums(store),
                backfilled=True,
            )
    for site, record in store.sites().items():
        if record.evicted and site not in known.evicted:
            gone = sorted(
                name for name, owner in known.owners.items() if owner == site and name not in models
            )
            log.append("evicted", site=site, dropped=None, models=gone, backfilled=True)
        elif not record.evicted and site in known.evicted:
            log.append("readmitted", site=site, backfilled=True)
    scores = store.scores()
    scored_by = sorted(scores.get(max(scores, default=0), {}))
    for model, by_site in scores.items():
        for site, found in by_site.items():
            if model <= known.removed_scores and (model, site) not in known.scores:
                continue  # it was logged in a segment that has been removed
            if known.scores.get((model, site)) != found:
                log.append("scored", site=site, model=model, scores=found, backfilled=True)
    for name, (site, sha256) in models.items():
        if known.published.get(name) != sha256 and site == GIVEN:
            log.append("given", model=name, sha256=sha256)
        elif known.published.get(name) != sha256:
            log.append("published", site=site, model=name, sha256=sha256, backfilled=True)
    if store.fixed_models() and not known.fixed and not store.only_evaluates:
        log.append(
            "models_fixed",
            models=list(store.fixed_models()),
            best_round=store.fixed_best(),
            scored_by=scored_by,
            backfilled=True,
        )
    for site, (count, sha256) in store.row_digests().items():
        if known.rows.get(site) != sha256:
            log.append("rows", site=site, rows=count, sha256=sha256, backfilled=True)
    if store.finished and not known.finished:
        log.append(
            "finished",
            rounds=max(globals_),
            sites=sorted(store.took_part()),
            **(
                {}
                if store.fixed_models()
                else {"best_round": store.best_round(), "scored_by": scored_by}
            ),
            backfilled=True,
        )


def _about_sums(store: Store) -> dict[str, dict[str, int]]:
    """Returns the store's facts about a round's sum; {} without secure aggregation."""
    settings = store.secure_aggregation
    return {} if not settings else {"secure_aggregation": {"threshold": settings["threshold"]}}


@dataclasses.dataclass
class _Known:
    """The digests of what a log says was received and not discarded later."""

    aggregated: dict[int, str] = dataclasses.field(default_factory=dict)  # round -> global model
    # (round in which it counts, site, update)
    pushed: set[tuple[int, str, str]] = dataclasses.field(default_factory=set)
    published: dict[str, str] = dataclasses.field(default_factory=dict)  # name -> model
    owners: dict[str, str] = dataclasses.field(default_factory=dict)  # name of a model -> site
    rows: dict[str, str] = dataclasses.field(default_factory=dict)  # site -> rows
    evicted: set[str] = dataclasses.field(default_factory=set)
    num_examples: dict[str, int] = dataclasses.field(default_factory=dict)
    # (model, site) -> scores
    scores: dict[tuple[int, str], dict[str, float]] = dataclasses.field(default_factory=dict)
    fixed: bool = False  # whether the models to evaluate are fixed
    finished: bool = False
    removed_rounds: int = 0  # number of rounds whose lines are in removed segments
    removed_scores: int = -1  # the newest model whose scores may be in removed segments

    @classmethod
    def carried(cls, record: ContinuedLine) -> _Known:
        """Starts from the first line of a log whose earlier segments have been removed."""
        found = Carried.from_json(record["carried"])
        return cls(
            aggregated={found.round: found.sha256 or ""} if found.round else {},
            pushed={(number, site, sha) for (number, site), (_, sha, _) in found.pushed.items()},
            published={
                **{name: sha256 for name, (_, sha256) in found.published.items()},
                **found.given,
            },
            owners={name: site for name, (site, _) in found.published.items()},
            rows=dict(found.rows),
            evicted=set(found.evicted),
            num_examples=dict(found.num_examples),
            fixed=found.fixed,
            finished=found.finished,
            removed_rounds=found.round,
            removed_scores=found.round,
        )


def _replayed(records: Iterable[LogLine]) -> _Known:
    known = _Known()
    for number, record in enumerate(records):
        if record["event"] == "log_continued":
            if number == 0:
                known = _Known.carried(record)
        elif record["event"] == "aggregated":
            known.aggregated[record["round"]] = record["sha256"]
        elif record["event"] == "pushed":
            known.pushed.add(
                (record.get("counts_in", record["round"]), record["site"], record["sha256"])
            )
        elif record["event"] == "published":
            known.published[record["model"]] = record["sha256"]
            known.owners[record["model"]] = record["site"]
        elif record["event"] == "given":
            known.published[record["model"]] = record["sha256"]
        elif record["event"] == "evicted":
            known.evicted.add(record["site"])
            for name in record.get("models", ()):
                known.published.pop(name, None)
        elif record["event"] == "readmitted":
            known.evicted.discard(record["site"])
        elif record["event"] == "rows":
            known.rows[record["site"]] = record.get("sha256", "")
        elif record["event"] == "login":
            known.num_examples[record["site"]] = record["num_examples"]
        elif record["event"] == "scored":
            known.scores[record["model"], record["site"]] = record.get("scores", {})
        elif record["event"] == "models_fixed":
            known.fixed = True
        elif record["event"] == "finished":
            known.finished = True
        elif record["event"] == "round_discarded":
            first = record["round"]
            known.scores = {key: found for key, found in known.scores.items() if key[0] < first}
            known.fixed = False
            known.aggregated = {
                number: sha256 for number, sha256 in known.aggregated.items() if number < first
            }
            known.pushed = {entry for entry in known.pushed if entry[0] < first}
            known.rows = {}
            known.removed_rounds = min(known.removed_rounds, first - 1)
            known.removed_scores = min(known.removed_scores, first - 1)
    return known

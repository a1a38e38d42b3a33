"""Checks a server's log, models, lent models, rows and selection against each other."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Mapping

from cryptography import x509

from federated.aggregation import model_selection, rules, slabs
from federated.aggregation.rule import AggregationRule
from federated.aggregation.unshared import CompletingSink
from federated.audit.carried import Carried
from federated.audit.chain import FIRST, BrokenChain, read_chain
from federated.errors import IncompatibleWeights
from federated.rounds.log_lines import (
    AggregatedLine,
    ContinuedLine,
    FixedLine,
    GivenLine,
    LogLine,
    PublishedLine,
    RoundDiscardedLine,
)
from federated.rounds.sharing import ShareRules, Sharing, of_plan
from federated.storage.store import rows_digest
from federated.storage.store_folder import StoreFolder
from federated.tensors import codec
from federated.tensors.tensor_files import TensorFile, file_digest, selected
from federated.tensors.weights import Digest, TensorSpec


@dataclasses.dataclass(frozen=True)
class Verified:
    """The results of `verify`."""

    lines: int  # number of lines of the log
    head: str  # hash of its last line
    rounds: tuple[int, ...]  # rounds whose global models are in the store, as logged
    recomputed: tuple[int, ...]  # of these, the rounds whose model the kept updates reproduce
    pruned: tuple[int, ...]  # rounds whose global models the server did not keep
    rule_states: tuple[int, ...] = ()  # rounds whose state of the aggregation rule is as logged
    discarded: tuple[int, ...] = ()  # rounds that the operator discarded, with repetitions
    models: tuple[str, ...] = ()  # lent models that are as logged
    given: tuple[str, ...] = ()  # models that the operator gave that are as logged
    rows: tuple[str, ...] = ()  # sites whose rows are as logged
    best_round: int | None = None  # selected again by the logged scores; None before it is final
    segments: int = 1  # number of segments of the log, including removed ones
    removed_lines: int = 0  # first lines of the log, in removed segments
    removed_rounds: int = 0  # first rounds, which cannot be checked without these lines
    # Rounds of masked updates, whose average nobody can compute again.
    summed: tuple[int, ...] = ()


@dataclasses.dataclass
class _Run:
    """The state of the run as recorded by the log, up to one line."""

    pushed: dict[tuple[int, str], tuple[str, int]] = dataclasses.field(default_factory=dict)
    aggregated: dict[int, AggregatedLine] = dataclasses.field(default_factory=dict)
    discarded: list[int] = dataclasses.field(default_factory=list)
    published: dict[str, PublishedLine] = dataclasses.field(default_factory=dict)
    given: dict[str, GivenLine] = dataclasses.field(default_factory=dict)
    # site -> (line, digest)
    rows: dict[str, tuple[int, str]] = dataclasses.field(default_factory=dict)
    scores: dict[int, dict[str, float]] = dataclasses.field(default_factory=dict)
    fixed: FixedLine | None = None  # the line that fixed the best model
    # the scores by which it was chosen, and the training cases of each site then
    final: dict[int, dict[str, float]] = dataclasses.field(default_factory=dict)
    weights: dict[str, int] = dataclasses.field(default_factory=dict)
    carried: Carried = dataclasses.field(default_factory=Carried)
    segments: int = 1
    removed_lines: int = 0
    removed_rounds: int = 0

    @property
    def closed(self) -> int:
        """The last round that was aggregated and not discarded."""
        return max(self.aggregated, default=self.removed_rounds)

    def begin(self, record: ContinuedLine) -> None:
        """Starts from the first line of a log whose earlier segments have been removed."""
        line, time = record["line"], record["time"]
        self.carried = found = Carried.from_json(record["carried"])
        self.removed_lines, self.removed_rounds = line - 1, found.round
        self.pushed = {
            key: (sha256, num_examples) for key, (_, sha256, num_examples) in found.pushed.items()
        }
        self.published = {
            name: PublishedLine(
                time=time, event="published", line=line, model=name, site=site, sha256=sha256
            )
            for name, (site, sha256) in found.published.items()
        }
        self.given = {
            name: GivenLine(time=time, event="given", line=line, model=name, sha256=sha256)
            for name, sha256 in found.given.items()
        }
        self.rows = {site: (line, sha256) for site, sha256 in found.rows.items() if sha256}
        if found.best_round is not None:
            self.fixed = FixedLine(
                time=time, event="models_fixed", line=line, best_round=found.best_round
            )

    def _continued(self, record: ContinuedLine) -> None:
        if record["line"] > 1 and record["line"] == self.removed_lines + 1:
            return
        # As JSON, as the line has it.
        if json.loads(json.dumps(self.carried.to_json())) != record["carried"]:
            raise BrokenChain(
                record["line"], "does not carry on the run that the lines before it record"
            )

    def take(self, record: LogLine) -> None:
        if record["event"] == "log_continued":
            self.segments = record["segment"]
            self._continued(record)
        self.carried.take(record)
        if record["event"] == "pushed":
            self.pushed[record["counts_in"], record["site"]] = (
                record["sha256"],
                record["num_examples"],
            )
        elif record["event"] == "aggregated":
            self._aggregated(record)
        elif record["event"] == "round_discarded":
            self._discarded(record)
        elif record["event"] == "published":
            self.published[record["model"]] = record
        elif record["event"] == "given":
            self.given[record["model"]] = record
        elif record["event"] == "rows" and "sha256" in record:
            self.rows[record["site"]] = record["line"], record["sha256"]
        elif record["event"] == "scored" and model_selection.SCORE in record.get("scores", {}):
            self.scores.setdefault(record["model"], {})[record["site"]] = record["scores"][
                model_selection.SCORE
            ]
        elif record["event"] == "evicted":
            for name in record.get("models", ()):
                self.published.pop(name, None)
        elif (
            record["event"] in ("models_fixed", "finished")
            and "best_round" in record
            and self.fixed is None
        ):
            self.fixed = record
            self.weights = dict(self.carried.num_examples)
            self.final = {
                model: {
                    site: score
                    for site, score in by_site.items()
                    if site not in self.carried.evicted
                }
                for model, by_site in self.scores.items()
            }

    def _aggregated(self, record: AggregatedLine) -> None:
        number = record["round"]
        if number != self.closed + 1:
            raise BrokenChain(
                record["line"],
                f"aggregates round {number} where round {self.closed + 1} is due",
            )
        for site, sha256 in record["updates"].items():
            if self.pushed.get((number, site)) != (sha256, record["sites"][site]):
                raise BrokenChain(
                    record["line"],
                    f"round {number} counts an update of site {site!r} that was not logged before",
                )
        self.aggregated[number] = record

    def _discarded(self, record: RoundDiscardedLine) -> None:
        first = record["round"]
        before = self.aggregated.get(first - 1)
        if before is not None and record.get("sha256") not in (None, before["sha256"]):
            raise BrokenChain(
                record["line"], f"goes back to a model of round {first - 1} that was not logged"
            )
        gone = [number for number in self.aggregated if number >= first]
        self.discarded += gone
        self.removed_rounds = min(self.removed_rounds, first - 1)
        for number in gone:
            del self.aggregated[number]
        self.pushed = {key: value for key, value in self.pushed.items() if key[0] < first}
        self.scores = {model: by_site for model, by_site in self.scores.items() if model < first}
        self.rows = {}
        self.fixed = None


def verify(
    store: str | os.PathLike, authority: x509.Certificate | None = None, *, head: str = ""
) -> Verified:
    """Checks a store's log, compares the store with it, and recomputes rounds from kept updates.

    It only reads, and may run while the server runs.

    Args:
      store: the server's folder, or a copy of it.
      authority: as in `log.read_chain`.
      head: a hash recorded earlier, or its first digits; the log must still contain that line.
    Raises:
      BrokenChain: naming the first line that is wrong, or that the store contradicts.
      ValueError: if the folder has no log.
    """
    files = StoreFolder(store)
    path = files.folder / "events.jsonl"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give the server's folder, its --store")
    run, last, seen_head, lines, first = _Run(), FIRST, not head, 0, True
    for record in read_chain(path, authority):
        lines, last = record["line"], record["hash"]
        seen_head = seen_head or last.startswith(head)
        if first and lines > 1 and record["event"] == "log_continued":
            run.begin(record)
        first = False
        run.take(record)
    rounds = [number for number, record in run.aggregated.items() if _has_model(files, record)]
    rule_states = [n for n, record in run.aggregated.items() if _has_rule_state(files, record)]
    sharing = _sharing(files, (0, *rounds))
    recomputed = [n for n in rounds if _recompute(files, run.aggregated[n], sharing)]
    models = [
        name
        for name, record in sorted(run.published.items())
        if _has_lent_model(files, record, sharing)
    ]
    given = [name for name, record in run.given.items() if _has_given_model(files, record)]
    rows = _check_rows(files, run)
    best = _check_selection(files, run)
    if not seen_head:
        raise BrokenChain(
            lines,
            f"the log has no line with the noted hash {head[:16]}…: "
            + (
                f"it is among its first {run.removed_lines:,} lines, which are no longer kept, "
                "or the log was rewritten"
                if run.removed_lines
                else "it was rewritten, or is of another run"
            ),
        )
    pruned = tuple(number for number in run.aggregated if number not in rounds)
    return Verified(
        lines,
        last,
        tuple(rounds),
        tuple(recomputed),
        pruned,
        tuple(rule_states),
        tuple(run.discarded),
        tuple(models),
        tuple(given),
        tuple(rows),
        best,
        run.segments,
        run.removed_lines,
        run.removed_rounds,
        tuple(number for number in rounds if "secure_aggregation" in run.aggregated[number]),
    )


def _digest_of(path: pathlib.Path, record: LogLine) -> str | None:
    """Returns the digest of a file's tensors, None if there is no such file."""
    try:
        with TensorFile(path) as file:
            return file_digest(file)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise BrokenChain(record["line"], f"its file cannot be read: {error}") from error


def _has_model(store: StoreFolder, record: AggregatedLine) -> bool:
    path = store.global_path(record["round"])
    digest = _digest_of(path, record)
    if digest not in (None, record["sha256"]):
        raise BrokenChain(
            record["line"],
            f"{path.name} is not the model of round {record['round']} that was logged",
        )
    return digest is not None


def _has_rule_state(store: StoreFolder, record: AggregatedLine) -> bool:
    if "rule_state_sha256" not in record:
        return False
    path = store.rule_state_path(record["round"])
    digest = _digest_of(path, record)
    if digest not in (None, record["rule_state_sha256"]):
        raise BrokenChain(
            record["line"],
            f"rule_state/{path.name} is not the state of the aggregation rule that was logged",
        )
    return digest is not None


def _sharing(store: StoreFolder, numbers: Iterable[int]) -> Sharing:
    """Returns the plan's sharing rule for each array; every global model holds the plan."""
    for path in filter(pathlib.Path.is_file, map(store.global_path, numbers)):
        try:
            with TensorFile(path) as file:
                rules = of_plan(json.loads(file.metadata.get("plan", "{}")))
                return rules.of(spec.name for spec in file.specs)
        except ValueError as error:
            raise BrokenChain(0, f"{path.name} cannot be read: {error}") from error
    return ShareRules().of(())  # there is no global model, so no round is recomputed


def _check_sent(
    sharing: Sharing, path: pathlib.Path, record: PublishedLine | AggregatedLine
) -> None:
    """Raises BrokenChain if a file from a site holds other arrays than the plan shares."""
    with TensorFile(path) as file:
        try:
            sharing.check_sent([spec.name for spec in file.specs], what=path.name)
        except IncompatibleWeights as error:
            raise BrokenChain(record["line"], str(error)) from error


def _has_lent_model(store: StoreFolder, record: PublishedLine, sharing: Sharing) -> bool:
    path = store.model_path(record["model"])
    digest = _digest_of(path, record)
    if digest not in (None, record["sha256"]):
        raise BrokenChain(
            record["line"], f"{path.name} is not the model that site {record['site']!r} lent"
        )
    if digest is not None:
        _check_sent(sharing, path, record)
    return digest is not None


def _has_given_model(store: StoreFolder, record: GivenLine) -> bool:
    path = store.model_path(record["model"])
    digest = _digest_of(path, record)
    if digest not in (None, record["sha256"]):
        raise BrokenChain(record["line"], f"{path.name} is not the model that the operator gave")
    return digest is not None


def _check_rows(store: StoreFolder, run: _Run) -> list[str]:
    """Compares `rows.jsonl` with the logged digests; returns the sites whose rows are as logged."""
    by_site: dict[str, list[bytes]] = {}
    path = store.folder / "rows.jsonl"
    if path.exists():
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                by_site.setdefault(json.loads(line)["site"], []).append(line)
            except (ValueError, KeyError, TypeError) as error:
                raise BrokenChain(
                    _line_of(run.rows), f"line {number} of rows.jsonl is not a row"
                ) from error
    as_logged = []
    for site, (logged_in, sha256) in sorted(run.rows.items()):
        if site in run.carried.evicted:
            continue
        if rows_digest(line.decode("utf-8", "replace") for line in by_site.get(site, [])) != sha256:
            raise BrokenChain(
                logged_in,
                f"the rows of site {site!r} in rows.jsonl are not those that were logged",
            )
        as_logged.append(site)
    unknown = sorted(site for site in by_site if site not in as_logged)
    if run.rows and unknown:  # a log of an earlier release has no digests of rows
        raise BrokenChain(
            _line_of(run.rows),
            f"rows.jsonl has rows of {', '.join(map(repr, unknown))} that were not logged",
        )
    return as_logged


def _line_of(rows: Mapping[str, tuple[int, str]]) -> int:
    return max((line for line, _ in rows.values()), default=0)


def _check_selection(store: StoreFolder, run: _Run) -> int | None:
    """Selects the best global model again by the logged scores, once it is fixed.

    Returns:
      Its round; None before it is fixed.
    """
    if run.fixed is None:
        return None
    line, best = run.fixed["line"], run.fixed["best_round"]
    # An earlier release, which does not log "scored_by", counted the scores of evicted sites too.
    # The scores of removed lines are missing.
    if "scored_by" in run.fixed and not run.removed_lines:
        chosen = model_selection.select(
            {m: scores for m, scores in run.final.items() if store.global_path(m).exists()},
            run.weights,
        )
        expected = max(run.aggregated, default=0) if chosen is None else chosen.best
        if best != expected:
            raise BrokenChain(
                line,
                f"round {best} is named the best; by the logged scores it is round {expected}",
            )
    if 0 < best <= run.removed_rounds:
        return best  # the digest of its model is in a removed line
    path, model = store.folder / "best.safetensors", run.aggregated.get(best)
    digest = _digest_of(path, run.fixed)
    wanted = model["sha256"] if model else _digest_of(store.global_path(0), run.fixed)
    if digest != wanted:
        raise BrokenChain(line, f"best.safetensors is not the model of round {best}")
    return best


def _recompute(store: StoreFolder, record: AggregatedLine, sharing: Sharing) -> bool:
    """Aggregates the kept updates of a round again, by the rule that its line names.

    Returns:
      False if the store no longer has an update, or the model or the rule's state before.
    Raises:
      BrokenChain: if the result is not what was logged.
    """
    number, line = record["round"], record["line"]
    if "secure_aggregation" in record:
        return False  # the updates of its line are masked
    # The file is named after the round for which it was trained; a late update counts in the next.
    kept = sorted(store.kept_folder(number).glob("round_*.safetensors"))
    found = {
        site: [path for path in kept if path.name.endswith(f".{site}.{sha256[:16]}.safetensors")]
        for site, sha256 in record["updates"].items()
    }
    if not all(found.values()):
        return False
    # A line that was completed from the store does not say whether the model was rounded.
    rounded = [False, True] if record.get("backfilled") else ["rounding_error" in record]
    with contextlib.ExitStack() as opened:
        try:
            rule = rules.parse(record.get("aggregation", rules.DEFAULT))
            updates = {}
            for site, (path, *_) in found.items():
                _check_sent(sharing, path, record)
                update = opened.enter_context(TensorFile(path))
                if file_digest(update) != record["updates"][site]:
                    raise BrokenChain(
                        line, f"{path.name} is not the update of site {site!r} that was logged"
                    )
                updates[site] = (update, record["sites"][site])
            specs = next(iter(updates.values()))[0].specs
            model = state = None
            if rule.reads_model or not sharing.everything:
                model = opened.enter_context(TensorFile(store.global_path(number - 1)))
            if slabs.state_specs(rule, specs) and number > 1:
                state = opened.enter_context(TensorFile(store.rule_state_path(number - 1)))
            given = (rule, updates, model, state, sharing)
            digests = [_digests(*given, rounded=way) for way in rounded]
        except FileNotFoundError:
            return False
        except BrokenChain:
            raise
        except ValueError as error:
            raise BrokenChain(line, f"round {number} cannot be recomputed: {error}") from error
    if record["sha256"] not in [digest for digest, _ in digests]:
        raise BrokenChain(
            line, f"the updates of round {number} do not give the logged model by {rule}"
        )
    if digests[0][1] not in (None, record.get("rule_state_sha256")):
        raise BrokenChain(
            line, f"the updates of round {number} do not give the logged state of {rule}"
        )
    return True


def _digests(
    rule: AggregationRule,
    updates: Mapping[str, tuple[TensorFile, int]],
    model: TensorFile | None,
    state: TensorFile | None,
    sharing: Sharing,
    *,
    rounded: bool,
) -> tuple[str, str | None]:
    """Returns the digests of the global model and of the rule's state that updates give."""
    specs = next(iter(updates.values()))[0].specs
    kept = slabs.state_specs(rule, specs)
    partial = model is not None and not sharing.everything
    sink = _DigestSink(model.specs if model is not None and partial else specs)
    state_sink = _DigestSink(kept)
    completing = CompletingSink(sink, model, sharing.shared) if model and partial else None
    slabs.aggregate(
        rule,
        updates,
        completing or sink,
        model=None if model is None else selected(model, {spec.name for spec in specs}),
        state=state,
        state_sink=state_sink,
        **({"finish": codec.rounding(codec.RoundingError())} if rounded else {}),
    )
    if completing is not None:
        completing.finish()
    return sink.hex(), state_sink.hex() if kept else None


class _DigestSink:
    """Receives the bytes of tensors and keeps only their digest."""

    def __init__(self, specs: tuple[TensorSpec, ...]):
        self._digest = Digest(specs)

    def write(self, data: bytes | memoryview) -> None:
        self._digest.update(data)

    def hex(self) -> str:
        return self._digest.hex()

"""Applies an aggregation rule to updates of any size, slab by slab.

The result has the same bits for any order of arrival, slab size or restart.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent import futures
from typing import NamedTuple, Protocol, cast

import numpy as np

from federated.aggregation.rule import Aggregated, AggregationRule, Slab
from federated.tensors.weights import CHUNK_BYTES, TensorSpec, check_same, dtype_runs, stretches

SLAB_BYTES = 2**18  # bytes of each update worked on at a time: they stay in a processor's cache
# For all updates together if a rule gathers them, as long as that leaves _LEAST_SLAB_BYTES each.
_GATHERED_BYTES = 2**20
_LEAST_SLAB_BYTES = 2**12  # a multiple of every dtype
_WORKERS = 2  # chunks that are aggregated at the same time
_AHEAD = 4  # largest number of chunks that wait to be written
_STATE = np.dtype("<f8")


class Source(Protocol):
    """Anything that returns a model's bytes piece by piece, e.g. `tensor_files.TensorFile`.

    Several threads may read, each the pieces of one chunk in order.
    """

    @property
    def specs(self) -> tuple[TensorSpec, ...]: ...

    def read_range(self, start: int, size: int) -> bytes: ...


class Sink(Protocol):
    """Takes a model's bytes in canonical order, e.g. `tensor_files.TensorFileWriter`."""

    def write(self, data: bytes | memoryview) -> None: ...


class NotFinite(ValueError):
    """A rule made values that are not finite from updates whose values are."""


class _Stretch(NamedTuple):
    """Values of one dtype in a chunk: their bytes, and the number of values before them."""

    dtype: np.dtype
    begin: int
    end: int
    first_value: int


def state_specs(rule: AggregationRule, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Returns the tensors of the rule's state for a model; () if the rule keeps no state.

    The state is one float64 tensor [values, names]: the model's values in canonical order, and for
    each of them the names that `init` returned, in that order.
    """
    names = rule.init(specs)
    size = sum(spec.size for spec in specs)
    return (TensorSpec("state", "F64", (size, len(names))),) if names else ()


def aggregate(
    rule: AggregationRule,
    updates: Mapping[str, tuple[Source, int]],
    sink: Sink,
    *,
    model: Source | None = None,
    state: Source | None = None,
    state_sink: Sink | None = None,
    finish: Callable[[np.ndarray], np.ndarray] = lambda slab: slab,
) -> None:
    """Aggregates updates into `sink`, slab by slab.

    Args:
      updates: site name -> (update, number of training cases); their specs must be equal.
      sink: receives the new global model.
      model: the global model that the sites trained from; needed if the rule reads it.
      state: the rule's state after the previous round; None for its initial values.
      state_sink: receives the rule's new state; needed if the rule keeps one.
      finish: applied to each piece of the new model, e.g. rounding.
    Raises:
      ValueError: for fewer updates than the rule can work with, an update without training cases,
          or a rule that does not do what `AggregationRule` says.
      IncompatibleWeights: if two updates differ in a name, shape or dtype.
      NotFinite: if the new model has values that are not finite, which a rule with a learning
          rate can make. Everything has been read and written then.
    """
    ordered = [(site, *updates[site]) for site in sorted(updates)]
    specs = _checked(rule, ordered)
    slab_bytes = _slab_bytes(rule, len(ordered))
    num_examples = [examples for _, _, examples in ordered]
    initial = rule.init(specs)
    finite: list[bool] = []

    def slab_of(stretch: _Stretch, start: int, size: int, first_value: int) -> Slab:
        def read(source: Source) -> np.ndarray:
            return np.frombuffer(source.read_range(start, size), stretch.dtype)

        count = size // stretch.dtype.itemsize
        return Slab(
            updates=_Once(rule, (read(source) for _, source, _ in ordered)),
            num_examples=num_examples,
            model=read(model) if rule.reads_model and model is not None else np.empty(0),
            state=_state_of(initial, state, first_value, count),
        )

    def aggregated(chunk: list[_Stretch]) -> list[tuple[np.ndarray, np.ndarray]]:
        results = []
        for stretch in chunk:
            itemsize = stretch.dtype.itemsize
            count = (stretch.end - stretch.begin) // itemsize
            values, kept = np.empty(count, stretch.dtype), np.empty((count, len(initial)), _STATE)
            for start in range(stretch.begin, stretch.end, slab_bytes):
                size = min(slab_bytes, stretch.end - start)
                at = (start - stretch.begin) // itemsize
                slab = slab_of(stretch, start, size, stretch.first_value + at)
                result = rule.aggregate(slab)
                _check_result(rule, result, size // itemsize, initial)
                # A rule may look at some updates only; reading the others checks their digests.
                collections.deque(cast(_Once, slab.updates).rest, maxlen=0)
                part = slice(at, at + size // itemsize)
                with np.errstate(over="ignore", invalid="ignore"):  # checked below
                    values[part] = result.model
                for column, name in enumerate(initial):
                    kept[part, column] = result.state[name]
            finite.append(rule.within_updates or bool(np.isfinite(values).all()))
            results.append((values, kept))
        return results

    with futures.ThreadPoolExecutor(_WORKERS, thread_name_prefix="aggregate") as pool:
        pending: collections.deque[futures.Future] = collections.deque()

        def write_next() -> None:
            for values, kept in pending.popleft().result():
                sink.write(finish(values).data.cast("B"))
                if initial and state_sink is not None:
                    state_sink.write(kept.data.cast("B"))

        for chunk in _chunks(specs):
            pending.append(pool.submit(aggregated, chunk))
            if len(pending) == _AHEAD:
                write_next()
        while pending:
            write_next()
    if not all(finite):
        raise NotFinite(
            f"aggregation {str(rule)!r} made values that are not finite, although those of the "
            "updates are; the global model of the round before is kept; start a new run, from that "
            "model if you like, with other parameters of the rule"
        )


class _Once:
    """The updates of a slab, which a rule can iterate once."""

    def __init__(self, rule: AggregationRule, values: Iterator[np.ndarray]):
        self.rest, self._rule, self._begun = values, rule, False

    def __iter__(self) -> Iterator[np.ndarray]:
        if self._begun:
            raise ValueError(
                f"aggregation {self._rule.name!r} iterates over a slab's updates a second time; "
                "set gathers_updates = True and keep them in a list"
            )
        self._begun = True
        return self.rest


def _check_result(
    rule: AggregationRule, result: object, count: int, names: Collection[str]
) -> None:
    """Raises ValueError unless `result` holds `count` values, and as many under each name."""
    expected = f"Aggregated(model, state), with {count} values in model"
    if names:
        expected += f", and in state as many under each of {', '.join(names)}"
    if not isinstance(result, Aggregated):
        found = f"an object of type {type(result).__name__}"
    elif set(result.state) != set(names):
        found = f"a state with the names {', '.join(map(repr, result.state)) or 'none'}"
    else:
        parts = {"model": result.model, **{f"state {n!r}": v for n, v in result.state.items()}}
        wrong = {part: np.shape(v) for part, v in parts.items() if np.shape(v) != (count,)}
        if not wrong:
            return
        found = "; ".join(f"{part} of shape {shape}" for part, shape in wrong.items())
    raise ValueError(f"aggregation {rule.name!r}: aggregate returned {found}; expected {expected}")


def _slab_bytes(rule: AggregationRule, num_updates: int) -> int:
    """Returns how many bytes of each update the rule works on at a time."""
    if not rule.gathers_updates:
        return SLAB_BYTES
    share = _GATHERED_BYTES // num_updates // _LEAST_SLAB_BYTES * _LEAST_SLAB_BYTES
    return min(SLAB_BYTES, max(_LEAST_SLAB_BYTES, share))


def _state_of(
    initial: Mapping[str, float], state: Source | None, first: int, count: int
) -> dict[str, np.ndarray]:
    """Returns the state of `count` values of the model, from value `first` on."""
    if state is None or not initial:
        return {name: np.full(count, value, _STATE) for name, value in initial.items()}
    row = len(initial) * _STATE.itemsize
    data = state.read_range(first * row, count * row)
    rows = np.frombuffer(data, _STATE).reshape(count, len(initial))
    return {name: rows[:, column] for column, name in enumerate(initial)}


def _chunks(specs: Sequence[TensorSpec]) -> Iterator[list[_Stretch]]:
    """Yields each chunk of a model as ranges of one dtype."""
    runs, values = dtype_runs(specs), 0
    for start in range(0, sum(nbytes for _, _, nbytes in runs), CHUNK_BYTES):
        chunk = []
        for dtype, begin, end in stretches(runs, start, start + CHUNK_BYTES):
            chunk.append(_Stretch(dtype, begin, end, values))
            values += (end - begin) // dtype.itemsize
        yield chunk


def _checked(
    rule: AggregationRule, updates: Sequence[tuple[str, Source, int]]
) -> tuple[TensorSpec, ...]:
    """Returns the specs that all updates share."""
    if not updates:
        raise ValueError("no update to aggregate; a round closes with at least one")
    rule.check_updates(len(updates), given=f"there are {len(updates)}")
    specs = updates[0][1].specs
    for site, source, examples in updates:
        if examples <= 0:
            raise ValueError(f"site {site!r} has num_examples {examples}; expected at least 1")
        check_same(specs, source.specs, what=f"update of site {site!r}")
    return specs

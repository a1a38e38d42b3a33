"""Reads `table1.json`, and checks what readers rely on: the file may come from somebody else."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from experiments.results import table1_values
from runkit import atomic, json_values
from runkit.json_values import OBJECT, WHOLE, is_number, is_object_of, is_whole
from runkit.settings import Condition

_LONGEST_TEXT = 10_000  # characters
_REMEDY = "get the file again, or make it again with experiments.table1"


def read(file: str | os.PathLike) -> dict[str, Any]:
    """Returns the content of a `table1.json`.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: naming the file and the first entry that is missing or not what is expected.
    """
    document = atomic.read_json(file)
    try:
        _check(document)
    except ValueError as error:
        raise ValueError(f"{pathlib.Path(file)}: {error}; {_REMEDY}") from error
    return document


def _check(document: Any) -> None:
    if not isinstance(document, Mapping):
        raise ValueError("expected a JSON object with a table and its rows")
    json_values.require(document, _ENTRIES, may_lack=_LATER)
    if document["rows"].keys() != document["contributing_cases"].keys():
        raise ValueError("`rows` and `contributing_cases` are of different models")
    table1_values.check_rows(document["cases"], "`cases`")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_TEXT


def _is_number_or_null(value: object) -> bool:
    return value is None or is_number(value)


def _are_cells(value: object, of: Any) -> bool:
    """Returns whether `value` has an entry for each column of the table."""
    return is_object_of(value, of) and set(table1_values.COLUMNS) <= value.keys()


def _is_finding(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and _is_text(value.get("claim"))
        and value.get("holds") in (True, False, None)
        and is_object_of(value.get("numbers"), _is_number_or_null)
    )


def _are_digests(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and _is_text(value.get("rows", ""))
        and all(is_object_of(value.get(kind, {}), _is_text) for kind in ("models", "data"))
    )


_ENTRIES = {
    "profile": Condition(_is_text, "a name"),
    "seed": WHOLE,
    "stack": Condition(_is_text, "the names and releases of the packages"),
    "configuration": OBJECT,
    "rows": Condition(
        lambda value: is_object_of(value, lambda row: _are_cells(row, _is_number_or_null)),
        "models with a number or null in each column",
    ),
    "contributing_cases": Condition(
        lambda value: is_object_of(
            value, lambda row: _are_cells(row, lambda count: is_whole(count, 0))
        ),
        "models with a number of cases in each column",
    ),
    "findings": Condition(
        lambda value: is_object_of(value, _is_finding),
        "findings, each with `claim`, `holds` and `numbers`",
    ),
    "patients": Condition(
        lambda value: is_object_of(value, lambda line: isinstance(line, Mapping)),
        "models with measures of patients",
    ),
    "wall_seconds": Condition(
        lambda value: is_object_of(value, is_number), "stages with their seconds"
    ),
    "peak_memory_bytes": Condition(_is_number_or_null, "a number or null"),
    "notes": Condition(
        lambda value: isinstance(value, list) and all(map(_is_text, value)), "a list of sentences"
    ),
    "devices": Condition(lambda value: is_object_of(value, _is_text), "sites with their devices"),
    "fingerprints": Condition(_are_digests, "digests of `rows`, `models` and `data`"),
    "cases": Condition(lambda value: isinstance(value, list), "a list of rows"),
}
_LATER = ("patients", "devices", "fingerprints")  # earlier releases lack them

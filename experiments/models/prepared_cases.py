"""Checks that prepared cases fit an experiment: its spacing, intensity window and classes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from experiments.configuration import ExperimentConfig
from preprocessing import case_store, declared_labels
from preprocessing.case_store import CaseStore, Record
from runkit.classes import CLASSES

REMEDY = (
    "prepare them again with these flags (experiments.prepare), or give the flag file that they "
    "were prepared with"
)
_SHOWN = 5  # faulty cases in one message


def open_store(root: str | os.PathLike, config: ExperimentConfig) -> CaseStore:
    """Opens the prepared cases of an experiment.

    Raises:
      ValueError: if `root` holds no finished store, or a store whose settings are not the
        experiment's; the message names every difference.
    """
    found = differences(case_store.record_of(root), config)
    if found:
        raise ValueError(
            f"{root}: these prepared cases are not those of the plan: {'; '.join(found)}. Remedy: "
            f"{REMEDY}"
        )
    return CaseStore(root)


def differences(record: Record, config: ExperimentConfig | None) -> list[str]:
    """Returns the differences between prepared cases and the plan, one phrase each.

    Settings that the store does not record are not compared. Without a configuration, the store is
    only compared with this release and checked for faulty cases.
    """
    found = []
    if record.format not in (None, case_store.FORMAT):
        found.append(
            f"format: the prepared cases have {record.format}, this release {case_store.FORMAT}"
        )
    if config is not None:
        for name, prepared, planned, between in (
            ("spacing_mm", record.target_mm, config.spacing_mm, " x "),
            ("window_hu", record.window_hu, config.window_hu, " to "),
        ):
            if prepared not in (None, tuple(planned)):
                found.append(
                    f"{name}: the prepared cases have {_numbers(prepared, between)}, the plan "
                    f"{_numbers(planned, between)}"
                )
    if record.classes not in (None, CLASSES):
        found.append(
            f"classes: the prepared cases have {_classes(record.classes)}, the plan "
            f"{_classes(CLASSES)}"
        )
    for value, label in (record.label_values or {}).items():
        if label not in CLASSES:
            found.append(
                f"label_values: value {value} of the label files became class {label}, the plan "
                f"has {_classes(CLASSES)}"
            )
    more = len(record.problems) - _SHOWN
    return [*found, *record.problems[:_SHOWN], *([f"and {more} more cases"] if more > 0 else [])]


def describe(record: Record) -> str:
    """Returns the settings of prepared cases in a few words."""
    spacing = (
        "spacing not recorded"
        if record.target_mm is None
        else f"{_numbers(record.target_mm, ' x ')} mm"
    )
    window = (
        "window not recorded"
        if record.window_hu is None
        else f"{_numbers(record.window_hu, ' to ')} HU"
    )
    by = (
        "by a release that did not record its name"
        if record.release is None
        else f"by release {record.release}"
    )
    labels = declared_labels.text(record.declared)
    return (
        f"{record.number_of_cases} of {record.site}, {spacing}, {window}, labels {labels}, "
        f"prepared {by}"
    )


def _numbers(values: Sequence[float], between: str) -> str:
    return between.join(f"{value:g}" for value in values)


def _classes(classes: Mapping[int, str]) -> str:
    return ", ".join(f"{value} {name}" for value, name in sorted(classes.items()))

"""The table of aggregation rules, and how one is named in a flag, a run's settings and a log."""

from __future__ import annotations

import dataclasses

from federated.aggregation.fedadam import FedAdam
from federated.aggregation.fedavg import FedAvg
from federated.aggregation.fedavgm import FedAvgM
from federated.aggregation.median import Median
from federated.aggregation.rule import AggregationRule
from federated.aggregation.trimmed_mean import TrimmedMean

RULES: dict[str, type[AggregationRule]] = {
    rule.name: rule for rule in (FedAvg, FedAvgM, FedAdam, Median, TrimmedMean)
}
DEFAULT = str(FedAvg())  # also for a store or log written before there was a choice


def parse(text: str) -> AggregationRule:
    """Returns the rule that a text names: "fedavg", or "fedavgm:momentum=0.9,learning_rate=1.0".

    A parameter that the text leaves out has its default.

    Raises:
      ValueError: for an unknown rule or parameter, or a value out of range; the message says what
          is expected.
    """
    name, _, listed = text.partition(":")
    if name not in RULES:
        raise ValueError(f"aggregation is {text!r}; expected one of {', '.join(RULES)}")
    rule = RULES[name]
    fields = {field.name: field for field in dataclasses.fields(rule)}
    values: dict[str, bool | float | str] = {}
    for entry in listed.split(",") if listed else []:
        key, _, value = (part.strip() for part in entry.partition("="))
        if key not in fields or key in values:
            known = ", ".join(fields) or "none"
            raise ValueError(
                f"aggregation is {text!r}: {key!r} is not a parameter of {name}, or is given "
                f"twice; its parameters are: {known}"
            )
        values[key] = _value(type(fields[key].default), value)
    return rule(**values)


def described() -> str:
    """Returns a sentence or two about each rule and its parameters, for --help."""
    lines = []
    for name, rule in RULES.items():
        summary = (rule.__doc__ or "").partition("\n")[0].rstrip(".")
        parameters = [
            f"{f.name} ({f.metadata['meaning']}; {f.metadata['expected']}; default {f.default})"
            for f in dataclasses.fields(rule)
        ]
        listed = " and ".join(filter(None, [", ".join(parameters[:-1]), *parameters[-1:]]))
        having = f", with {listed}" if parameters else ""
        lines.append(f"{name!r}: {summary[:1].lower()}{summary[1:]}{having}.")
    return " ".join(lines)


def _value(kind: type, text: str) -> bool | float | str:
    """Returns a parameter's value; a value of the wrong type stays text, which the rule refuses."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return kind(text)
    except ValueError:
        return text

"""Settings declared once: a dataclass field carries its default, its help text and its check.

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Training:
        batch_size: int = setting(8, "Patches per step.", condition=at_least(1))

        def __post_init__(self):
            check(self)

Programs make their command-line flags from such fields; see `experiments.setting_flags`.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from runkit import printable

T = TypeVar("T")


class Condition(NamedTuple):
    """What a value must satisfy, as a function and in words ("at least 1")."""

    holds: Callable[[Any], bool]
    expected: str


class Setting(NamedTuple):
    """The metadata of a field.

    Attributes:
      help: one or two sentences for --help.
      choices: the allowed values, if there are only a few and the type is not a Literal of them.
      condition: what the value must satisfy; None for any value of its type.
      flag: name of its flag, if different from the field's name.
      unset: value of the flag that means None.
      later: whether the first release lacked the setting. Its default is then left out where the
        settings of a run are compared as text, so that a run of the first release can be resumed.
    """

    help: str
    choices: tuple[str, ...] = ()
    condition: Condition | None = None
    flag: str | None = None
    unset: float | None = None
    later: bool = False


def setting(
    default: T,
    help: str,
    *,
    choices: Sequence[str] = (),
    condition: Condition | None = None,
    flag: str | None = None,
    unset: float | None = None,
    later: bool = False,
) -> T:
    """Returns a dataclass field with a default and a `Setting`."""
    about = Setting(help, tuple(choices), condition, flag, unset, later)
    field: T = dataclasses.field(default=default, metadata={"setting": about})
    return field


def same_as(config: type, name: str) -> Any:
    """Returns a dataclass field with the default and the `Setting` that `config` declares."""
    (field,) = (field for field in dataclasses.fields(config) if field.name == name)
    return dataclasses.field(default=field.default, metadata=field.metadata)


@functools.cache
def declared(config: type) -> Mapping[str, Setting]:
    """Returns field name -> `Setting` of a dataclass; fields without one are left out."""
    kinds = typing.get_type_hints(config)
    found = {}
    for field in dataclasses.fields(config):
        if "setting" in field.metadata:
            about: Setting = field.metadata["setting"]
            if typing.get_origin(kinds[field.name]) is typing.Literal:
                about = about._replace(choices=typing.get_args(kinds[field.name]))
            found[field.name] = about
    return found


def check(settings: Any) -> None:
    """Raises ValueError naming the first setting that breaks its condition, and the value."""
    for name, about in declared(settings.__class__).items():
        condition = one_of(about.choices) if about.choices else about.condition
        if condition is not None:
            require(condition, name, getattr(settings, name))


def require(condition: Condition, name: str, value: object) -> None:
    """Raises ValueError if `value` does not meet the condition."""
    if not condition.holds(value):
        if isinstance(value, tuple) and all(isinstance(entry, str) for entry in value):
            value = ",".join(value)
        raise ValueError(f"{name} is {printable.text(repr(value))}; expected {condition.expected}")


def at_least(least: float) -> Condition:
    return Condition(lambda value: value >= least, f"at least {least}")


def one_of(choices: Sequence[str]) -> Condition:
    first, last = ", ".join(map(repr, choices[:-1])), repr(choices[-1])
    return Condition(lambda value: value in choices, f"{first} or {last}")


SECONDS = Condition(lambda value: value > 0, "seconds, more than 0")
SHARE = Condition(lambda value: 0 <= value <= 1, "a share between 0 and 1")

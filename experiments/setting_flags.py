"""Command-line flags made from the fields of a settings dataclass; see `runkit.settings`."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable
from typing import Any

from absl import flags

from runkit import settings
from runkit.settings import Setting


def define(
    config: type, names: Iterable[str] | None = None, *, into: flags.FlagValues = flags.FLAGS
) -> list[str]:
    """Defines one flag per setting of a dataclass and returns the flags' names, in field order.

    Args:
      config: the dataclass.
      names: fields to define flags for; None defines all that are declared by `setting`.
      into: the set of flags to add to.
    """
    chosen = _chosen(config, names)
    for name, (about, kind) in chosen.items():
        default = about.unset if getattr(config, name) is None else getattr(config, name)
        _define(about.flag or name, default, about, kind, into)
    return [about.flag or name for name, (about, _) in chosen.items()]


def given(config: type, among: flags.FlagValues, *, without: Iterable[str] = ()) -> list[str]:
    """Returns the names of the flags of `config` that were given, except those in `without`."""
    names = [about.flag or name for name, (about, _) in _chosen(config, None).items()]
    return [name for name in names if among[name].present and name not in without]


def values(
    config: type, given: flags.FlagValues, names: Iterable[str] | None = None
) -> dict[str, Any]:
    """Returns field name -> value of the flags that `define` made from the same arguments.

    Raises:
      ValueError: if a list has the wrong length or an entry that is not a number.
    """
    found = {}
    for name, (about, kind) in _chosen(config, names).items():
        value = given[about.flag or name].value
        if typing.get_origin(kind) is tuple:
            value = _tuple(about.flag or name, value, typing.get_args(kind))
        found[name] = None if about.unset is not None and value == about.unset else value
    return found


def numbers(name: str, values: list[str], kind: type, count: int) -> tuple[Any, ...]:
    """Returns the entries of a list flag as `count` numbers of one kind.

    Raises:
      ValueError: naming the flag, its value and what is expected.
    """
    try:
        found = tuple(kind(value) for value in values)
    except ValueError:
        found = ()
    if len(found) != count:
        raise ValueError(
            f"{name} is {','.join(values)!r}; expected {count} numbers separated by commas"
        )
    return found


def _chosen(config: type, names: Iterable[str] | None) -> dict[str, tuple[Setting, Any]]:
    """Returns field name -> its setting and its type, without the None of an optional one."""
    kinds, declared = typing.get_type_hints(config), settings.declared(config)
    return {
        name: (declared[name], _without_none(kinds[name]))
        for name in (declared if names is None else names)
    }


def _without_none(kind: Any) -> Any:
    if not isinstance(kind, types.UnionType):
        return kind
    (only,) = (part for part in typing.get_args(kind) if part is not types.NoneType)
    return only


def _define(flag: str, default: Any, about: Setting, kind: Any, into: flags.FlagValues) -> None:
    if about.choices:
        flags.DEFINE_enum(flag, default, list(about.choices), about.help, flag_values=into)
    elif typing.get_origin(kind) is tuple:
        flags.DEFINE_list(flag, [str(value) for value in default], about.help, flag_values=into)
    else:
        _DEFINE[kind](flag, default, about.help, flag_values=into)


def _tuple(flag: str, entries: Any, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    if kinds[-1] is not ...:
        return numbers(flag, entries, kinds[0], len(kinds))
    return tuple(entries) if kinds[0] is str else numbers(flag, entries, kinds[0], len(entries))


_DEFINE: dict[type, Any] = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}

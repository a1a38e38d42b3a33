"""Reads flag files in any Unicode encoding, and writes them; errors name the file and the line."""

from __future__ import annotations

import dataclasses
import difflib
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from absl import flags

from runkit import text_files

_EXPECTED = {
    "int": "expected a whole number",
    "float": "expected a number",
    "bool": "expected true or false",
}  # by the type of a flag
_DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2212"  # hyphens, dashes and the minus sign
_NUMBERS: dict[str, Callable[[str], float]] = {"int": lambda text: int(text, 0), "float": float}


@dataclasses.dataclass(frozen=True)
class Argument:
    """One argument and its place: "study.flags, line 3", or "" for the command line itself."""

    text: str
    place: str = ""


class WrongFlags(ValueError):
    """An invalid flag; the message names it, with file and line if it comes from a file."""


def parse(values: flags.FlagValues, arguments: Sequence[str]) -> list[str]:
    """Parses arguments and the flag files among them, like `values(arguments)`.

    Args:
      values: the set of flags.
      arguments: the program's name, then its arguments.
    Returns:
      The arguments that are not flags.
    Raises:
      WrongFlags: for an unknown flag, an invalid value, an unreadable flag file, a line of a flag
        file that is not a flag, and for --undefok, with which an unknown flag would be no error.
    """
    expanded = list(expand(arguments[1:]))
    try:
        others = values([arguments[0], *(argument.text for argument in expanded)])
        for argument in expanded:
            if argument.text in others[1:] and (problem := _not_a_flag(values, argument)):
                raise WrongFlags(_at(argument.place, problem))
        for name in values:  # no flag has a meaning for it, and absl's bounds let it pass
            if isinstance(value := values[name].value, float) and math.isnan(value):
                raise WrongFlags(f"--{name} is 'nan'; expected a number")
        return others
    except flags.Error as error:
        for argument in expanded:
            problem = _problem(values, argument.text)
            if problem is not None:
                raise WrongFlags(_at(argument.place, problem)) from error
        raise WrongFlags(str(error)) from error


def files(arguments: Sequence[str]) -> list[str]:
    """Returns the flag files among arguments, also those that other flag files name."""
    places = (argument.place.rpartition(", line ")[0] for argument in expand(arguments))
    return list(dict.fromkeys(place for place in places if place))


def text(settings: Mapping[str, Any]) -> str:
    """Returns the content of a flag file with these settings; lists become comma-separated."""
    return "".join(
        f"--{name}={','.join(map(str, value)) if isinstance(value, list) else value}\n"
        for name, value in settings.items()
    )


def expand(
    arguments: Iterable[str], place: str = "", within: tuple[pathlib.Path, ...] = ()
) -> Iterable[Argument]:
    """Yields the arguments, with the lines of each flag file in place of its --flagfile.

    Blank lines and comments (#, //) are left out.
    """
    left = list(arguments)
    while left:
        text = left.pop(0)
        if text == "--":
            yield from (Argument(rest, place) for rest in (text, *left))
            return
        name, separator, value = text.lstrip("-").partition("=")
        if text.startswith("-") and name == "undefok":  # absl's, which hides unknown flags
            raise WrongFlags(
                _at(place, "--undefok would leave flags without effect; omit it and them")
            )
        if not text.startswith("-") or name != "flagfile":
            yield Argument(text, place)
            continue
        if not separator:
            if not left:
                raise WrongFlags(_at(place, "--flagfile names no file"))
            value = left.pop(0)
        if value:
            yield from _lines(value, place, within)


def _lines(name: str, place: str, within: tuple[pathlib.Path, ...]) -> Iterable[Argument]:
    path = pathlib.Path(name).expanduser()
    if path.absolute() in within:
        raise WrongFlags(_at(place, f"--flagfile={name}: this flag file includes itself"))
    try:
        text = text_files.read(path)
    except OSError as error:
        raise WrongFlags(
            _at(place, f"--flagfile={name}: cannot be read ({error.strerror or error})")
        ) from error
    except ValueError as error:
        raise WrongFlags(_at(place, f"--flagfile={error}")) from error
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if line and not line.startswith(("#", "//")):
            yield from expand([line], f"{name}, line {number}", (*within, path.absolute()))


def _at(place: str, problem: str) -> str:
    return f"{place}: {problem}" if place else problem


def _not_a_flag(values: flags.FlagValues, argument: Argument) -> str | None:
    """Returns what is wrong with an argument that is not a flag; None if it may be right."""
    plain = argument.text.lstrip(_DASHES)
    if plain != argument.text.lstrip("-"):  # a text program or an e-mail has replaced hyphens
        return f"{argument.text!r} begins with a dash that is not a hyphen; write --{plain}"
    if not argument.place:
        return None
    known = plain.partition("=")[0] in values
    return f"{argument.text!r} is not a flag; " + (
        f"write --{plain}" if known else "each line of a flag file is one, as --name=value"
    )


def _problem(values: flags.FlagValues, text: str) -> str | None:
    """Returns the problem with one argument; None if it is valid or its value comes next."""
    if not text.startswith("-") or text == "--":
        return None
    name, separator, value = text.lstrip("-").partition("=")
    known = name in values or (
        name.startswith("no") and name[2:] in values and values[name[2:]].boolean
    )
    if not known:
        near = difflib.get_close_matches(name, list(values), n=1)
        return f"unknown flag --{name}" + (f"; did you mean --{near[0]}?" if near else "")
    if not separator or name not in values:
        return None
    try:
        values[name].parser.parse(value)
    except (TypeError, ValueError) as error:
        return f"--{name} is {value!r}: {_reason(values[name], value, error)}"
    return None


def _reason(flag: flags.Flag, value: str, error: Exception) -> str:
    """Returns what is wrong with a value; the parser's `error` may be in Python's words."""
    kind = flag.flag_type()
    if kind == "bool":
        return _EXPECTED[kind]
    convert = _NUMBERS.get(kind)
    if convert is None:
        return str(error)
    try:
        convert(value)
    except ValueError:
        return _EXPECTED[kind]
    return str(error)  # a number that is out of the flag's bounds

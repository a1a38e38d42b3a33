"""Flag files: read in whatever encoding they say they are in, with an error that names file and
line.
"""

from __future__ import annotations

import dataclasses
import difflib
import pathlib
from collections.abc import Iterable, Sequence

from absl import flags

from runkit import text_files


@dataclasses.dataclass(frozen=True)
class Argument:
    """One argument of a command line, and where it stands: "file, line 3", or "" for the command
    line itself.
    """

    text: str
    place: str = ""


class WrongFlags(ValueError):
    """Arguments that are no valid flags; the message names the flag and, where it is in a file,
    file and line.
    """


def parse(values: flags.FlagValues, arguments: Sequence[str]) -> list[str]:
    """Parses arguments, flag files among them in their place, and returns those that are no flags,
    like `values(arguments)`.

    Args:
      arguments: first the program's name.
    Raises:
      WrongFlags: for a flag that does not exist or cannot have its value, and for a flag file that
          cannot be read.
    """
    expanded = list(expand(arguments[1:]))
    try:
        return values([arguments[0], *(argument.text for argument in expanded)])
    except flags.Error as error:
        for argument in expanded:
            problem = _problem(values, argument.text)
            if problem is not None:
                raise WrongFlags(
                    f"{argument.place}: {problem}" if argument.place else problem
                ) from error
        raise WrongFlags(str(error)) from error


def expand(
    arguments: Iterable[str], place: str = "", within: tuple[pathlib.Path, ...] = ()
) -> Iterable[Argument]:
    """Yields the arguments with the lines of every flag file in its place; blank lines and comments
    (#, //) are left out.
    """
    left = list(arguments)
    while left:
        text = left.pop(0)
        if text == "--":
            yield from (Argument(rest, place) for rest in (text, *left))
            return
        name, separator, value = text.lstrip("-").partition("=")
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


def _problem(values: flags.FlagValues, text: str) -> str | None:
    """Returns what is wrong with one argument, None where nothing is, or where it takes the next
    one as its value.
    """
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
        return f"--{name} is {value!r}: {error}"
    return None

"""The text of --help: a program's purpose, an example, its required flags, then all others."""

from __future__ import annotations

import contextlib
import re
import textwrap
from collections.abc import Iterator, Sequence

from absl import flags

_WIDTH, _INDENT = 100, 6
_FLAGS = {"-h", "-?", "-help", "--help", "--helpshort", "--helpfull", "-helpshort", "-helpfull"}
_GROUPS: dict[str, list[str]] = {}  # heading -> names of the flags below it


@contextlib.contextmanager
def group(heading: str) -> Iterator[None]:
    """Lists under a heading the flags that this context or the decorated function defines."""
    before = set(flags.FLAGS)
    yield
    names = _GROUPS.setdefault(heading, [])
    names += [name for name in flags.FLAGS if name not in before and name not in names]


def asked_for(arguments: Sequence[str]) -> bool:
    """Returns whether an argument before "--" asks for help."""
    before = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return any(argument in _FLAGS for argument in before)


def text(doc: str, own: Sequence[str], required: Sequence[str]) -> str:
    """Returns the help of a program.

    Args:
      doc: the docstring of its module.
      own: names of the flags that the program itself defines.
      required: names of the flags that must be given.
    """
    parts = [
        doc.strip(),
        "Flags may also be in a file, one per line: --flagfile=FILE. If repeated, the last one "
        "counts.",
    ]
    grouped = {name for names in _GROUPS.values() for name in names}
    own = [name for name in own if name not in grouped]
    sections = {"Required": list(required), "Flags of this program": list(own), **_GROUPS}
    shown: set[str] = set()
    for heading, names in sections.items():
        # A program's own flags are sorted by name; those of a group keep the order of definition,
        # which follows the workflow.
        names = [
            name
            for name in (names if heading in _GROUPS or heading == "Required" else sorted(names))
            if name not in shown
        ]
        shown.update(names)
        if names:
            parts.append("\n".join([f"{heading}:", *(_flag(flags.FLAGS[name]) for name in names)]))
    return "\n\n".join(parts) + "\n"


def _flag(flag: flags.Flag) -> str:
    head = f"  --[no]{flag.name}" if flag.boolean else f"  --{flag.name}={_placeholder(flag)}"
    words = re.sub(r"^<[^<>]*>: ", "", flag.help)  # absl lists an enum's values
    words = re.sub(r";\s+repeat this option to specify a list of values$", "", words)  # absl's too
    if flag.default not in (None, "", []):
        words += f" (default: {_default(flag)})"
    pad = " " * _INDENT
    return "\n".join(
        [
            head,
            *textwrap.wrap(
                words, _WIDTH, initial_indent=pad, subsequent_indent=pad, break_on_hyphens=False
            ),
        ]
    )


def _placeholder(flag: flags.Flag) -> str:
    values = getattr(flag.parser, "enum_values", None)
    return "|".join(values) if values else {"int": "N", "float": "X"}.get(flag.flag_type(), "TEXT")


def _default(flag: flags.Flag) -> str:
    if flag.boolean:
        return "on" if flag.default else "off"
    return (
        ",".join(map(str, flag.default))
        if isinstance(flag.default, (list, tuple))
        else str(flag.default)
    )

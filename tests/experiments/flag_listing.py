"""Prints the flags of every program, one line per flag, with the programs that have it.

absl keeps one global set of flags, so each program is imported in a separate process, forked from
this one.
"""

from __future__ import annotations

import importlib
import json
import os

import google.protobuf.message  # noqa: F401 - slow to import: once here, not in every fork
import grpc  # noqa: F401
import numpy  # noqa: F401
from absl import app, flags, logging  # noqa: F401 - absl's own flags, which are not listed

from experiments import __main__ as program_list


def describe(flag: flags.Flag) -> str:
    """Returns name, type, default and limits of a flag."""
    limits = "".join(
        f" {name}={json.dumps(getattr(flag.parser, name))}"
        for name in ("enum_values", "lower_bound", "upper_bound")
        if getattr(flag.parser, name, None) is not None
    )
    return f"--{flag.name} ({flag.flag_type()}) = {json.dumps(flag.default)}{limits}"


def of_program(program: str) -> list[str]:
    before = set(flags.FLAGS)
    importlib.import_module(f"experiments.{program}")
    return [describe(flags.FLAGS[name]) for name in flags.FLAGS if name not in before]


def of_all_programs() -> dict[str, list[str]]:
    """Returns flag -> the programs that have it."""
    found: dict[str, list[str]] = {}
    for program in sorted(name for names in program_list.GROUPS.values() for name in names):
        reader, writer = os.pipe()
        if os.fork() == 0:
            with open(writer, "w") as stream:
                json.dump(of_program(program), stream)
            os._exit(0)
        os.close(writer)
        with open(reader) as stream:
            for flag in json.load(stream):
                found.setdefault(flag, []).append(program)
        os.wait()
    return found


if __name__ == "__main__":
    for flag, programs in sorted(of_all_programs().items()):
        print(f"{flag}: {' '.join(programs)}")

"""A program that kills itself at a named call: `python -m tests.experiments.killed_program
preprocessing.nifti.write_volume:after:5 experiments.deform_cohort <flags>` dies at the fifth one.
"""

import importlib
import os
import runpy
import signal
import sys


def main(point, program, *arguments):
    where, when, count = point.split(":")
    module, name = where.rsplit(".", 1)
    place, left = importlib.import_module(module), [int(count)]
    original = getattr(place, name)

    def reached():
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def replacement(*given, **named):
        if when == "before":
            reached()
        result = original(*given, **named)
        if when == "after":
            reached()
        return result

    setattr(place, name, replacement)
    sys.argv = [program, *arguments]
    runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

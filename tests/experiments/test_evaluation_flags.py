"""How serve, join and the programs that train respond to flags that contradict each other."""

import json

import pytest

from tests import forked

# Runs a program's `main` with several sets of flags in one process.
_PROGRAM = """
import importlib, json, sys
from absl import flags
from absl.testing import flagsaver
from experiments import flags as experiment_flags
program = importlib.import_module(f"experiments.{sys.argv[1]}")
for arguments in json.loads(sys.argv[2]):
    with flagsaver.flagsaver():
        flags.FLAGS([sys.argv[1], *arguments])
        try:
            program.main([])
        except Exception as error:
            print(json.dumps([type(error).__name__, str(error)]))
"""
CASES = {
    "serve": {
        "--models=models/a": "--models is only for an evaluation without training, and "
        "--num_rounds is 60; give --num_rounds=0",
        "--num_rounds=0": "--models is missing: the model folders to evaluate",
        "--num_rounds=0 --models=models/a --initial_model=i": "--initial_model is for a run with "
        "training, and --num_rounds is 0",
        "--num_rounds=0 --models=nowhere": "nowhere: no such folder; give the folder of a model",
        "--metrics_host=0.0.0.0": "--metrics_host=0.0.0.0 is given without --metrics_port",
        "--metrics_port=8443": "--metrics_port is 8443, the port of the sites; choose another",
        "--num_rounds=-1": "--num_rounds is -1; expected at least 0",
    },
    "join": {
        "--num_rounds=0 --lend=C1_baseline:best.safetensors": "--lend has no use in an evaluation "
        "without training",
    },
    "package": {
        "--num_rounds=0": "--num_rounds is 0; expected at least 1: 0 rounds are an evaluation",
    },
}


@pytest.mark.parametrize("program", CASES)
def test_flags_that_do_not_fit_are_named_with_the_remedy(program, tmp_path):
    cases = CASES[program]
    own = [f"--kit={tmp_path}", f"--store={tmp_path / 'store'}"] if program == "serve" else []
    (tmp_path / "program.py").write_text(_PROGRAM)
    given = json.dumps([case.split() + own for case in cases])
    done = forked.run("program", program, given, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(cases), done.stderr
    for (kind, text), expected in zip(found, cases.values(), strict=True):
        assert text.startswith(expected) and kind in ("UsageError", "ValueError"), text

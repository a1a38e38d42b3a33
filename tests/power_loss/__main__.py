"""Power cuts at a server, at a site, at all parties, during a preparation and during a training.

    .venv/py3.11/bin/python -m tests.power_loss --states=5000
    .venv/py3.11/bin/python -m tests.power_loss --mutants

The first command restarts on the given number of disk states, a fifth of them for each case except
the server, and ends with an error at a state in which confirmed data are lost or incomplete, or
from which the program does not reach the same result. The second omits the syncs of one line of
code after another (and SQLite's own) and expects each omission to be detected.

Cost: 0.06 to 0.1 s per state of a federation, 0.03 s of the others, on one core.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile
import time

from absl import logging

from tests.power_loss import harness, scenarios
from tests.power_loss.disk import without_syncs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--states", type=int, default=5000, help="of the server's disk")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=scenarios.NAMES, action="append")
    parser.add_argument("--mutants", action="store_true", help="leave out syncs instead")
    flags = parser.parse_args()
    logging.set_verbosity(logging.FATAL)
    states = {name: flags.states // (1 if name == "server" else 5) for name in scenarios.NAMES}
    chosen = flags.only or scenarios.NAMES
    print(f"states to try: {', '.join(f'{name} {states[name]}' for name in chosen)}", flush=True)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        recordings = scenarios.Recordings(pathlib.Path(folder))
        for name in chosen:
            scenario = recordings.scenario(name)
            if flags.mutants:
                failed |= bool(_mutants(scenario, states[name], flags.seed))
            else:
                failed |= bool(_states(scenario, states[name], flags.seed))
    sys.exit(failed)


def _states(scenario: scenarios.Scenario, count: int, seed: int) -> int:
    cuts = harness.sampled(scenario.operations, count, seed=seed, below=scenario.below)
    began = time.monotonic()

    def progress(done: int) -> None:
        if done % 250 == 0:
            print(f"  {done} of {len(cuts)}, {time.monotonic() - began:.0f} s", flush=True)

    failures = harness.try_all(scenario.operations, cuts, scenario.check, progress=progress)
    print(
        f"{scenario.name}: {len(scenario.operations)} operations, {len(cuts)} states, "
        f"{len(failures)} failures, {time.monotonic() - began:.0f} s",
        flush=True,
    )
    for failure in failures:
        print(f"  {failure}")
    return len(failures)


def _mutants(scenario: scenarios.Scenario, count: int, seed: int) -> int:
    """Returns how many missing syncs no state showed, beside those that are known to be optional."""
    survivors = 0
    for text, syncs in scenario.syncs():
        mutant, positions = without_syncs(scenario.operations, syncs)
        cuts = harness.sampled(mutant, count, seed=seed, below=scenario.below, positions=positions)
        failures = harness.try_all(mutant, cuts, scenario.check, stop_after=1)
        reason = scenario.optional(text)
        survived = not failures and reason is None
        survivors += survived
        verdict = "noticed" if failures else f"optional: {reason}" if reason else "NOT NOTICED"
        print(f"{scenario.name}: without {text}: {verdict}", flush=True)
    return survivors


if __name__ == "__main__":
    main()

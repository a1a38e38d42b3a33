"""A site's privacy ledger and the count of its answers, with its journal, and what must hold after
a power cut.

    python -m tests.power_loss.spending ROOT

lets a site's updates of a few rounds pass a privacy policy, and marks each time that a model is
counted or noise is drawn.
"""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from federated.privacy.policy import PrivacyPolicy
from federated.site import update_filter
from federated.site.answers import AnswerLimits, Answers
from federated.site.journal import Journal
from federated.site.update_filter import UpdateFilter
from federated.tensors.weights import specs_of
from tests.power_loss import recording, sync_lines

ROUNDS = 40
_RUN, _SITE = "run1", "C1"
_MODEL = {"stem/kernel": np.zeros((2, 3), np.float32)}
_LIMITS = AnswerLimits(max_updates=ROUNDS)
_POLICY = PrivacyPolicy(
    filter="svt", gamma=0.5, threshold=0.0, epsilon1=1.0, epsilon2=1.0, epsilon3=1.0, budget=1e6
)


def command(root: pathlib.Path) -> list[str]:
    return [sys.executable, "-m", "tests.power_loss.spending", str(root)]


def run(root: pathlib.Path, rounds: int = ROUNDS) -> list[int]:
    """Goes on with the site's run to its end; returns the rounds that its ledger then has."""
    journal = Journal(root / "journal")
    journal.enter(_RUN)
    filter_ = update_filter.prepared(_POLICY, journal, specs_of(_MODEL), num_examples=10, steps=1)
    assert filter_ is not None
    update_filter.begun(filter_, journal, _RUN, _SITE, rounds)
    recording.mark("entered")
    answers = Answers(journal.folder, _LIMITS)
    for number in range(journal.trained + 1, rounds + 1):
        answers.note("updates", f"round_{number - 1}", "0" * 64)
        recording.mark(f"counted {number}")
        filter_._bits = _Drawing(number)
        trained = {name: array + np.float32(number) for name, array in _MODEL.items()}
        sent = filter_.filtered(_MODEL, trained, number)
        journal.keep_update(number, sent, 10, {})
        journal.wait_until_durable()
    return rounds_of(filter_)


def rounds_of(filter_: UpdateFilter) -> list[int]:
    return [entry.round for entry in filter_._ledger.spent]


def counted(root: pathlib.Path) -> int:
    return Answers(root / "journal", _LIMITS).count("updates")


class _Drawing:
    """The system's random bits; the first ones of a round leave a mark."""

    def __init__(self, number: int):
        self._number, self._drawn = number, False

    def __call__(self, count: int) -> bytes:
        if not self._drawn:
            self._drawn = True
            recording.mark(f"noise {self._number}")
        return os.urandom(count)


def check(root: pathlib.Path, marks: Sequence[str]) -> None:
    """Raises AssertionError, or what the program raises, unless the ledger has every round for which
    noise had been drawn, every model that had been used is counted, and the site goes on.
    """
    spent = check_spent(root, marks)
    now = run(root)
    assert counted(root) == ROUNDS
    assert now[: len(spent)] == spent and set(now) == set(range(1, ROUNDS + 1)), now


def check_spent(root: pathlib.Path, marks: Sequence[str]) -> list[int]:
    """Returns the rounds that the ledger has. Raises as `check`."""
    used = len({text for text in marks if text.startswith("counted ")})
    assert counted(root) >= used, f"{used} models were used, counted are {counted(root)}"
    drawn = [int(text.split()[1]) for text in marks if text.startswith("noise ")]
    spent: list[int] = []
    if "entered" in marks:
        ledger = update_filter.PrivacyLedger(root / "journal" / "privacy")
        assert ledger.exists, "the ledger is lost, and the site could begin another"
        spent = [entry.round for entry in ledger.spent]
        assert spent[: len(drawn)] == drawn, f"noise was drawn for {drawn}, spent is {spent}"
    return spent


if __name__ == "__main__":
    sync_lines.announce()
    run(pathlib.Path(sys.argv[1]))

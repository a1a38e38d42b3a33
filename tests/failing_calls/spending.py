"""A site's privacy ledger and the count of its answers, whose system calls fail while updates pass a
privacy policy.
"""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Collection, Sequence

from tests.failing_calls import interception, judgement
from tests.failing_calls.interception import Call, Ended, Fault
from tests.power_loss import recording, spending

_ROUNDS, _LIMIT_S = 12, 60.0


class Spending:
    """The part of a site that counts and filters updates, notes what they spend and keeps them.

    Args:
      folder: for the site's folder in each trial.
    """

    name = "ledger"

    def __init__(self, folder: pathlib.Path):
        self._root, self._marks = folder / "site", folder / "marks"

    def calls(self, kinds: Collection[str]) -> Sequence[Call]:
        """Runs undisturbed; returns its calls."""
        self._begin()
        ended = self._run(kinds, None)
        problems = self._wrong(ended)
        if ended.code or problems:
            raise AssertionError("; ".join(problems) or ended.output[-2000:])
        return ended.calls

    def trial(self, fault: Fault) -> tuple[Sequence[Call], list[str]]:
        """Returns the calls that failed, and what was wrong."""
        self._begin()
        ended = self._run([fault.kind], fault)
        problems = self._wrong(ended)
        second = self._run((), None)
        if second.code or second.hung:
            problems.append(f"the same command does not go on: {second.output[-400:]}")
        elif (counted := spending.counted(self._root)) != _ROUNDS:
            problems.append(f"{_ROUNDS} models were used, counted are {counted}")
        return ended.failed, problems

    def _begin(self) -> None:
        shutil.rmtree(self._root, ignore_errors=True)
        self._root.mkdir()
        self._marks.write_text("")

    def _run(self, kinds: Collection[str], fault: Fault | None) -> Ended:
        return interception.run(
            self._be,
            self._root.with_name("output"),
            seconds=_LIMIT_S,
            kinds=kinds,
            roots=[self._root],
            fault=fault,
        )

    def _be(self) -> int:
        os.environ[recording.MARKS] = str(self._marks)

        def main(argv: list[str]) -> int:
            spending.run(self._root, _ROUNDS)
            return 0

        return judgement.door(main)

    def _wrong(self, ended: Ended) -> list[str]:
        """Looks at the ledger too: whatever failed, no noise was drawn that it does not count, and no
        model was used that is not counted.
        """
        problems = judgement.wrong(ended, [self._root])
        try:
            spending.check_spent(self._root, self._marks.read_text().splitlines())
        except (AssertionError, ValueError) as error:
            problems.append(str(error))
        return problems

"""Limits on what a site reveals of its patients by answers: a count, a bound, rounding.

Each model that a site scores, or trains from, is a question about its patients, and the server
chooses the models. The site therefore counts the models of a run, in a file that survives restarts
and discarded rounds, and stops at its own bound.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Collection, Mapping
from typing import Any, Literal

from federated.errors import AnswersUsedUp, PolicyRefused
from federated.rounds.tasks import MAX_MODELS
from runkit import atomic, formats, settings
from runkit.settings import Condition, at_least, setting

NAME = "answers.json"
FORMAT = 1  # of answers.json; increase it if earlier releases can no longer read a new file
Kind = Literal["updates", "scores", "rows"]
_FLAGS: Mapping[Kind, str] = {
    "updates": "max_updates",
    "scores": "max_scored_models",
    "rows": "max_evaluated_models",
}
_ABOUT: Mapping[Kind, str] = {
    "updates": "updates from different global models",
    "scores": "global models scored on validation cases",
    "rows": "models evaluated on test cases",
}
_REMEDY = (
    "restore it from a backup. Without it the count of what this site has answered would begin "
    "again"
)
_DIGITS = 8  # with more digits, rounding would have no visible effect


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerLimits:
    """The limits that a site sets for its answers in one run.

    Whether it lends its own model is up to the trainer; here it is only recorded, so that a restart
    does not forget that the site declined.
    """

    max_updates: int = setting(
        0,
        "Number of updates that this site trains in one run, each from another global model than "
        "the one before. 0 means twice as many as the run has rounds, which leaves room for rounds "
        "that the operator discards.",
        condition=at_least(0),
    )
    max_scored_models: int = setting(
        0,
        "Number of different global models that this site scores on its validation cases in one "
        "run. 0 means twice as many as the run's rounds need, which leaves room for rounds that "
        "the operator discards.",
        condition=at_least(0),
    )
    max_evaluated_models: int = setting(
        64,
        "Number of different models that this site evaluates on its test cases in one run, one "
        "row per case each. An ordinary run needs 2, and for each site as many as it lends, "
        "usually 2.",
        condition=Condition(
            lambda number: 1 <= number <= MAX_MODELS, f"1 to {MAX_MODELS}, the most of any run"
        ),
    )
    report_digits: int = setting(
        0,
        "Round every number of a report: decimals of numbers up to 1, significant digits of "
        "larger ones. 2 gives 0.8471 as 0.85 and 73.26 as 73. 0 does not round. In one run it can "
        "be made coarser and never finer.",
        condition=Condition(lambda digits: 0 <= digits <= _DIGITS, f"0 to {_DIGITS}"),
    )
    lend_local: bool = setting(
        True,
        "Let all sites evaluate this site's best model of the run, e.g. C1_FL_local. With "
        "--nolend_local the model never leaves this site; Table 1 then lacks its row and the row "
        "Average. Once declined, it stays declined for the run.",
    )

    def __post_init__(self) -> None:
        settings.check(self)

    def for_rounds(self, num_rounds: int, every: int = 1) -> AnswerLimits:
        """Returns these limits with a number in place of each 0.

        Args:
          num_rounds: number of rounds that the site expects.
          every: a global model is scored if its number is a multiple of this, or the last one.
        """
        return dataclasses.replace(
            self,
            max_updates=self.max_updates or 2 * num_rounds,
            max_scored_models=self.max_scored_models or 2 * usual_scores(num_rounds, every),
        )


def usual_scores(num_rounds: int, every: int = 1) -> int:
    """Returns the number of global models that a site scores in a run without discarded rounds.

    They are the initial model, every `every`-th one and the last one.
    """
    return num_rounds // every + 1 + (num_rounds % every > 0)


class Answers:
    """The count of the models that a site has scored and trained from in a run, in `answers.json`.

    A model is recorded on disk before it is used. The same model under the same name counts once,
    so a restart in the middle costs nothing. An update counts again if it was trained from another
    model in between, because the trainer's optimiser remembers that one.

    Args:
      folder: the folder of the site's journal.
      limits: the limits with the bounds of this run.
      earlier: models whose rows an earlier release has sent; they count if there is no file.
    Raises:
      ValueError: if the file was not written by this class, or was written by a newer release.
      PolicyRefused: if numbers of this run were rounded to fewer digits before, or the site
        declined to lend its model.
    """

    def __init__(
        self, folder: str | os.PathLike, limits: AnswerLimits, earlier: Collection[str] = ()
    ):
        self.limits = limits
        self._path = pathlib.Path(folder) / NAME
        self._noted: dict[str, list[str]] = {"updates": [], "scores": [], "rows": sorted(earlier)}
        if self._path.exists():
            self._read()
        else:  # the journal forgets the earlier ones if rounds are discarded
            self._write(self._noted)

    def _check_terms(self, before: Any, lent: Any) -> None:
        now = self.limits.report_digits
        known = type(before) is int and 0 <= before <= _DIGITS and isinstance(lent, bool)
        if not known:
            raise ValueError(f"{self._path}: not what this program writes there; {_REMEDY}")
        if self.limits.lend_local and not lent:
            raise PolicyRefused(
                "this site declined to lend its model before in this run; start it with "
                "--nolend_local"
            )
        if before and not 0 < now <= before:
            raise PolicyRefused(
                f"report_digits is {now}, and was {before} before in this run, in which it never "
                f"becomes finer; start this site with --report_digits={before}, or a smaller "
                "number above 0"
            )

    def _read(self) -> None:
        found = formats.read_json(self._path, FORMAT, remedy=_REMEDY)
        if isinstance(found, dict):
            found.setdefault("updates", [])  # an earlier release did not count them
        for kind in self._noted:
            keys = found.get(kind) if isinstance(found, dict) else None
            if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
                raise ValueError(f"{self._path}: not what this program writes there; {_REMEDY}")
            self._noted[kind] = keys
        before = found.get("digits", 0), found.get("lend_local", True)  # not in the first files
        self._check_terms(*before)
        if before != (self.limits.report_digits, self.limits.lend_local):
            self._write(self._noted)

    @property
    def begun(self) -> bool:
        """Whether the site has answered for any model."""
        return any(self._noted.values())

    def count(self, kind: Kind) -> int:
        """Returns the number of models so far."""
        return len(self._noted[kind])

    def bound(self, kind: Kind) -> int:
        return int(getattr(self.limits, _FLAGS[kind]))

    def require(self, kind: Kind, names: Collection[str]) -> None:
        """Raises AnswersUsedUp if scoring all these models would exceed the bound.

        For the start of an evaluation: none of the models is scored unless all of them may be.
        """
        known = {key.partition(" ")[0] for key in self._noted[kind]}
        new = len(set(names) - known)
        if self.count(kind) + new > self.bound(kind):
            raise self._used_up(kind, self.count(kind) + new)

    def require_rounds(self, num_rounds: int, every: int = 1) -> None:
        """Raises AnswersUsedUp if a run of that many rounds needs more than the bounds allow.

        Args:
          every: as in `usual_scores`.
        """
        needs: Mapping[Kind, int] = {
            "updates": num_rounds,
            "scores": usual_scores(num_rounds, every),
        }
        for kind, models in needs.items():
            if models > self.bound(kind):
                raise self._used_up(kind, models)

    def note(self, kind: Kind, name: str, sha256: str) -> int:
        """Records that a model is about to be used, and returns the count including it.

        Args:
          sha256: digest of everything on which the answer depends.
        Raises:
          AnswersUsedUp: if the bound is reached; the model must not be used.
        """
        key = f"{name} {sha256[:32]}"
        known = self._noted[kind][-1:] if kind == "updates" else self._noted[kind]
        if key not in known:
            if self.count(kind) >= self.bound(kind):
                raise self._used_up(kind, self.count(kind) + 1)
            self._write({**self._noted, kind: [*self._noted[kind], key]})
        return self.count(kind)

    def _write(self, noted: dict[str, list[str]]) -> None:
        terms = {"digits": self.limits.report_digits, "lend_local": self.limits.lend_local}
        atomic.write_json(self._path, {"format": FORMAT, **terms, **noted})
        self._noted = noted

    def __str__(self) -> str:
        asked = [kind for kind in _ABOUT if self.count(kind)] or _ABOUT
        return "; ".join(
            f"{self.count(kind)} of at most {self.bound(kind)} {_ABOUT[kind]}" for kind in asked
        )

    def _used_up(self, kind: Kind, asked: int) -> AnswersUsedUp:
        return AnswersUsedUp(
            f"the server asks for {asked} {_ABOUT[kind]} in this run, and this site answers "
            f"{self.bound(kind)} (--{_FLAGS[kind]}); so many questions can reveal single patients. "
            "Ask the operator why the run needs them; if the reason is good, start again with "
            f"--{_FLAGS[kind]}={asked} or more"
        )


def rounded(values: Mapping[str, Any], digits: int) -> dict[str, Any]:
    """Returns the numbers of a report, rounded; texts, None and a case's number are unchanged.

    Args:
      digits: decimals of a number up to 1, significant digits of a larger one; 0 for no rounding.
        The step never decreases with the number, so counts remain whole numbers and do not exceed
        the total of which they are a part.
    """
    return {
        key: _rounded(value, digits) if digits and key != "case" else value
        for key, value in values.items()
    }


def _rounded(value: Any, digits: int) -> Any:
    if not isinstance(value, float) or not value:
        return value
    larger = max(0, math.ceil(math.log10(abs(value))))
    return float(round(value, digits - larger))

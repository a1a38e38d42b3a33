"""A site's cases as values: which files belong together, and what the site states about them."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections import Counter
from collections.abc import Mapping

from preprocessing import declared_labels, geometry, names, rules
from preprocessing.rules import Rule
from runkit import printable
from runkit.classes import CLASSES

_TURN = re.compile(r"(?=.*x)(?=.*y)(?=.*z)([+-][xyz]){3}\Z")


class ListProblem(ValueError):
    """A problem in a list of cases; `manifest.read` adds the file that it came from."""

    def __init__(self, rule: Rule, problem: str, fix: str | None = None):
        problem = printable.text(problem, limit=1000)  # it may quote a file from outside
        super().__init__(f"{problem} [{rule.id} {rule.name}]; {fix or rule.fix}")
        self.rule, self.problem, self.fix = rule, problem, fix


@dataclasses.dataclass(frozen=True)
class Case:
    """One scan.

    Attributes:
      case_id: name of its folder in the case store.
      image: a NIfTI file, or a DICOM series: its folder, a zip of it, or one multi-frame file.
      label: a NIfTI file; None for a scan without a label.
      series: which DICOM series, if there are several, see `dicom.read_series`.
      label_turn: how to turn the label's voxels onto the image's, e.g. "+x-y+z", ignoring the
          label's header; None to trust the header.
      accept: ids of rules that this case may break, because a person has checked the case.
      orientation: directions of the array's axes for NIfTI files whose header gives none, e.g.
          "LPS", see `nifti.read_ct`.
    """

    case_id: str
    image: pathlib.Path
    label: pathlib.Path | None
    series: str | None = None
    label_turn: str | None = None
    accept: tuple[str, ...] = ()
    orientation: str | None = None

    def __post_init__(self) -> None:
        if not names.CASE_ID.match(self.case_id):
            fix = "use letters, digits, '.', '_' and '-' only, and begin with a letter or digit"
            raise ListProblem(rules.CASE_ID, f"case_id {self.case_id!r}", fix)
        if self.label_turn is not None and not _TURN.match(self.label_turn):
            problem = f"label_turn of case {self.case_id} is {self.label_turn!r}"
            fix = 'name each axis once with its sign, e.g. "+x-y+z"'
            raise ListProblem(rules.MANIFEST_REFERENCE, problem, fix)
        if self.orientation is not None:
            try:
                geometry.require_axes(self.orientation)
            except ValueError as error:
                problem = f"case {self.case_id}: {error}"
                raise ListProblem(rules.MANIFEST_REFERENCE, problem, "correct it") from error
        unknown = [i for i in self.accept if i not in rules.BY_ID or not rules.BY_ID[i].acceptable]
        if unknown:
            possible = ", ".join(rule.id for rule in rules.RULES if rule.acceptable)
            problem = f"case {self.case_id} accepts {', '.join(unknown)}"
            fix = f"the rules that can be accepted are {possible}"
            raise ListProblem(rules.MANIFEST_REFERENCE, problem, fix)

    @property
    def required_label(self) -> pathlib.Path:
        """The label. Raises ValueError for a case without one."""
        if self.label is None:
            raise ValueError(f"case {self.case_id} has no label; list one in the manifest")
        return self.label


@dataclasses.dataclass(frozen=True)
class CaseManifest:
    """A site's cases.

    Attributes:
      site: name of the site, e.g. "C1".
      cases: all cases, each once.
      description: free text.
      label_values: file value -> class, for label files with values other than 0, 1, 2. Values that
          are not listed become background.
      excluded: ids of cases that are listed but not to be used.
      declared: the site's declaration about each class of its labels, see `declared_labels`; None
          without a declaration.
    """

    site: str
    cases: tuple[Case, ...]
    description: str = ""
    label_values: Mapping[int, int] | None = None
    excluded: tuple[str, ...] = ()
    declared: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if not self.site:
            raise ListProblem(rules.MANIFEST_KEYS, "site is empty", "name the site")
        if not self.cases:
            fix = "add the site's scans under `cases`"
            raise ListProblem(rules.MANIFEST_KEYS, "no case is listed", fix)
        for what, listed in (
            ("case_id", [case.case_id for case in self.cases]),
            # one folder may hold the series of several cases
            ("image", [str(case.image) + (case.series or "") for case in self.cases]),
            ("label", [str(case.label) for case in self.cases if case.label is not None]),
        ):
            twice = [name for name, count in Counter(listed).items() if count > 1]
            if twice:
                problem = f"{what} {', '.join(sorted(twice))} listed more than once"
                raise ListProblem(rules.CASE_TWICE, problem)
        unknown = sorted(set(self.excluded) - {case.case_id for case in self.cases})
        if unknown:
            problem = f"excluded names {', '.join(unknown)}, which is not a case here"
            raise ListProblem(rules.MANIFEST_REFERENCE, problem)
        if self.label_values is not None and not set(self.label_values.values()) <= set(CLASSES):
            problem = f"label_values is {dict(self.label_values)}"
            fix = "expected file value -> class 0, 1 or 2"
            raise ListProblem(rules.MANIFEST_REFERENCE, problem, fix)
        if self.declared is not None:
            try:
                object.__setattr__(self, "declared", declared_labels.check(self.declared))
            except ValueError as error:
                raise ListProblem(rules.MANIFEST_REFERENCE, str(error), "correct it") from error

    @property
    def included(self) -> tuple[Case, ...]:
        """The cases to use, including those without a label."""
        return tuple(case for case in self.cases if case.case_id not in self.excluded)

    @property
    def files(self) -> list[pathlib.Path]:
        """Images and labels of all cases, including excluded ones."""
        return [
            path for case in self.cases for path in (case.image, case.label) if path is not None
        ]

"""What a site says about the classes of its labels: whether each one is drawn wherever it is.

The words travel from the manifest to the case store, into the loss (`--missing_labels`), to the
server and onto the model card:

  complete    every case shows the class wherever it is; a case without it is a patient without it.
  absent      no patient has it. The labels cannot show it, and a mask that does is a false alarm.
  unlabelled  patients may have it; nobody has drawn it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from runkit.classes import FOREGROUND

COMPLETE, ABSENT, UNLABELLED = "complete", "absent", "unlabelled"
WORDS = (COMPLETE, ABSENT, UNLABELLED)
NAMES = FOREGROUND

Declared = Mapping[str, str]  # name of a class -> one of WORDS


def check(declared: object) -> dict[str, str]:
    """Returns a declaration in the order of the classes.

    Raises:
      ValueError: unless it says one of the words for every class, and "complete" for one at least.
    """
    expected = f"expected one of {', '.join(WORDS)} for each of {', '.join(NAMES.values())}"
    if not isinstance(declared, Mapping) or set(declared) != set(NAMES.values()):
        raise ValueError(f"declared_labels is {declared!r}; {expected}")
    unknown = [word for word in declared.values() if word not in WORDS]
    if unknown:
        raise ValueError(f"declared_labels has {unknown[0]!r}; {expected}")
    if COMPLETE not in declared.values():
        raise ValueError(
            f"declared_labels is {dict(declared)!r}; at least one class must be {COMPLETE}, or there is nothing to train on"
        )
    return {name: declared[name] for name in NAMES.values()}


def missing(declared: Declared | None) -> tuple[int, ...]:
    """Returns the values of the classes that the labels never show; none without a declaration."""
    return tuple(value for value, name in NAMES.items() if declared and declared[name] != COMPLETE)


def known_absent(declared: Declared | None) -> bool:
    """Returns whether the patients are known not to have any of the classes that the labels never
    show.
    """
    return bool(missing(declared)) and all(
        declared[NAMES[value]] == ABSENT for value in missing(declared)
    )


def is_absent(declared: Declared | None, name: str) -> bool:
    """Returns whether no patient has the class of this name: a mask that shows it is a false alarm."""
    return bool(declared) and declared[name] == ABSENT


def contradicted(declared: Declared | None, found: Iterable[int]) -> list[str]:
    """Returns the names of the classes among `found`, values of a label, that a declaration says
    are in no label.
    """
    return [NAMES[value] for value in sorted(set(found) & set(missing(declared)))]


def merged(declared: Iterable[Declared | None]) -> dict[str, str] | None:
    """Returns the declaration of several sites' cases in one list; None as soon as one of them has
    none.

    A class that is absent from the patients of one site is drawn wherever it is: beside a complete
    list, the list stays complete.
    """
    given = list(declared)
    if not given or any(one is None for one in given):
        return None

    def together(words: set[str]) -> str:
        if UNLABELLED in words:
            return UNLABELLED
        return words.pop() if len(words) == 1 else COMPLETE

    return {name: together({one[name] for one in given}) for name in NAMES.values()}


def text(declared: Declared | None) -> str:
    """Returns a declaration in words, e.g. "pancreas complete, tumour absent"."""
    return (
        "not declared"
        if not declared
        else ", ".join(f"{name} {word}" for name, word in declared.items())
    )

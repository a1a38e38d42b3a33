"""A site's declaration of its labels: for each class, whether it is drawn wherever it occurs.

The declaration passes from the manifest to the case store, the loss (`--missing_labels`), the
server and the model card. It has one of these words for each class:

  complete    the class is drawn wherever it occurs; a patient whose label lacks it does not have
              it.
  absent      no patient has it. Labels cannot show it, and a mask that does is a false alarm.
  unlabelled  patients may have it, but it is not drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from runkit.classes import FOREGROUND as NAMES

COMPLETE, ABSENT, UNLABELLED = "complete", "absent", "unlabelled"
WORDS = (COMPLETE, ABSENT, UNLABELLED)

Declared = Mapping[str, str]  # name of a class -> one of WORDS


def check(declared: object) -> dict[str, str]:
    """Returns a declaration in the order of the classes.

    Raises:
      ValueError: unless it has one of the words for every class, and "complete" for at least one.
    """
    expected = f"expected one of {', '.join(WORDS)} for each of {', '.join(NAMES.values())}"
    if not isinstance(declared, Mapping) or set(declared) != set(NAMES.values()):
        raise ValueError(f"declared_labels is {declared!r}; {expected}")
    unknown = [word for word in declared.values() if word not in WORDS]
    if unknown:
        raise ValueError(f"declared_labels has {unknown[0]!r}; {expected}")
    if COMPLETE not in declared.values():
        raise ValueError(
            f"declared_labels is {dict(declared)!r}; at least one class must be {COMPLETE}, "
            "or there is nothing to train on"
        )
    return {name: declared[name] for name in NAMES.values()}


def missing(declared: Declared | None) -> tuple[int, ...]:
    """Returns the values of the classes that the labels never show; () without a declaration."""
    return tuple(value for value, name in NAMES.items() if declared and declared[name] != COMPLETE)


def known_absent(declared: Declared | None) -> bool:
    """Returns whether labels lack classes and no patient has any of them."""
    lacking = missing(declared)
    return bool(lacking) and all(is_absent(declared, NAMES[value]) for value in lacking)


def is_absent(declared: Declared | None, name: str) -> bool:
    """Returns whether no patient has this class, so that a mask that shows it is a false alarm."""
    return declared[name] == ABSENT if declared else False


def undrawn(declared: Declared | None) -> tuple[str, ...]:
    """Returns the names of the classes that patients may have although nobody has drawn them."""
    return tuple(name for name, word in (declared or {}).items() if word == UNLABELLED)


def contradicted(declared: Declared | None, found: Iterable[int]) -> list[str]:
    """Returns the names of classes that a label shows although the declaration rules them out.

    Args:
      found: values of the label.
    """
    return [NAMES[value] for value in sorted(set(found) & set(missing(declared)))]


def merged(declared: Iterable[Declared | None]) -> dict[str, str] | None:
    """Returns the joint declaration of several sites, None if one of them has none.

    A class that is absent at one site and complete at the others is complete in the joint
    declaration, because it is drawn wherever it occurs.
    """
    given: list[Declared] = []
    for one in declared:
        if one is None:
            return None
        given.append(one)
    if not given:
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

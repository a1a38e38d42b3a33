"""The keys of a study file and what each may hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from experiments.run import run_plan
from preprocessing.phantom.config import CohortConfig
from runkit import settings
from runkit.json_values import OBJECT, is_number, is_object_of, is_whole
from runkit.settings import Condition

_MOST = 1_000_000  # of patients or threads
SHOWN = ("synthetic", "public")  # cohorts whose pictures a joint page may show


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 2000 and value.isprintable()


def _is_name(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 100 and _is_text(value)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_named_texts(value: object) -> bool:
    return isinstance(value, dict) and _are_texts([*value, *value.values()])


def _is_folder(value: object) -> bool:
    if not isinstance(value, str) or not _is_name(value):
        return False
    return value.replace("_", "").replace("-", "").replace(".", "").isalnum()


def _is_flag_value(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_text(entry) or is_number(entry) for entry in value)
    return isinstance(value, bool) or _is_text(value) or is_number(value)


def _are_settings(value: object) -> bool:
    return is_object_of(value, _is_flag_value)


def _are_counts(value: object) -> bool:
    return is_object_of(value, lambda count: is_whole(count, 1, _MOST))


_NAME = Condition(_is_name, "a text of at most 100 characters")
_TEXT = Condition(_is_text, "a text of at most 2,000 characters")
_TEXTS = Condition(_are_texts, "a list of texts of at most 2,000 characters")
_FOLDER = Condition(_is_folder, "letters, digits, '_', '-' and '.', because it names a folder")
_BOOL = Condition(lambda value: isinstance(value, bool), "true or false")
POLICY = Condition(OBJECT.holds, "settings of a privacy policy")
_OBJECTS = Condition(
    lambda value: (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(entry, dict) for entry in value.values())
    ),
    "names with a JSON object each",
)
_SETTINGS = Condition(
    _are_settings, "names of flags with a text, a number, true, false or a list each"
)
_THREADS = Condition(lambda value: is_whole(value, 1, _MOST), "a number of at least 1")
_SEEDS = Condition(
    lambda value: (
        isinstance(value, list)
        and bool(value)
        and all(is_whole(seed, 0, 2**31 - 1) for seed in value)
        and len(set(value)) == len(value)
    ),
    "a list of different whole numbers",
)
_PHANTOM = settings.one_of(settings.declared(CohortConfig)["phantom"].choices)

STUDY = {
    "name": _FOLDER,
    "profile": _NAME,
    "seeds": _SEEDS,
    "pictures": settings.one_of((*SHOWN, "private")),
    "settings": _SETTINGS,
    "sites": _OBJECTS,
    "points": Condition(
        lambda value: (
            isinstance(value, list)
            and bool(value)
            and all(isinstance(entry, dict) for entry in value)
        ),
        "a list of JSON objects with a `label` each",
    ),
    "axis": _NAME,
    "variants": _BOOL,
    "threads_per_site": _THREADS,
    "notes": _TEXTS,
    "phantom": _PHANTOM,
    "margin": Condition(
        lambda value: is_number(value) and 0 < value <= 100,
        "points of Dice, above 0, at most 100",
    ),
    "nonmembers": Condition(
        lambda value: is_whole(value, 0, _MOST),
        "a number of patients per site, at least 100 for true positives at 1 %",
    ),
    "local_models": _BOOL,
}
POINT = {
    "label": _FOLDER,
    "settings": _SETTINGS,
    "sites": _OBJECTS,
    "baselines": _BOOL,
    "beyond": Condition(
        lambda value: isinstance(value, list) and all(one in run_plan.BEYOND for one in value),
        f"a list with some of {', '.join(run_plan.BEYOND)}",
    ),
    "rows": Condition(_are_named_texts, "names of rows with their new names"),
    "threads_per_site": _THREADS,
    "environment": Condition(_are_named_texts, "names with texts as values"),
    "stack": settings.one_of(("own", "other")),
    "phantom": _PHANTOM,
    "against": _NAME,
    "fault": OBJECT,
    "privacy": OBJECT,
    "seeds": _SEEDS,
}
SITE = {
    "cohort": Condition(_are_counts, "names of hospitals with a number of patients each"),
    "manifest": _TEXT,
    "deformed": _TEXT,
    "split": Condition(
        lambda value: (
            isinstance(value, list)
            and len(value) == 3
            and all(is_whole(count, 0, _MOST) for count in value)
        ),
        "the numbers of training, validation and test cases",
    ),
    "split_list": _TEXT,
}


def checked(
    value: Mapping[str, Any], keys: Mapping[str, Condition], of: str = ""
) -> dict[str, Any]:
    """Returns an object of a study file without the keys that are null, after checking the others.

    Args:
      of: what the object is, e.g. "point a"; empty for the study itself.
    Raises:
      ValueError: naming an unknown key, or the first key whose value is not what is expected.
    """
    known(value, keys, of or "the study")
    given = {key: content for key, content in value.items() if content is not None}
    prefix = f"{of}: " if of else ""
    for key, content in given.items():
        settings.require(keys[key], f"{prefix}`{key}`", content)
    return given


def known(value: Mapping[str, Any], keys: Collection[str], what: str) -> None:
    """Raises ValueError if an object has a key that is not one of `keys`."""
    unknown = sorted(set(value) - set(keys))
    if unknown:
        raise ValueError(
            f"{what} has unknown keys {', '.join(unknown)}; known are {', '.join(sorted(keys))}"
        )

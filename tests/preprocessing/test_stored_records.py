"""Damaged or edited records of prepared cases: read, or refused in one line with their file."""

import json
import shutil

import numpy as np
import pytest

from preprocessing import case_store, stored_records
from preprocessing.case_store import CaseStore
from tests import wrong_values
from tests.preprocessing.test_case_store import NATIVE, SETTINGS, store_of

_IDS = ("case_0", "case_1", "case_2")
_INDEX = {
    "site": "C2",
    "seed": 5,
    "settings": {**SETTINGS, "label_values": {"7": 1}},
    "classes": {"0": "background", "1": "pancreas"},
    "declared_labels": {"tumour": "absent"},
    "format": case_store.FORMAT,
    "splits": {"training": ["case_1"], "validation": ["case_2"], "test": ["case_0"]},
    "numbers": {name: number for number, name in enumerate(_IDS, start=1)},
    "sources": dict.fromkeys(_IDS, "a digest"),
}
_CASE = {
    "sources": {"image": "a digest", "label": "a digest"},
    "settings": SETTINGS,
    "native": {"shape": list(NATIVE.shape), "affine": NATIVE.affine.tolist()},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    store_of(root)
    return root


@pytest.fixture
def root(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "cases")


def use(root):
    """Uses everything of a store that its records decide."""
    case_store.record_of(root)
    store = CaseStore(root)
    for split in store.splits:
        for case in store.case_ids(split):
            found = store.open(case)
            assert len(found.native.shape) == len(found.target_mm) == 3
            assert np.isfinite(found.native.affine).all()


def test_what_a_preparation_writes_passes(root):
    stored_records.check_index(json.loads((root / "index.json").read_text()))
    stored_records.check_index(_INDEX)
    assert stored_records.is_case(_CASE)
    assert stored_records.is_case(
        json.loads((case_store.case_folder(root, "case_1") / "case.json").read_text())
    )


@pytest.mark.parametrize("value", [v for v in wrong_values.VALUES if v != {}])
def test_a_file_that_holds_something_else_is_named(root, value):
    (root / "index.json").write_text(json.dumps(value))
    with pytest.raises(ValueError, match=r"index\.json: "):
        CaseStore(root)


@pytest.mark.parametrize("place", wrong_values.places(_INDEX), ids=wrong_values.named)
def test_an_index_with_any_value_anywhere_is_used_or_refused(root, place):
    for index in wrong_values.replaced(_INDEX, place):
        (root / "index.json").write_text(json.dumps(index))
        try:
            use(root)
        except ValueError as error:
            assert str(root) in str(error) and len(str(error)) < len(str(root)) + 900
            assert "\n" not in str(error)


@pytest.mark.parametrize("place", wrong_values.places(_CASE), ids=wrong_values.named)
def test_a_case_with_any_value_anywhere_is_used_or_refused(root, place):
    path = case_store.case_folder(root, "case_1") / "case.json"
    good = json.loads(path.read_text())
    place = ("sources", "image") if place[0] == "sources" and len(place) > 1 else place
    for record in wrong_values.replaced(good, place):
        path.write_text(json.dumps(record))
        try:
            use(root)
        except ValueError as error:
            assert str(root) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": None}, "`seed` is None; expected a whole number"),
        ({"numbers": {"case_0": 1}}, "are of different cases"),
        ({"splits": {"training": ["case_9"]}}, "are of different cases"),
        ({"settings": {"target_mm": [0, 1, 1], "window_hu": [0, 1]}}, "`settings` is"),
    ],
)
def test_what_is_wrong_is_said(change, words):
    with pytest.raises(ValueError, match=words):
        stored_records.check_index(_INDEX | change)


def test_a_record_of_a_newer_release_is_not_judged_by_the_rules_of_this_one(root):
    path = case_store.case_folder(root, "case_1") / "case.json"
    newer = {"format": case_store.FORMAT + 1, "native": "elsewhere"}
    path.write_text(json.dumps(newer))
    assert case_store.read_case_record(path.parent) == newer
    path.write_text(json.dumps(newer | {"format": case_store.FORMAT}))
    assert case_store.read_case_record(path.parent) is None
    (root / "index.json").write_text(json.dumps({"format": case_store.FORMAT + 1}))
    with pytest.raises(ValueError, match="a newer release wrote"):
        CaseStore(root)

"""Model folders come from other sites too: whatever their files hold, one line says what is wrong."""

import json

import pytest

from c2fnas import model_folder
from c2fnas.scores.healthy_gate import HealthyGate
from tests import wrong_values
from tests.c2fnas import tiny

MEAN = {"mean": 0.8, "low": 0.7, "high": None, "cases": 6}
ABOUT = {
    "format": 1,
    "name": "FL_global",
    "training_data": {
        "cases": {"C1": {"training": 18}},
        "labels": {"C1": None},
        "view_mm": [[355.6, 356.4], [283.7, 284.3], [155, 174.26]],
        "epochs": 40,
    },
    "scores": {"test cases of C1": {"dice_pancreas": MEAN}},
    "gate": HealthyGate(threshold=1.5, patients=6).to_json(),
}
PLAN = {**tiny.PLAN, "window_hu": [-200, 250]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("model") / "model"
    tiny.save_model(home)
    return home


def described(folder, name, content):
    """Returns the model card of a folder in which one file holds this content."""
    kept = (folder / name).read_bytes()
    try:
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
        return model_folder.card(model_folder.describe(folder))
    finally:
        (folder / name).write_bytes(kept)


@pytest.mark.parametrize(
    ("name", "base", "path"),
    [
        (name, base, path)
        for name, base in (("model.json", ABOUT), ("plan.json", PLAN))
        for path in wrong_values.places(base)
    ],
    ids=lambda value: wrong_values.named(value) if isinstance(value, tuple) else None,
)
def test_any_value_at_any_place_is_taken_or_refused_with_the_file(folder, name, base, path):
    for content in wrong_values.replaced(base, path):
        try:
            assert described(folder, name, content).startswith("# ")
        except ValueError as error:
            assert str(folder) in str(error) and "\n" not in str(error)


def test_what_a_release_writes_is_taken(folder):
    assert "at most 1.50" in described(folder, "model.json", ABOUT)
    assert "# model" in described(folder, "model.json", {"format": 1})  # an early release
    assert "HU -200 to 250" in described(folder, "plan.json", PLAN)


@pytest.mark.parametrize(
    ("name", "base", "changes", "words"),
    [
        ("model.json", ABOUT, {"name": "a\nb"}, r"`name` is 'a\\nb'; expected a text of at most"),
        ("model.json", ABOUT, {"scores": {"C1": {"dice": {"mean": 1}}}}, "each with `mean`, `low`"),
        (
            "model.json",
            ABOUT,
            {"training_data": {"view_mm": [[2, 1], [1, 2], [1, 2]]}},
            r"`training_data.view_mm` is \[\[2, 1\]",
        ),
        (
            "model.json",
            ABOUT,
            {"training_data": json.loads('{"a":' * 9 + "1" + "}" * 9)},
            "nested at most 8 deep",
        ),
        ("plan.json", PLAN, {"spacing_mm": [1e-9] * 3}, "three lengths from 0.1 to 100 mm"),
        ("plan.json", PLAN, {"spacing_mm": [True] * 3}, "three lengths from 0.1 to 100 mm"),
        ("plan.json", PLAN, {"window_hu": [250, -200]}, "with the lowest below the highest"),
        (
            "plan.json",
            PLAN,
            {"inference": {"window": [10**9] * 3}},
            "`inference.window` is .*; expected three numbers of voxels from 1 to 4096",
        ),
        ("plan.json", PLAN, {"inference": {"overlap": 1}}, "`inference.overlap` is 1; expected"),
    ],
)
def test_a_value_that_no_training_writes_is_named(folder, name, base, changes, words):
    with pytest.raises(ValueError, match=words) as caught:
        described(folder, name, {**base, **changes})
    assert str(caught.value).startswith(f"{folder / name}: ")

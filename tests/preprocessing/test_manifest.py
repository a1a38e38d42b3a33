import json
import pathlib

import pytest

from preprocessing import manifest
from preprocessing.case_list import Case, CaseManifest
from preprocessing.rules import IntegrityError
from tests import wrong_values


def saved(folder, value, name="manifest.json"):
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def entry(case_id="a", **changes):
    return {
        "case_id": case_id,
        "image": f"images/{case_id}.nii.gz",
        "label": f"labels/{case_id}.nii.gz",
        **changes,
    }


def test_own_manifest(tmp_path):
    path = saved(
        tmp_path,
        {
            "site": "C2",
            "description": "tumours",
            "cases": [entry("a"), entry("b", label=None)],
            "label_values": {"7": 1},
        },
    )
    found = manifest.read(path)
    assert (found.site, found.description, found.label_values) == ("C2", "tumours", {7: 1})
    assert found.cases == (
        Case("a", tmp_path / "images/a.nii.gz", tmp_path / "labels/a.nii.gz"),
        Case("b", tmp_path / "images/b.nii.gz", None),
    )


def test_a_linked_scan_is_written_by_its_own_name(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "ct").symlink_to("real")
    (tmp_path / "real" / "a.nii.gz").symlink_to("../.git/annex/objects/MD5E-s1--x.nii.gz")
    (tmp_path / "real" / "b.nii.gz").symlink_to("b.nii.gz")
    cases = tuple(Case(name, tmp_path / "ct" / f"{name}.nii.gz", None) for name in "ab")
    manifest.write(tmp_path / "ct" / "manifest.json", CaseManifest("C1", cases))
    written = json.loads((tmp_path / "real" / "manifest.json").read_text())["cases"]
    assert [case["image"] for case in written] == ["a.nii.gz", "b.nii.gz"]


def test_a_manifest_is_read_again_after_its_folder_was_moved(tmp_path):
    folder = tmp_path / "cohort"
    original = CaseManifest(
        "C1",
        (
            Case("a", folder / "images/a.nii.gz", folder / "labels/a.nii.gz"),
            Case("b", tmp_path / "elsewhere/b.nii.gz", None),
        ),
        "healthy",
        {7: 1, 8: 2},
        ("b",),
    )
    manifest.write(folder / "manifest.json", original)
    assert manifest.read(folder / "manifest.json").included == original.included[:1]
    document = json.loads((folder / "manifest.json").read_text())
    assert (
        document["cases"][0]["image"] == "images/a.nii.gz"
    )  # relative: folder and manifest move together
    folder.rename(tmp_path / "moved")
    moved = manifest.read(tmp_path / "moved/manifest.json")
    assert moved.cases[0].image == tmp_path / "moved/images/a.nii.gz"
    assert moved.cases[1].image.resolve() == tmp_path / "elsewhere/b.nii.gz"
    assert (moved.label_values, moved.description, moved.excluded) == (
        {7: 1, 8: 2},
        "healthy",
        ("b",),
    )


def test_excluded_cases_are_listed_but_not_used(tmp_path):
    found = manifest.read(
        saved(tmp_path, {"site": "C1", "cases": [entry("a"), entry("b")], "excluded": ["a"]})
    )
    assert [case.case_id for case in found.cases] == ["a", "b"]
    assert [case.case_id for case in found.included] == ["b"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{half", "not valid JSON"),
        ([], "JSON object"),
        ({"site": "C1"}, "neither `cases`"),
        ({"site": "C1", "cases": []}, "no case is listed"),
        ({"site": "C1", "cases": {}}, "expected a list"),
        ({"cases": [entry()]}, "no `site`"),
        ({"site": "", "cases": [entry()]}, "site"),
        (
            {"site": "C1", "cases": [entry("a"), entry("b"), entry("a")]},
            "case_id a listed more than once",
        ),
        ({"site": "C1", "cases": [entry("../a")]}, r"case_id '\.\./a'"),
        ({"site": "C1", "cases": [entry(), {"image": "x.nii.gz"}]}, "entry 2"),
        ({"site": "C1", "cases": [entry(label=3)]}, "label of case a is 3"),
        ({"site": "C1", "cases": [entry()], "excluded": ["z"]}, "excluded names z"),
        ({"site": "C1", "cases": [entry()], "label_values": {"7": 4}}, "label_values"),
        ({"site": "C1", "cases": [entry()], "label_values": {"liver": 1}}, "label_values.*liver"),
        ({"name": "PANCREAS", "training": [{"label": "x"}]}, "entry .* of `training`"),
        ({"name": "PANCREAS", "training": []}, "no case is listed"),
    ],
)
def test_a_bad_manifest_gives_one_error_with_its_name(tmp_path, value, message):
    path = saved(tmp_path, value)
    with pytest.raises(ValueError, match=message) as caught:
        manifest.read(path)
    assert str(path) in str(caught.value)


def test_a_missing_manifest_is_named():
    with pytest.raises(ValueError, match=r"nowhere[/\\]manifest\.json"):
        manifest.read(pathlib.Path("nowhere/manifest.json"))


def test_an_orientation_is_given_for_a_case_or_for_all_that_have_none(tmp_path):
    path = saved(tmp_path, {"site": "C1", "cases": [entry("a", orientation="LPS"), entry("b")]})
    assert [case.orientation for case in manifest.read(path).cases] == ["LPS", None]
    found = manifest.read(path, orientation="RAS")
    assert [case.orientation for case in found.cases] == ["LPS", "RAS"]
    manifest.write(tmp_path / "again.json", found)
    assert manifest.read(tmp_path / "again.json") == found


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_manifest_with_a_byte_order_mark(tmp_path, encoding):
    (tmp_path / "m.json").write_text(
        json.dumps({"site": "Köln", "cases": [entry()]}, ensure_ascii=False), encoding=encoding
    )
    assert manifest.read(tmp_path / "m.json").site == "Köln"


def test_a_manifest_in_latin1_is_named_as_such(tmp_path):
    (tmp_path / "m.json").write_text(
        json.dumps({"site": "Köln", "cases": [entry()]}, ensure_ascii=False), encoding="latin-1"
    )
    with pytest.raises(ValueError, match=r"m\.json: is not UTF-8 .*Latin-1.* \[M01 "):
        manifest.read(tmp_path / "m.json")


OWN = {
    "site": "C1",
    "declared_labels": {"pancreas": "complete", "tumour": "absent"},
    "orientation": "RAS",
    "cases": [{"case_id": "1", "image": "a.nii.gz", "label": "b.nii.gz", "accept": ["I01"]}],
}
DECATHLON = {
    "name": "Pancreas",
    "labels": {"0": "background", "1": "pancreas", "2": "cancer"},
    "numTraining": 1,
    "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
    "test": ["./imagesTs/b.nii.gz"],
}
NNUNET = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "pancreas": [1, 2], "tumour": 2},
    "numTraining": 0,
    "file_ending": ".nii.gz",
}


@pytest.mark.parametrize(
    ("base", "path"),
    [(base, path) for base in (OWN, DECATHLON, NNUNET) for path in wrong_values.places(base)],
    ids=lambda value: wrong_values.named(value) if isinstance(value, tuple) else None,
)
def test_any_value_at_any_place_is_taken_or_refused_with_the_file(base, path, tmp_path):
    file = tmp_path / "dataset.json"
    for content in wrong_values.replaced(base, path):
        file.write_text(json.dumps(content), encoding="utf-8")
        try:
            manifest.read(file)
        except IntegrityError as error:
            assert error.rule.startswith("M") and str(tmp_path) in str(error)

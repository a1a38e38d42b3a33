"""A site's cases as values: valid entries, and the rules that invalid ones break."""

import pathlib

import pytest

from preprocessing import rules
from preprocessing.case_list import Case, CaseManifest, ListProblem

SCAN, LABEL = pathlib.Path("a.nii.gz"), pathlib.Path("a_label.nii.gz")
ACCEPTABLE = next(rule.id for rule in rules.RULES if rule.acceptable)
STRICT = next(rule.id for rule in rules.RULES if not rule.acceptable)


def case(name="a", **changes):
    return Case(**{"case_id": name, "image": SCAN, "label": LABEL, **changes})


@pytest.mark.parametrize(
    ("changes", "rule", "words"),
    [
        ({"case_id": "../a"}, rules.CASE_ID, "begin with a letter or digit"),
        ({"label_turn": "+x-y-y"}, rules.MANIFEST_REFERENCE, "each axis once with its sign"),
        ({"label_turn": "xyz"}, rules.MANIFEST_REFERENCE, "label_turn of case a is 'xyz'"),
        ({"orientation": "LPR"}, rules.MANIFEST_REFERENCE, "case a: orientation is 'LPR'"),
        ({"accept": ("Z99",)}, rules.MANIFEST_REFERENCE, "case a accepts Z99"),
        ({"accept": (ACCEPTABLE, STRICT)}, rules.MANIFEST_REFERENCE, f"accepts {STRICT}"),
    ],
)
def test_a_wrong_case_names_itself_its_rule_and_the_remedy(changes, rule, words):
    with pytest.raises(ListProblem) as caught:
        case(**changes)
    assert caught.value.rule is rule and words in str(caught.value)
    assert f"[{rule.id} {rule.name}]; " in str(caught.value)


@pytest.mark.parametrize("turn", ["+x-y+z", "-z+x+y", None])
def test_a_label_may_be_turned_onto_its_scan(turn):
    assert case(label_turn=turn, accept=(ACCEPTABLE,), orientation="LPS").label_turn == turn


def test_a_case_without_a_label_says_so_where_one_is_needed():
    assert case().required_label == LABEL
    with pytest.raises(ValueError, match="case b has no label; list one in the manifest"):
        _ = case("b", label=None).required_label


@pytest.mark.parametrize(
    ("changes", "rule", "words"),
    [
        ({"site": ""}, rules.MANIFEST_KEYS, "site is empty"),
        ({"cases": ()}, rules.MANIFEST_KEYS, "no case is listed"),
        ({"cases": (case(), case(image=LABEL, label=None))}, rules.CASE_TWICE, "case_id a listed"),
        ({"cases": (case(), case("b", label=None))}, rules.CASE_TWICE, "image a.nii.gz listed"),
        ({"cases": (case(), case("b", series="1.2"))}, rules.CASE_TWICE, "label a_label.nii.gz"),
        ({"excluded": ("c",)}, rules.MANIFEST_REFERENCE, "excluded names c"),
        ({"label_values": {7: 9}}, rules.MANIFEST_REFERENCE, "label_values is {7: 9}"),
        ({"declared": {"pancreas": "mostly"}}, rules.MANIFEST_REFERENCE, "mostly"),
    ],
)
def test_a_wrong_list_names_its_rule_and_the_value(changes, rule, words):
    with pytest.raises(ListProblem) as caught:
        CaseManifest(**{"site": "C1", "cases": (case(),), **changes})
    assert caught.value.rule is rule and words in str(caught.value)


def test_files_are_those_of_all_cases_and_included_leaves_out_what_is_excluded():
    two = (case(), case("b", image=pathlib.Path("b"), label=None))
    listed = CaseManifest("C1", two, excluded=("a",))
    assert listed.files == [SCAN, LABEL, pathlib.Path("b")] and listed.included == two[1:]


def test_two_series_of_one_folder_are_two_cases():
    series = (case(series="1"), case("b", series="2", label=None))
    assert CaseManifest("C1", series).included == series

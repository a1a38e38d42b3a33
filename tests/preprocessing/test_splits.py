import pytest

from preprocessing.splits import PAPER_COUNTS, listed_split, scaled_counts, split_cases
from tests import wrong_values


def ids(n):
    return [f"case_{i:03d}" for i in range(n)]


@pytest.mark.parametrize(
    ("cases", "ratio", "expected"),
    [
        (420, PAPER_COUNTS["C1"], (252, 84, 84)),
        (486, PAPER_COUNTS["C2"], (286, 100, 100)),
        (80, PAPER_COUNTS["C1"], (48, 16, 16)),  # NIH Pancreas-CT
        (
            281,
            PAPER_COUNTS["C2"],
            (165, 58, 58),
        ),  # 165.4, 57.8, 57.8: the two largest remainders go up
        (10, (0.6, 0.2, 0.2), (6, 2, 2)),
        (5, (0.6, 0.2, 0.2), (3, 1, 1)),
        (3, (0.6, 0.2, 0.2), (1, 1, 1)),  # no share stays empty
        (1, (0.6, 0.2, 0.2), (1, 0, 0)),
    ],
)
def test_scaled_counts_by_hand(cases, ratio, expected):
    assert scaled_counts(cases, ratio) == expected


def test_every_case_is_in_one_split():
    split = split_cases(ids(50), seed=3)
    assert {name: len(cases) for name, cases in split.items()} == {
        "training": 30,
        "validation": 10,
        "test": 10,
    }
    assert sorted(sum(split.values(), ())) == ids(50)


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_files():
    assert split_cases(ids(50), seed=3) == split_cases(reversed(ids(50)), seed=3)
    assert split_cases(ids(50), seed=3) != split_cases(ids(50), seed=4)
    assert split_cases(ids(50), seed=3)["test"] != tuple(ids(50)[40:])


def test_counts_are_met_and_the_rest_is_in_no_split():
    split = split_cases(ids(10), seed=0, counts=(4, 2, 1))
    assert [len(cases) for cases in split.values()] == [4, 2, 1]
    assert len(set(sum(split.values(), ()))) == 7


@pytest.mark.parametrize(
    ("cases", "arguments", "message"),
    [
        (ids(5), {"counts": (252, 84, 84)}, r"252 \+ 84 \+ 84 needs 420 cases, the cohort has 5"),
        (ids(5), {"counts": (0, 2, 2)}, "at least one for training, or cases for test only"),
        (ids(5), {"counts": (0, 0, 0)}, "at least one for training, or cases for test only"),
        (ids(5), {"counts": (3, -1, 1)}, r"\(3, -1, 1\)"),
        (ids(5), {"ratio": (1.0, 0.0, 0.0)}, "shares above 0"),
        ([], {}, "no case"),
        (["a", "b", "a"], {}, "'a' is listed twice"),
    ],
)
def test_impossible_splits_are_refused(cases, arguments, message):
    with pytest.raises(ValueError, match=message):
        split_cases(cases, seed=0, **arguments)


LISTS = {"training": ["a", "b", "c"], "validation": ["d"], "test": ["e", "f"]}


def test_a_listed_split_is_taken_as_it_is_and_a_refused_case_drops_out():
    assert listed_split(["f", "c", "a", "d"], LISTS) == {
        "training": ("a", "c"),
        "validation": ("d",),
        "test": ("f",),
    }


@pytest.mark.parametrize(
    ("ids", "lists", "words"),
    [
        (["a", "d", "e", "z"], LISTS, "case 'z' and 0 more are in no split"),
        (["a", "d", "e"], {**LISTS, "test": ["a", "e"]}, "case 'a' twice"),
        (["a", "d"], LISTS, "none of the cases that the list gives for test is here"),
        (["a"], {"training": ["a"]}, "lacks validation, test"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(ids, lists, words):
    with pytest.raises(ValueError, match=words):
        listed_split(ids, lists)


def test_a_site_that_only_evaluates_may_use_all_cases_for_test():
    found = split_cases(ids(5), seed=1, counts=(0, 0, 5))
    assert found == {"training": (), "validation": (), "test": tuple(sorted(ids(5)))}


@pytest.mark.parametrize("path", wrong_values.places(LISTS), ids=wrong_values.named)
def test_a_split_list_that_holds_something_else_is_refused(path):
    for lists in wrong_values.replaced(LISTS, path):
        with pytest.raises(ValueError, match=r"split list|of the list"):
            listed_split([case for own in LISTS.values() for case in own], lists)


def test_a_split_list_that_is_no_object_is_refused():
    with pytest.raises(ValueError, match="the split list is a list; expected a JSON object"):
        listed_split(["1"], ["1"])

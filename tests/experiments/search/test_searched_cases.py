import pytest

from experiments.search import search_state, searched_cases


class Case:
    def __init__(self, number, fingerprint):
        self.number, self.fingerprint = number, fingerprint


class Store:
    def __init__(self, site, **splits):
        self.site, self._splits = site, splits

    def case_ids(self, split):
        return tuple(f"{split}/{n}" for n in range(len(self._splits[split])))

    def open(self, case_id):
        split, number = case_id.split("/")
        return Case(int(number) + 1, self._splits[split][int(number)])


ONE = Store("C1", training=["a", "b"], validation=["c"])
OTHER = Store("C2", training=["d"], validation=["e"])
SPLITS = ("training", "validation")


def test_sites_in_order_and_their_cases():
    found = searched_cases.record([ONE, OTHER], SPLITS)
    assert found["sites"] == ["C1", "C2"]
    assert found["C1"]["training"]["cases"] == 2 and found["C2"]["validation"]["cases"] == 1
    assert found == searched_cases.record([ONE, OTHER], SPLITS)


@pytest.mark.parametrize(
    ("stores", "words"),
    [
        ([ONE], "C2 "),
        ([OTHER, ONE], "sites "),
        ([Store("C1", training=["a", "b"], validation=["x"]), OTHER], "C1.validation.digest "),
        ([Store("C1", training=["b", "a"], validation=["c"]), OTHER], "C1.training.digest "),
    ],
)
def test_every_change_shows(stores, words):
    before = searched_cases.record([ONE, OTHER], SPLITS)
    lines = search_state.differences(before, searched_cases.record(stores, SPLITS))
    assert any(line.startswith(words) for line in lines)


def test_a_site_that_is_given_twice_is_refused():
    with pytest.raises(ValueError, match="--site_folders has site C1 more than once"):
        searched_cases.record([ONE, OTHER, ONE], SPLITS)


def test_a_site_without_a_case_to_score_is_refused_before_anything_is_trained():
    with pytest.raises(ValueError, match="site C2 has no validation case; prepare"):
        searched_cases.record([ONE, Store("C2", training=["d"], validation=[])], SPLITS)

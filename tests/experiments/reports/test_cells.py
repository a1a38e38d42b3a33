from experiments.reports import cells


def test_a_number_has_its_decimals_and_its_factor():
    assert cells.number(0.5, 2) == "0.50"
    assert cells.number(0.4567, 1, factor=100) == "45.7"
    assert cells.number(None, 1) == "–"


def test_an_interval_is_in_brackets_and_unknown_ends_are_dashes():
    found = {"estimate": 0.61, "low": 0.52, "high": None}
    assert cells.with_interval(found, 2) == "0.61 [0.52, –]"
    assert (
        cells.with_interval({"mean": 0.5, "low": 0.25, "high": 0.75}, 0, factor=100, of="mean")
        == "50 [25, 75]"
    )
    assert cells.with_interval(None, 1) == "–"
    assert cells.with_interval({"estimate": None, "low": None, "high": None}, 1) == "–"

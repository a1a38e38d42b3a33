from runkit import nested

ONE = {"size": 48, "cells": [{"op": "2d"}, {"op": "3d"}], "loss": {"kl": 0.2}, "gone": {"a": 1}}
OTHER = {"size": 64, "cells": [{"op": "2d"}, {"op": "p3d"}], "loss": {"kl": 0.5, "smooth": 1}}


def test_every_entry_that_differs_is_named_by_its_path_in_order():
    assert list(nested.differences(ONE, OTHER)) == [
        ("cells", ONE["cells"], OTHER["cells"]),
        ("gone", {"a": 1}, None),
        ("loss.kl", 0.2, 0.5),
        ("loss.smooth", None, 1),
        ("size", 48, 64),
    ]
    assert list(nested.differences(ONE, dict(reversed(ONE.items())))) == []


def test_an_absent_entry_is_shown_and_compared_as_asked():
    assert list(nested.differences({"a": None}, {})) == []
    assert list(nested.differences({"a": None}, {}, absent="-")) == [("a", None, "-")]


def test_only_named_lists_of_one_length_are_compared_entry_by_entry():
    found = nested.differences(ONE["cells"], OTHER["cells"], "net.cells", numbered="cells")
    assert list(found) == [("net.cells[2].op", "3d", "p3d")]
    for other in ([{"op": "2d"}], {"op": "2d"}, 2):
        found = nested.differences({"cells": ONE["cells"]}, {"cells": other}, numbered="cells")
        assert list(found) == [("cells", ONE["cells"], other)]


def test_values_that_are_no_mappings_have_the_path_given():
    assert list(nested.differences(1, 2)) == [("", 1, 2)]
    assert list(nested.differences({}, [], "plan")) == [("plan", {}, [])]

import json
import tracemalloc

import pytest

from federated.rounds import plan


def test_every_difference_has_a_line():
    server = {
        "genotype": {"name": "c2fnas", "filters": 8},
        "patch": {"size": 48},
        "classes": 3,
        "spacing_mm": (3.0, 3.0, 3.0),
    }
    site = {
        "genotype": {"name": "c2fnas_sum", "filters": 8},
        "patch": {"size": 64},
        "spacing_mm": [3.0, 3.0, 1.0],
        "vae": None,
    }
    assert plan.differences(server, site) == [
        "classes: server 3, site nothing",
        'genotype.name: server "c2fnas", site "c2fnas_sum"',
        "patch.size: server 48, site 64",
        "spacing_mm: server [3.0, 3.0, 3.0], site [3.0, 3.0, 1.0]",
        "vae: server nothing, site null",
    ]


def test_a_plan_with_long_and_many_names_takes_no_more_memory_than_a_few_plans():
    evil = {"a" * 2**17: {f"k{number}": 1 for number in range(10_000)}}
    size = len(json.dumps(evil))
    tracemalloc.start()
    try:
        lines = plan.differences({"patch": {"size": 48}}, evil)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # One name with all its parts, and the plan as Python holds it: not 10,000 long names.
    assert peak < 50 * size
    assert lines[-1] == f"and {10_001 - len(lines) + 1} more" and len(lines) < 1000
    assert max(map(len, lines)) < 1000


def test_a_long_value_is_cut():
    (line,) = plan.differences({"a": list(range(2000))}, {"a": "x" * 10**6})
    assert line.startswith("a: server [0, 1, 2,") and ', site "xxx' in line and len(line) < 9000


def test_names_that_are_not_printable_are_escaped():
    assert plan.differences({}, {"a\n\ud800": 1}) == [r"a\n\ud800: server nothing, site 1"]


def test_values_that_contain_the_names_of_the_sides_stay_as_they_are():
    found = plan.differences({"a": "site, server"}, {}, words=("the model has", "the server"))
    assert found == ['a: the model has "site, server", the server nothing']


def test_tuples_lists_and_order_make_no_difference():
    one, other = {"a": (1, 2), "b": {"c": 1}}, {"b": {"c": 1}, "a": [1, 2]}
    assert plan.differences(one, other) == [] and plan.fingerprint(one) == plan.fingerprint(other)


def test_another_value_is_another_fingerprint():
    assert plan.fingerprint({"a": 1}) != plan.fingerprint({"a": 2})


def test_an_empty_part_differs_from_a_full_one():
    assert plan.differences({"a": {}}, {"a": {"b": 1}}) == [
        "a: server {}, site nothing",
        "a.b: server nothing, site 1",
    ]
    assert plan.differences({}, {}) == []


def test_a_plan_that_json_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="not plain JSON"):
        plan.normal({"a": float("nan")})

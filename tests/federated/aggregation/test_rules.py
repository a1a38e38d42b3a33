"""The contract of every registered rule, and how rules are named."""

import dataclasses
import re

import numpy as np
import pytest

from federated.aggregation import rules
from federated.aggregation.fedavg import FedAvg
from federated.aggregation.fedavgm import FedAvgM
from federated.aggregation.rule import AggregationRule, Slab
from federated.server.config import ServerConfig
from federated.tensors.weights import TensorSpec

SPECS = (TensorSpec("w", "F32", (2, 3)), TensorSpec("b", "F16", (4,)))
every_rule = pytest.mark.parametrize("rule", [rules.RULES[name] for name in sorted(rules.RULES)])


def slab(rule, updates, num_examples, *, model):
    state = {name: np.full(model.size, value) for name, value in rule.init(SPECS).items()}
    return Slab(iter(updates), num_examples, model if rule.reads_model else np.empty(0), state)


@every_rule
def test_a_rule_cites_its_source(rule):
    assert re.search(r"Source: .*\b(19|20)\d\d\b", " ".join(rule.__doc__.split()))


@every_rule
def test_a_rule_is_a_frozen_dataclass_whose_parameters_have_type_range_and_meaning(rule):
    made = rule()
    assert isinstance(made, AggregationRule) and rules.RULES[made.name] is rule
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.name = "other"
    for field in dataclasses.fields(rule):
        about = field.metadata
        assert about["holds"](field.default) and about["meaning"] and about["expected"]
        for wrong in ("text", None, float("nan")):
            with pytest.raises(ValueError, match=f"{made.name}: {field.name} is .*; expected"):
                rule(**{field.name: wrong})


@every_rule
def test_a_rule_keeps_named_numbers_that_begin_finite(rule):
    for name, value in rule().init(SPECS).items():
        assert isinstance(name, str) and isinstance(value, float) and np.isfinite(value)


@every_rule
def test_where_all_sites_agree_the_first_round_moves_each_value_their_way(rule):
    """At the rule's defaults and from its initial state."""
    model, update = np.float32([0.5, -2.0, 8.0]), np.float32([1.5, 0.25, -4.0])
    count = rule().min_updates
    result = rule().aggregate(slab(rule(), [update] * count, [17] * count, model=model))
    assert result.model.dtype == np.float64
    np.testing.assert_array_equal(np.sign(result.model - model), np.sign(update - model))
    assert (np.abs(result.model - model) <= np.abs(update - model)).all()
    assert set(result.state) == set(rule().init(SPECS))


@pytest.mark.parametrize("rule", [rules.RULES[n] for n in rules.RULES if n != "fedadam"])
def test_where_all_sites_agree_the_first_round_of_a_rule_without_adaptive_steps_is_their_update(
    rule,
):
    """Of dyadic numbers, so that nothing is rounded."""
    model, update = np.float32([0.5, -2.0, 8.0]), np.float32([1.5, 0.25, -4.0])
    count = rule().min_updates
    result = rule().aggregate(slab(rule(), [update] * count, [17] * count, model=model))
    np.testing.assert_array_equal(result.model, update)


@every_rule
def test_where_no_site_changed_the_model_it_stays_as_it_is(rule):
    model, count = np.float32([0.5, -2.0, 8.0, 0.0]), rule().min_updates
    given = slab(rule(), [model] * count, range(1, count + 1), model=model)
    np.testing.assert_array_equal(rule().aggregate(given).model, model)


@every_rule
def test_fewer_updates_than_a_rule_can_work_with_are_refused_at_the_start_of_a_server(rule):
    least = rule().min_updates
    for count in range(1, least):
        with pytest.raises(ValueError) as caught:
            ServerConfig(
                num_rounds=1, min_num_clients=count, max_num_clients=9, aggregation=rule.name
            )
        assert str(caught.value) == (
            f"aggregation is '{rule()}', which needs at least {least} updates in every round: "
            f"{rule().min_updates_reason}; min_num_clients is {count}: raise it to {least} or "
            "more, or choose another aggregation rule"
        )
    ServerConfig(num_rounds=1, min_num_clients=least, max_num_clients=9, aggregation=rule.name)


def test_how_few_updates_a_rule_can_work_with_may_depend_on_its_parameters():
    least = {text: rules.parse(text).min_updates for text in ("fedavg", "fedadam", "median")}
    assert least == {"fedavg": 1, "fedadam": 1, "median": 3}
    assert [rules.parse(f"trimmed_mean:trim={trim}").min_updates for trim in (1, 2, 7)] == [
        3,
        5,
        15,
    ]


@every_rule
def test_the_same_slab_gives_the_same_bits_and_is_left_as_it_was(rule):
    rng = np.random.default_rng(3)
    updates = [rng.normal(size=50).astype(np.float32) for _ in range(3)]
    model = rng.normal(size=50).astype(np.float32)
    before = [array.tobytes() for array in (*updates, model)]
    given = [slab(rule(), updates, [3, 1, 2], model=model) for _ in range(2)]
    first, second = (rule().aggregate(each) for each in given)
    assert first.model.tobytes() == second.model.tobytes()
    assert [array.tobytes() for array in (*updates, model)] == before
    for name, value in rule().init(SPECS).items():
        assert (given[0].state[name] == value).all()
        np.testing.assert_array_equal(first.state[name], second.state[name])


@every_rule
def test_a_rule_is_read_back_from_its_text(rule):
    assert rules.parse(rule.name) == rule() == rules.parse(str(rule()))
    assert str(rule()).split(":")[0] == rule.name and rule.name in rules.described()


def test_parameters_are_read_from_text():
    rule = rules.parse("fedavgm:learning_rate=2, momentum=1e-1")
    assert rule == FedAvgM(momentum=0.1, learning_rate=2.0)
    assert str(rule) == "fedavgm:momentum=0.1,learning_rate=2.0"
    assert rules.parse("fedavg") == FedAvg() and rules.DEFAULT == "fedavg"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fedprox", "aggregation is 'fedprox'; expected one of fedavg, fedavgm"),
        ("", "aggregation is ''; expected one of"),
        ("fedavgm:beta=0.9", "'beta' is not a parameter of fedavgm.*momentum, learning_rate"),
        ("fedavg:momentum=0.9", "'momentum' is not a parameter of fedavg.*none"),
        ("fedavgm:momentum=0.9,momentum=0.8", "'momentum' .* given twice"),
        ("fedavgm:momentum=1", "momentum is 1.0; expected a number from 0"),
        ("fedavgm:momentum=-0.1", "momentum is -0.1; expected a number from 0"),
        ("fedavgm:momentum=much", "momentum is 'much'; expected a number from 0"),
        ("fedavgm:learning_rate=0", "learning_rate is 0.0; expected a number more than 0"),
        ("fedavgm:learning_rate=inf", "learning_rate is inf; expected a number more than 0"),
        ("fedavgm:learning_rate", "learning_rate is ''; expected a number more than 0"),
        ("fedadam:beta_1=1", "beta_1 is 1.0; expected a number from 0"),
        ("fedadam:beta_2=-0.5", "beta_2 is -0.5; expected a number from 0"),
        ("fedadam:tau=0", "tau is 0.0; expected a number more than 0"),
        ("median:trim=1", "'trim' is not a parameter of median.*none"),
        ("trimmed_mean:trim=0", "trim is 0; expected a whole number above 0"),
        ("trimmed_mean:trim=0.1", "trim is '0.1'; expected a whole number above 0"),
    ],
)
def test_a_rule_that_cannot_work_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        rules.parse(text)


@every_rule
def test_a_rule_that_claims_to_stay_within_the_updates_does(rule):
    made, largest = rule(), np.finfo(np.float32).max
    updates = [np.float32([largest, -largest, low, 1.0, -2.5]) for low in (0.5, 7.0, -3.0, 0.25)]
    found = made.aggregate(slab(made, updates, (1, 30, 2, 7), model=updates[0])).model
    within = (np.min(updates, axis=0) <= found) & (found <= np.max(updates, axis=0))
    assert within.all() or not rule.within_updates

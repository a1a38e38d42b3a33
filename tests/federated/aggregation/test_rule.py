import dataclasses

import pytest

from federated.aggregation import rules
from federated.aggregation.fedavg import FedAvg
from federated.aggregation.rule import Aggregated, parameter, positive_parameter, share_parameter


def test_whole_numbers_and_switches_are_parameters_too(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Odd(FedAvg):
        name = "odd"
        count: int = parameter(2, "a count", lambda value: value > 0, "a whole number above 0")
        on: bool = parameter(False, "a switch", lambda value: True, "true or false")

    monkeypatch.setitem(rules.RULES, "odd", Odd)
    assert rules.parse("odd:count=3,on=true") == Odd(3, True)
    assert rules.parse(str(Odd(3, True))) == Odd(3, True)
    with pytest.raises(ValueError, match=r"count is '2\.5'; expected a whole number"):
        rules.parse("odd:count=2.5")
    with pytest.raises(ValueError, match="count is True; expected a whole number"):
        Odd(count=True)


@dataclasses.dataclass(frozen=True)
class Needy(FedAvg):
    """Works with two updates or more."""

    name = "needy"
    weight: float = share_parameter(0.5, "a weight")
    rate: float = positive_parameter(1.0, "a rate")

    min_updates = 2
    min_updates_reason = "one is too few"


@pytest.mark.parametrize("weight", [0, 0.0, 0.999])
def test_a_share_lies_from_zero_to_below_one(weight):
    made = Needy(weight=weight)
    assert made.weight == weight and type(made.weight) is float  # as the log writes it
    for wrong in (1.0, -0.001, float("nan"), "0.5", True):
        with pytest.raises(ValueError, match=f"rule needy: weight is {wrong!r}; expected a number"):
            Needy(weight=wrong)


def test_a_positive_parameter_is_finite_and_above_zero():
    assert Needy(rate=1e-300).rate == 1e-300
    for wrong in (0.0, -1.0, float("inf"), None):
        with pytest.raises(ValueError, match=f"rule needy: rate is {wrong!r}; expected a number"):
            Needy(rate=wrong)


def test_a_rule_is_written_with_every_parameter():
    assert str(Needy(weight=0.25, rate=2)) == "needy:weight=0.25,rate=2.0"
    assert str(FedAvg()) == "fedavg"


def test_too_few_updates_are_refused_with_the_number_the_reason_and_what_to_change():
    Needy().check_updates(2, given="")
    with pytest.raises(ValueError) as caught:
        Needy().check_updates(1, given="start it with two")
    assert str(caught.value) == (
        "aggregation is 'needy:weight=0.5,rate=1.0', which needs at least 2 updates in every "
        "round: one is too few; start it with two"
    )


def test_by_default_a_rule_keeps_nothing_and_works_with_one_update():
    assert FedAvg().init([]) == {} and FedAvg().min_updates == 1
    FedAvg().check_updates(1, given="")
    assert Aggregated(None).state == {}

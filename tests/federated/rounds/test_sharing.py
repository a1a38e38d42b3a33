import pytest

from federated import errors
from federated.rounds.sharing import ShareRules, of_plan

NAMES = ("cell0/gamma", "cell0/kernel", "cell1/gamma", "head/bias", "head/kernel")


def test_every_array_has_one_rule():
    found = ShareRules(keep=("*/gamma", "head/bias"), receive=("cell0/k*",)).of(NAMES)
    assert found.kept == {"cell0/gamma", "cell1/gamma", "head/bias"}
    assert (found.received, found.shared) == ({"cell0/kernel"}, {"head/kernel"})
    assert not found.everything


def test_without_rules_everything_is_shared_and_the_plan_has_no_entry():
    assert ShareRules().of(NAMES).shared == set(NAMES) and ShareRules().of(NAMES).everything
    assert ShareRules().to_plan() == {} and of_plan({"patch": 3}) == ShareRules()


def test_a_plan_carries_the_rules():
    rules = ShareRules(keep=("*/gamma",), receive=("head/*",))
    assert rules.to_plan() == {"sharing": {"keep": ["*/gamma"], "receive": ["head/*"]}}
    assert of_plan(rules.to_plan()) == rules
    assert of_plan(ShareRules(keep=("a",)).to_plan()) == ShareRules(keep=("a",))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"keep": ("*/gama",)}, r"keep has the pattern '\*/gama', which matches none .*correct it"),
        ({"receive": ("Head/*",)}, "receive has the pattern 'Head/\\*', which matches none"),
        ({"keep": ("*",)}, "leave none of the model's 5 arrays to share.*name fewer"),
        ({"keep": ("cell*",), "receive": ("head/*",)}, "leave none of the model's 5 arrays"),
        ({"keep": ("head/*",), "receive": ("*/bias",)}, "head/bias would be kept and received"),
        ({"keep": ("",)}, "keep has the pattern ''; expected the name of an array"),
    ],
)
def test_rules_that_cannot_work_are_refused_with_the_reason_and_the_remedy(rules, message):
    with pytest.raises(ValueError, match=message):
        ShareRules(**rules).of(NAMES)


@pytest.mark.parametrize(
    "entry", [["*/gamma"], {"keep": "*/gamma"}, {"hide": ["*/gamma"]}, {"keep": [3]}, None]
)
def test_an_entry_of_another_form_is_refused(entry):
    with pytest.raises(ValueError, match=r"expected"):
        of_plan({"sharing": entry})


def test_what_is_sent_holds_every_shared_array_and_no_other():
    sharing = ShareRules(keep=("*/gamma",), receive=("head/bias",)).of(NAMES)
    sharing.check_sent(["cell0/kernel", "head/kernel"], what="update")
    for names, message in (
        (["cell0/kernel", "head/kernel", "cell1/gamma"], "cell1/gamma, which the plan keeps"),
        (["cell0/kernel", "head/kernel", "head/bias"], "head/bias, which the plan only lets"),
        (["cell0/kernel"], "lacks head/kernel, which the plan shares"),
    ):
        with pytest.raises(errors.IncompatibleWeights, match=message):
            sharing.check_sent(names, what="update")

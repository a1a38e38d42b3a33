import dataclasses
import math
import pathlib

import pytest
from absl import flags

from experiments import setting_flags
from federated.errors import PolicyRefused
from federated.privacy import policy as policies
from federated.privacy.policy import PrivacyPolicy
from federated.privacy.releases import Release

GAUSSIAN = {"filter": "gaussian", "clip_norm": 1.0, "noise": 4.0, "budget": 8.0}
SVT = {"filter": "svt", "gamma": 1e-5, "epsilon3": 100.0, "budget": 1e6}
VALID = {
    "none": {},
    "clip": {"filter": "clip", "clip_norm": 1.0},
    "gaussian": GAUSSIAN,
    "percentile": {"filter": "percentile", "percentile": 75.0},
    "svt": SVT,
}


@pytest.mark.parametrize("name", VALID)
def test_what_each_filter_promises(name):
    policy = PrivacyPolicy(**VALID[name])
    assert policy.active == (name != "none")
    assert policy.guaranteed == (name in ("gaussian", "svt"))
    assert policy.sparse == (name in ("percentile", "svt"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"filter": "secret"}, "privacy_filter is 'secret'; expected 'none', 'clip'"),
        ({"noise": 1.0}, r"privacy_noise is 1.0, but has no effect with privacy_filter 'none'"),
        ({"budget": 1.0}, r"privacy_budget is 1.0, but has no effect"),
        ({"send_metrics": True}, r"privacy_send_metrics is True, but has no effect"),
        ({**GAUSSIAN, "noise": None}, "'gaussian', which needs privacy_noise"),
        ({**GAUSSIAN, "clip_norm": None}, "'gaussian', which needs privacy_clip"),
        ({**GAUSSIAN, "budget": None}, "'gaussian', which needs privacy_budget"),
        ({**GAUSSIAN, "percentile": 75.0}, "privacy_percentile is 75.0, but has no effect"),
        ({**GAUSSIAN, "noise": -1.0}, "privacy_noise is -1.0; expected a number from 1e-6"),
        ({**GAUSSIAN, "noise": math.nan}, "privacy_noise is nan; expected"),
        (
            {**GAUSSIAN, "budget": math.inf},
            "privacy_budget is inf; expected a number from 1e-30 to",
        ),
        ({**GAUSSIAN, "clip_norm": 1e-310}, "privacy_clip is 1e-310; expected a number from 1e-30"),
        ({**GAUSSIAN, "delta": 0.0}, "privacy_delta is 0.0; expected a probability"),
        ({**GAUSSIAN, "delta": 1.0}, "privacy_delta is 1.0; expected a probability"),
        (
            {**GAUSSIAN, "accountant": "moments"},
            "privacy_accountant is 'moments'; expected 'analytic', 'pld' or 'rdp'",
        ),
        ({"filter": "percentile"}, "'percentile', which needs privacy_percentile"),
        ({"filter": "percentile", "percentile": 100.0}, "privacy_percentile is 100.0; expected"),
        (
            {"filter": "percentile", "percentile": 75.0, "budget": 3.0},
            "privacy_budget is 3.0, but has no effect with privacy_filter 'percentile'",
        ),
        (
            {"filter": "percentile", "percentile": 75.0, "tell_epsilon": True},
            "'percentile' has no epsilon to tell",
        ),
        ({**SVT, "gamma": None}, "'svt', which needs privacy_gamma"),
        ({**SVT, "epsilon3": None}, "'svt', which needs privacy_epsilon3"),
        ({**SVT, "fraction": 1.5}, "privacy_fraction is 1.5; expected a share"),
        ({**SVT, "epsilon1": 0.0}, "privacy_epsilon1 is 0.0; expected"),
        ({**SVT, "epsilon3": 1e-300}, "privacy_epsilon3 is 1e-300; expected a number from 1e-30"),
        ({**SVT, "delta": 1e-3}, "privacy_delta is 0.001, but has no effect"),
        ({**GAUSSIAN, "noise": "4"}, "privacy_noise is '4'; expected a number from"),
        ({**GAUSSIAN, "clip_norm": True}, "privacy_clip is True; expected a number from"),
        ({**GAUSSIAN, "delta": [1e-5]}, r"privacy_delta is \[1e-05\]; expected a probability"),
        ({**GAUSSIAN, "filter": ["gaussian"]}, "privacy_filter is .'gaussian'.; expected 'none'"),
        (
            {**GAUSSIAN, "send_metrics": "no"},
            "privacy_send_metrics is 'no'; expected true or false",
        ),
        ({**GAUSSIAN, "tell_epsilon": 1}, "privacy_tell_epsilon is 1; expected true or false"),
    ],
)
def test_a_policy_that_cannot_hold_is_refused_with_the_flag_and_the_remedy(settings, message):
    with pytest.raises(PolicyRefused, match=message):
        PrivacyPolicy(**settings)


def test_what_an_update_costs():
    assert PrivacyPolicy(**GAUSSIAN).release(1000) == Release("gaussian", 4.0)
    assert PrivacyPolicy(**VALID["clip"]).release(1000) == Release("none")
    assert PrivacyPolicy(**VALID["percentile"]).release(1000) == Release("none")
    cheap = PrivacyPolicy(**SVT, epsilon2=10.0)
    assert cheap.release(5_000_000) == Release("pure", 0.1 + 10.0 + 100.0)


def test_the_cost_of_the_sparse_vector_technique_is_stated_however_absurd_it_is():
    """The settings of published programs: a tenth of seven million values are shared.

    Epsilon is 0.1 per answer, and 0.1 * (2 * 703,330)^(2/3) = 1,255.4 for the comparisons.
    """
    policy = PrivacyPolicy(**{**SVT, "epsilon3": 0.1 * 703_330})
    assert policy.sparse_vector(7_033_300).answers == 703_330
    expected = 0.1 + 0.1 * (2 * 703_330) ** (2 / 3) + 70_333
    assert policy.release(7_033_300).amount == pytest.approx(expected, rel=1e-12)
    assert expected == pytest.approx(71_588.5, abs=0.1)


def test_a_small_model_shares_one_value_at_least():
    assert PrivacyPolicy(**SVT).sparse_vector(3).answers == 1


def test_a_delta_that_may_give_a_patient_away_is_refused():
    policy = PrivacyPolicy(**{**GAUSSIAN, "delta": 0.01})
    policy.check_delta(99)
    with pytest.raises(PolicyRefused, match=r"privacy_delta is 0.01, not less than 1 / 100"):
        policy.check_delta(100)
    PrivacyPolicy(**SVT).check_delta(100)


@pytest.mark.parametrize("name", VALID)
def test_the_flags_of_a_policy_give_the_policy(name):
    policy = PrivacyPolicy(**VALID[name])
    own = flags.FlagValues()
    setting_flags.define(PrivacyPolicy, into=own)
    own(["join", *policy.flags()])
    assert PrivacyPolicy(**setting_flags.values(PrivacyPolicy, own)) == policy


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("gaussian", {"noise": 3.0}, "privacy_noise 4.0 before, 3.0 now"),
        ("gaussian", {"budget": 9.0}, "privacy_budget 8.0 before, 9.0 now"),
        ("gaussian", {"delta": 1e-4}, "privacy_delta 1e-05 before, 0.0001 now"),
        ("gaussian", {"send_metrics": True}, "privacy_send_metrics False before, True now"),
        ("clip", {"clip_norm": 2.0}, "privacy_clip 1.0 before, 2.0 now"),
        ("percentile", {"percentile": 50.0}, "privacy_percentile 75.0 before, 50.0 now"),
        ("svt", {"gamma": 1e-4}, "privacy_gamma 1e-05 before, 0.0001 now"),
        ("svt", {"fraction": 0.2}, "privacy_fraction 0.1 before, 0.2 now"),
        ("svt", {"epsilon3": 200.0}, "privacy_epsilon3 100.0 before, 200.0 now"),
    ],
)
def test_a_weaker_policy_is_named_and_a_stronger_one_is_not(name, change, words):
    before = PrivacyPolicy(**VALID[name])
    after = PrivacyPolicy(**{**VALID[name], **change})
    assert policies.weaker(after.to_json(), before.to_json()) == [words]
    assert policies.weaker(before.to_json(), after.to_json()) == []
    assert policies.weaker(before.to_json(), before.to_json()) == []


def test_a_bound_that_is_taken_away_is_weaker():
    bounded = PrivacyPolicy(**VALID["percentile"], gamma=1e-3).to_json()
    free = PrivacyPolicy(**VALID["percentile"]).to_json()
    assert policies.weaker(free, bounded) == ["privacy_gamma 0.001 before, None now"]
    assert policies.weaker(bounded, free) == []


def test_another_filter_is_never_taken_for_a_stronger_one():
    found = policies.weaker(
        PrivacyPolicy(**GAUSSIAN).to_json(), PrivacyPolicy(**VALID["percentile"]).to_json()
    )
    assert found == ["privacy_filter percentile before, gaussian now"]


def test_another_clipping_norm_changes_nothing_where_the_noise_is_a_multiple_of_it():
    larger = PrivacyPolicy(**{**GAUSSIAN, "clip_norm": 5.0}).to_json()
    assert policies.weaker(larger, PrivacyPolicy(**GAUSSIAN).to_json()) == []


def test_a_policy_is_a_value():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PrivacyPolicy().filter = "clip"


def test_the_flag_file_on_the_page_is_a_policy():
    page = pathlib.Path(__file__).parents[3] / "docs" / "privacy-policy.md"
    block = page.read_text(encoding="utf-8").partition("```text\n")[2].partition("```")[0]
    own = flags.FlagValues()
    setting_flags.define(PrivacyPolicy, into=own)
    own(["join", *(line for line in block.split() if "lend" not in line)])
    policy = PrivacyPolicy(**setting_flags.values(PrivacyPolicy, own))
    assert (policy.filter, policy.noise, policy.budget) == ("gaussian", 8.0, 8.0)


@pytest.mark.parametrize("explicit", [1e-3, 1e9])
def test_an_automatic_epsilon_is_neither_given_up_nor_taken_up_within_a_run(explicit):
    """Which one is larger depends on the model; the automatic one of 100 answers is 3.4."""
    automatic = PrivacyPolicy(**VALID["svt"]).to_json()
    given = PrivacyPolicy(**{**VALID["svt"], "epsilon2": explicit}).to_json()
    assert policies.weaker(given, automatic) == [f"privacy_epsilon2 None before, {explicit} now"]
    assert policies.weaker(automatic, given) == [f"privacy_epsilon2 {explicit} before, None now"]

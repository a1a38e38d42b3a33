import dataclasses
import json
import os

import numpy as np
import pytest
from scipy import stats

from federated import errors
from federated.privacy.policy import EPSILON, PrivacyPolicy
from federated.site.journal import Journal
from federated.site.update_filter import UpdateFilter, begun, prepared
from federated.tensors.weights import TensorSpec, specs_of

RNG = np.random.default_rng(12)
RECEIVED = {
    "kernel": RNG.normal(size=(50, 40)).astype(np.float32),
    "wide": RNG.normal(size=7),
    "half": RNG.normal(size=(3, 2)).astype(np.float16),
    "scalar": np.array(0.5, np.float32),
}
TRAINED = {
    name: (array + RNG.normal(size=array.shape) / 100).astype(array.dtype)
    for name, array in RECEIVED.items()
}
VALUES = 2000 + 7 + 6 + 1
POLICIES = {
    "clip": PrivacyPolicy(filter="clip", clip_norm=0.1),
    "gaussian": PrivacyPolicy(filter="gaussian", clip_norm=0.1, noise=8.0, budget=100.0),
    "percentile": PrivacyPolicy(filter="percentile", percentile=75.0),
    "svt": PrivacyPolicy(
        filter="svt",
        gamma=0.01,
        threshold=0.0,
        epsilon1=1e9,
        epsilon2=1e9,
        epsilon3=1e9,
        budget=1e12,
    ),
}


@pytest.fixture
def made(tmp_path):
    def make(policy, *, site="C1", entered=True, **named):
        found = UpdateFilter(
            policy,
            tmp_path / "privacy",
            specs_of(RECEIVED),
            **{"num_examples": 30, **named},
        )
        if entered:
            found.enter("run1", site)
        return found

    return make


def change(sent):
    """Returns what an update changes, float64, in an order of this test's own."""
    return np.concatenate(
        [(sent[name].astype(np.float64) - RECEIVED[name]).ravel() for name in sorted(sent)]
    )


@pytest.mark.parametrize("name", POLICIES)
def test_shapes_and_dtypes_stay_and_the_trainers_arrays_too(made, name):
    before = {key: array.copy() for key, array in TRAINED.items()}
    sent = made(POLICIES[name]).filtered(RECEIVED, TRAINED, 1)
    assert specs_of(sent) == specs_of(RECEIVED)
    for key, array in before.items():
        np.testing.assert_array_equal(TRAINED[key], array)


def test_clipping_scales_the_whole_change_down(made):
    sent = made(POLICIES["clip"]).filtered(RECEIVED, TRAINED, 1)
    norm = np.linalg.norm(change(TRAINED))
    for name in ("kernel", "wide", "scalar"):
        exact = RECEIVED[name] + (TRAINED[name].astype(np.float64) - RECEIVED[name]) * 0.1 / norm
        np.testing.assert_allclose(sent[name], exact, rtol=1e-6)
    assert np.linalg.norm(change(sent)) < 0.101  # float16 rounds


def test_noise_is_added_to_every_array(made):
    sent = made(POLICIES["gaussian"]).filtered(RECEIVED, TRAINED, 1)
    noise = change(sent)
    assert noise.size == VALUES and abs(noise.std() / 0.8 - 1) < 0.1  # 8 times 0.1
    assert all((sent[name] != RECEIVED[name]).all() for name in sent)
    assert (
        made(POLICIES["gaussian"]).filtered(RECEIVED, TRAINED, 1)["kernel"] != sent["kernel"]
    ).all()


def test_what_is_not_shared_keeps_the_models_bits_and_what_is_shared_the_trained_ones(made):
    sent = made(POLICIES["percentile"]).filtered(RECEIVED, TRAINED, 1)
    border = np.sort(np.abs(change(TRAINED)))[-int(VALUES * 0.25)]
    shared = 0
    for name, array in sent.items():
        delta = np.abs(TRAINED[name].astype(np.float64) - RECEIVED[name])
        expected = np.where(delta >= border, TRAINED[name], RECEIVED[name])
        assert array.tobytes() == expected.tobytes(), name
        shared += int((delta >= border).sum())
    assert shared == int(VALUES * 0.25)


def test_a_bound_of_the_change_is_per_training_step(made):
    policy = PrivacyPolicy(filter="percentile", percentile=1.0, gamma=1e-4)
    sent = made(policy, steps=40).filtered(RECEIVED, TRAINED, 1)
    np.testing.assert_allclose(np.abs(change(sent)).max(), 40 * 1e-4, rtol=0.02)


def test_the_sparse_vector_technique_shares_a_tenth_at_most(made):
    sent = made(POLICIES["svt"]).filtered(RECEIVED, TRAINED, 1)
    different = sum(int((sent[name] != RECEIVED[name]).sum()) for name in sent)
    assert 0.08 * VALUES < different <= 0.1 * VALUES
    assert np.abs(change(sent)).max() < 0.011


def test_only_shared_arrays_count_towards_the_norm(made, tmp_path):
    specs = specs_of({"scalar": RECEIVED["scalar"]})
    found = UpdateFilter(POLICIES["clip"], tmp_path / "own", specs, num_examples=30)
    found.enter("run1", "C1")
    trained = {"scalar": np.array(0.55, np.float32), "kernel": RECEIVED["kernel"] + 9}
    sent = found.filtered(RECEIVED, trained, 1)
    assert sent.keys() == {"scalar"} and sent["scalar"] == np.float32(0.55)  # 0.05 is below 0.1


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_refused_and_spends_nothing(made, name, bad):
    trained = {**TRAINED, "scalar": np.array(bad, np.float32)}
    found = made(POLICIES[name])
    with pytest.raises(errors.UpdateRefused, match="update of round 3 has a value that is not fin"):
        found.filtered(RECEIVED, trained, 3)
    assert found.spent.epsilon == 0.0


def test_spending_is_on_disk_before_any_noise_is_drawn(made, tmp_path):
    def bits(count):
        entries = json.loads((tmp_path / "privacy" / "ledger.json").read_text())["spent"]
        seen.append([entry["round"] for entry in entries])
        return os.urandom(count)

    seen = []
    found = made(POLICIES["gaussian"], bits=bits)
    found.filtered(RECEIVED, TRAINED, 7)
    assert seen and all(rounds == [7] for rounds in seen)
    found.filtered(RECEIVED, TRAINED, 7)
    assert seen[-1] == [7, 7]  # drawn again, counted again


@pytest.mark.parametrize("name", ["gaussian", "svt"])
def test_a_budget_is_checked_before_it_is_spent(made, name):
    cost = made(POLICIES[name], entered=False).after(3).epsilon
    policy = PrivacyPolicy(**{**vars(POLICIES[name]), "budget": cost * 1.000001})
    found = made(policy)
    assert found.affordable(10) == 3 and found.affordable(2) == 2
    for number in (1, 2, 3):
        found.check_budget(number)
        found.filtered(RECEIVED, TRAINED, number)
    for again in (found, made(policy)):  # a restart forgets nothing
        with pytest.raises(errors.PolicyRefused, match=r"budget .* is spent.*3 updates.*round 4"):
            again.check_budget(4)
        with pytest.raises(errors.PolicyRefused, match="is spent"):
            again.filtered(RECEIVED, TRAINED, 4)
    assert made(policy).spent.epsilon == pytest.approx(cost)


def test_the_epsilon_of_a_run_by_hand(made):
    """Noise of 8 clipping norms is 4 times the effect of a patient.

    16 rounds equal one with noise 1, whose epsilon at 1e-5 is 4.3772 (Balle and Wang 2018).
    """
    assert made(POLICIES["gaussian"]).after(16).epsilon == pytest.approx(4.37718, abs=1e-5)
    assert made(POLICIES["svt"], entered=False).after(3).epsilon == 9e9


def test_a_budget_below_one_round_is_refused_at_once(made):
    policy = PrivacyPolicy(filter="gaussian", clip_norm=1.0, noise=1.0, budget=2.0)
    with pytest.raises(errors.PolicyRefused, match=r"privacy_budget is 2, but one round costs eps"):
        made(policy)


def test_rounds_before_the_policy_leave_no_guarantee_but_the_budget_holds(made):
    found = made(POLICIES["gaussian"], entered=False)
    found.enter("run1", "C1", unfiltered_rounds=2)
    assert found.spent.epsilon is None and "none" in str(found.spent)
    assert 1000 < found.affordable(10_000) < 10_000
    found.filtered(RECEIVED, TRAINED, 3)
    assert found.metrics({"loss": 1.0}) == {}


@pytest.mark.parametrize("name", ["clip", "percentile"])
def test_a_filter_without_a_guarantee_says_so(made, name):
    found = made(POLICIES[name])
    assert "none" in str(found.of_a_round) and found.affordable(1000) == 1000
    found.filtered(RECEIVED, TRAINED, 1)
    assert found.spent.epsilon is None


@pytest.mark.parametrize("send", [False, True])
@pytest.mark.parametrize("tell", [False, True])
def test_what_is_sent_beside_an_update_is_up_to_the_policy(made, send, tell):
    settings = {**vars(POLICIES["gaussian"]), "send_metrics": send, "tell_epsilon": tell}
    found = made(PrivacyPolicy(**settings))
    found.filtered(RECEIVED, TRAINED, 1)
    expected = {"loss": 0.5} if send else {}
    if tell:
        expected[EPSILON] = found.spent.epsilon
    assert found.metrics({"loss": 0.5}) == expected


def test_a_policy_that_filters_nothing_has_no_filter(made):
    with pytest.raises(errors.PolicyRefused, match="'none', which filters nothing"):
        made(PrivacyPolicy())


def test_a_delta_for_too_many_cases_is_refused(made):
    policy = PrivacyPolicy(**{**vars(POLICIES["gaussian"]), "delta": 0.05})
    with pytest.raises(errors.PolicyRefused, match=r"privacy_delta is 0\.05, not less than 1 / 30"):
        made(policy)


def test_steps_of_a_trainer_that_make_no_sense_are_refused(made):
    with pytest.raises(ValueError, match="steps_per_round is 0"):
        made(POLICIES["svt"], steps=0)


@pytest.fixture
def journal(tmp_path):
    found = Journal(tmp_path / "journal")
    found.enter("run1")
    return found


def in_run(journal, policy=POLICIES["gaussian"]):
    found = prepared(policy, journal, specs_of(RECEIVED), num_examples=30, steps=1)
    begun(found, journal, "run1", "C1", num_rounds=9)
    return found


def test_updates_that_left_before_the_operator_went_back_are_not_forgotten(journal):
    journal.keep_update(1, TRAINED, 30, {})  # without a policy
    journal.wait_until_durable()
    journal.go_back(1, discarded=1)
    assert journal.trained == 0
    assert in_run(journal).spent.epsilon is None
    assert in_run(journal).spent.epsilon is None  # and after a restart


@pytest.mark.parametrize("copied", [0, 1])
def test_a_ledger_that_is_older_than_the_journal_is_refused(journal, copied):
    found, ledger = in_run(journal), journal.folder / "privacy" / "ledger.json"
    contents = []
    for number in (1, 2, 3):
        contents.append(ledger.read_bytes())
        sent = found.filtered(RECEIVED, TRAINED, number)
        journal.keep_update(number, sent, 30, {})
    journal.wait_until_durable()
    in_run(journal)
    ledger.write_bytes(contents[copied])
    with pytest.raises(errors.PolicyRefused, match=f"ends with round {copied}, but.*round 3, so"):
        in_run(journal)


def test_a_ledger_that_lacks_an_update_of_a_round_trained_again_is_refused(journal):
    found, ledger = in_run(journal), journal.folder / "privacy" / "ledger.json"
    for discarded in (1, 2):
        older = ledger.read_bytes()
        journal.keep_update(1, found.filtered(RECEIVED, TRAINED, 1), 30, {})
        journal.wait_until_durable()
        journal.go_back(1, discarded)
    journal.keep_update(1, found.filtered(RECEIVED, TRAINED, 1), 30, {})
    journal.wait_until_durable()
    newest = ledger.read_bytes()
    ledger.write_bytes(older)  # it ends with round 1, as the newest one does
    again = Journal(journal.folder)
    with pytest.raises(errors.PolicyRefused, match="has 1 updates, but this site has made 3, so"):
        in_run(again)
    ledger.write_bytes(newest)
    assert len(in_run(again)._ledger.spent) == 3


def test_going_back_and_rounds_that_the_site_missed_are_no_older_ledger(journal):
    found = in_run(journal)
    journal.keep_update(7, found.filtered(RECEIVED, TRAINED, 7), 30, {})
    journal.wait_until_durable()
    journal.go_back(5, discarded=1)
    assert journal.trained == 4 and len(in_run(journal)._ledger.spent) == 1


def test_a_ledger_without_its_journal_still_needs_the_policy(journal, tmp_path):
    in_run(journal).filtered(RECEIVED, TRAINED, 1)
    (journal.folder / "journal.json").unlink()
    again = Journal(tmp_path / "journal")
    with pytest.raises(errors.PolicyRefused, match="and now there is none"):
        prepared(None, again, specs_of(RECEIVED), num_examples=30, steps=1)
    again.enter("run1")
    assert in_run(again).spent.epsilon > 0


def test_noise_that_does_not_fit_into_a_secure_sum_is_refused_by_arithmetic(made):
    """The largest of 2014 normal values is about sqrt(2 ln 2014) = 3.90; noise is 8 times 0.1."""
    found = made(POLICIES["gaussian"])
    largest = 0.1 + 0.8 * (3.9004 + 1)
    found.check_range(largest * 1.001)
    with pytest.raises(errors.PolicyRefused, match=r"up to about 4\.02.*takes 4\.0163 at most"):
        found.check_range(largest * 0.999)


def test_answers_that_do_not_fit_into_a_sum_are_refused_before_they_are_paid_for(made):
    """An answer is at most gamma for each training step; most are, if their noise is large."""
    found = made(dataclasses.replace(POLICIES["svt"], gamma=0.5), steps=100)
    found.check_range(50.0)
    with pytest.raises(errors.PolicyRefused, match=r"gamma 0\.5 in 100 .*about 50, .*takes 49\.9 "):
        found.check_range(49.9)


@pytest.mark.parametrize("name", ["clip", "percentile"])
def test_a_filter_without_noise_fits_into_any_sum(made, name):
    made(POLICIES[name]).check_range(1e-9)


def test_the_noise_of_the_page_fits_into_the_default_range_of_a_sum(tmp_path):
    """Seven million values, noise 8 with norm 1, range 64: a value is beyond it once in 1e8 updates."""
    specs = [TensorSpec("w", "F32", (7_000_000,))]
    policy = PrivacyPolicy(filter="gaussian", clip_norm=1.0, noise=8.0, budget=8.0)
    UpdateFilter(policy, tmp_path / "own", specs, num_examples=30).check_range(64.0)
    assert 7e6 * stats.norm.sf(63 / 8) * 2 < 1e-7


@pytest.mark.parametrize(
    ("changed", "kept"),
    [
        ({}, True),
        ({"budget": 50.0, "delta": 1e-6, "tell_epsilon": True}, True),
        ({"noise": 16.0}, False),
        ({"clip_norm": 0.05}, False),
        ({"send_metrics": False}, False),
    ],
)
def test_a_stricter_policy_also_holds_for_an_update_that_was_not_confirmed(journal, changed, kept):
    settings = {"filter": "gaussian", "clip_norm": 0.1, "noise": 8.0, "budget": 100.0}
    found = in_run(journal, PrivacyPolicy(**settings, send_metrics=True))
    journal.keep_update(1, found.filtered(RECEIVED, TRAINED, 1), 30, found.metrics({"loss": 1.0}))
    journal.wait_until_durable()
    in_run(journal, PrivacyPolicy(**{**settings, "send_metrics": True, **changed}))
    assert (journal.update is not None) == kept == journal.update_path.exists()
    assert Journal(journal.folder).update == journal.update


def test_a_kill_while_the_policy_changes_does_not_bring_the_earlier_update_back(
    journal, monkeypatch
):
    found = in_run(journal)
    journal.keep_update(1, found.filtered(RECEIVED, TRAINED, 1), 30, {})
    journal.wait_until_durable()
    stricter = PrivacyPolicy(filter="gaussian", clip_norm=0.1, noise=16.0, budget=100.0)
    with monkeypatch.context() as patched:
        patched.setattr(UpdateFilter, "enter", lambda *given, **named: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            in_run(journal, stricter)
    again = Journal(journal.folder)
    in_run(again, stricter)
    assert again.update is None and again.filtered

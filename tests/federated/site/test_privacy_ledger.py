import json
import os
import stat

import pytest

from federated import errors
from federated.privacy.policy import PrivacyPolicy
from federated.privacy.releases import Release
from federated.site import privacy_ledger
from federated.site.privacy_ledger import PrivacyLedger, Spent

POLICY = PrivacyPolicy(filter="gaussian", clip_norm=1.0, noise=4.0, budget=8.0).to_json()
ONE, TWO = Release("gaussian", 4.0), Release("pure", 70_333.25)


@pytest.fixture
def ledger(tmp_path):
    made = PrivacyLedger(tmp_path / "privacy")
    made.enter("run1", "C1", POLICY)
    return made


def reopened(ledger):
    again = PrivacyLedger(ledger.path.parent)
    again.enter("run1", "C1", POLICY)
    return again


def test_what_was_spent_is_there_after_a_restart(ledger):
    ledger.spend(1, ONE)
    ledger.spend(1, ONE)  # noise drawn again for the same round counts again
    ledger.spend(2, TWO)
    assert reopened(ledger).spent == (Spent(1, ONE), Spent(1, ONE), Spent(2, TWO))
    assert reopened(ledger).releases == (ONE, ONE, TWO)


def test_rounds_before_the_policy_are_not_forgotten(tmp_path):
    made = PrivacyLedger(tmp_path / "privacy")
    made.enter("run1", "C1", POLICY, unfiltered_rounds=3)
    made.spend(4, ONE)
    again = reopened(made)
    assert again.unfiltered_rounds == 3
    assert again.releases == (Release("none"), ONE)


def test_nobody_else_can_read_it(ledger):
    assert stat.S_IMODE(ledger.path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(ledger.path.stat().st_mode) == 0o600


def test_the_ledger_of_another_run_is_refused(ledger):
    with pytest.raises(errors.DifferentRun, match="ledger of run run1, the server leads run2"):
        PrivacyLedger(ledger.path.parent).enter("run2", "C1", POLICY)


def test_the_ledger_of_another_site_is_refused(ledger):
    with pytest.raises(errors.PolicyRefused, match="ledger of site C1, not of C2"):
        PrivacyLedger(ledger.path.parent).enter("run1", "C2", POLICY)


@pytest.mark.parametrize("change", [{"noise": 2.0}, {"budget": 9.0}, {"filter": "percentile"}])
def test_a_policy_is_never_weakened_within_a_run(ledger, change):
    with pytest.raises(errors.PolicyRefused, match="never weakened: privacy_"):
        PrivacyLedger(ledger.path.parent).enter("run1", "C1", {**POLICY, **change})


def test_a_stronger_policy_goes_on_with_what_was_spent_and_holds_from_then_on(ledger):
    ledger.spend(1, ONE)
    again = PrivacyLedger(ledger.path.parent)
    again.enter("run1", "C1", {**POLICY, "noise": 8.0})
    assert again.releases == (ONE,)
    with pytest.raises(errors.PolicyRefused, match=r"privacy_noise 8\.0 before, 4\.0 now"):
        reopened(ledger)


@pytest.mark.parametrize(
    "change",
    [
        {"run": 1},
        {"site": ""},
        {"policy": {}},
        {"policy": "gaussian"},
        {"policy": {"filter": "gaussian"}},
        {"policy": {name: value for name, value in POLICY.items() if name != "delta"}},
        {"policy": {**POLICY, "noise": "4"}},
        {"policy": {**POLICY, "noise": [4.0]}},
        {"policy": {**POLICY, "noise": float("nan")}},
        {"policy": {**POLICY, "later": 1}},
        {"policy": {**POLICY, "send_metrics": "no"}},
        {"unfiltered_rounds": -1},
        {"spent": [{"round": 1, "kind": "gaussian"}]},
        {"spent": [{"round": 1, "kind": "gaussian", "amount": "4"}]},
        {"spent": [{"round": 1, "kind": "gaussian", "amount": 10**400}]},
        {"spent": [{"round": 1, "kind": "gaussian", "amount": -4.0}]},
        {"spent": [{"round": True, "kind": "gaussian", "amount": 4.0}]},
        {"spent": [{"round": 1, "kind": "free", "amount": 4.0}]},
        {"spent": {}},
        {"spent": None},
    ],
    ids=str,
)
def test_a_file_that_this_program_does_not_write_is_refused_and_kept(ledger, change):
    text = json.dumps({**json.loads(ledger.path.read_text()), **change})
    ledger.path.write_text(text)
    with pytest.raises(ValueError, match="restore it from a backup"):
        PrivacyLedger(ledger.path.parent)
    assert ledger.path.read_text() == text


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1}'])
def test_a_damaged_file_is_refused(ledger, content):
    ledger.path.write_text(content)
    with pytest.raises(ValueError, match=r"ledger\.json: .*restore it from a backup\. Without it"):
        PrivacyLedger(ledger.path.parent)


def test_the_ledger_of_a_newer_release_is_refused(ledger):
    text = json.dumps({**json.loads(ledger.path.read_text()), "format": privacy_ledger.FORMAT + 1})
    ledger.path.write_text(text)
    with pytest.raises(ValueError, match="which a newer release wrote"):
        PrivacyLedger(ledger.path.parent)


def test_a_link_in_its_place_is_refused(ledger, tmp_path):
    ledger.path.rename(tmp_path / "elsewhere.json")
    ledger.path.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ValueError, match="is a symbolic link"):
        PrivacyLedger(ledger.path.parent)


CALLS = ("open", "fsync", "chmod", "replace")


class Killed(BaseException):
    """A kill, which no code catches."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("call", CALLS)
def test_a_kill_at_any_call_leaves_the_state_before_or_after(
    ledger, monkeypatch, call, number, after
):
    ledger.spend(1, ONE)
    real, seen = getattr(os, call), []

    def failing(*given, **named):
        seen.append(call)
        if len(seen) == number + 1 and not after:
            raise Killed
        result = real(*given, **named)
        if len(seen) == number + 1 and call != "open":
            raise Killed
        return result

    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing)
        try:
            ledger.spend(2, TWO)
            done = True
        except Killed:
            done = False
    found = reopened(ledger).spent
    assert found[:1] == (Spent(1, ONE),)
    # Once `spend` has returned it is there; otherwise it may be, which counts what never left.
    assert found[1:] in ([(Spent(2, TWO),)] if done else [(), (Spent(2, TWO),)])
    assert not list(ledger.path.parent.glob(".partial-*"))


def test_the_file_and_its_folder_are_synced_before_noise_may_be_drawn(ledger, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *given, n=name, r=real: (calls.append(n), r(*given))[1]
        )
    ledger.spend(1, ONE)
    assert calls == ["fsync", "replace", "fsync"]  # the file, its new name, the folder


def test_an_error_of_the_disk_reaches_the_caller_with_the_file(ledger, monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"ledger\.json"):
        ledger.spend(1, ONE)
    assert ledger.spent == ()

"""A site with a privacy policy in a run: what leaves it, restarts, and when it stops."""

import dataclasses
import json
import math
import shutil
import threading

import numpy as np
import pytest
from scipy import stats

from federated import errors
from federated.privacy.policy import EPSILON, PrivacyPolicy
from federated.privacy.releases import Release
from federated.site import loop as site_loop
from federated.site.answers import AnswerLimits
from federated.site.journal import Journal
from federated.site.privacy_ledger import PrivacyLedger
from federated.tensors import tensor_files
from federated.wire.messages import SumSettings
from tests.federated import toy

GAUSSIAN = {"filter": "gaussian", "clip_norm": 0.5, "noise": 8.0, "budget": 50.0}
PERCENTILE = PrivacyPolicy(filter="percentile", percentile=75.0)
ALONE = {"min_num_clients": 1, "max_num_clients": 1, "max_change_ratio": 0}


class Trainer(toy.ToyTrainer):
    """Keeps what it returned; a policy must not reach it."""

    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        self.returned = {}

    def train(self, weights, round_number):
        arrays, metrics = super().train(weights, round_number)
        self.returned[round_number] = {name: array.copy() for name, array in arrays.items()}
        return arrays, metrics


def delta_of(epsilon, sigma):
    """Returns the delta of one Gaussian release (Balle and Wang 2018, Theorem 8)."""
    a, b = 1 / (2 * sigma) - epsilon * sigma, -1 / (2 * sigma) - epsilon * sigma
    return stats.norm.cdf(a) - math.exp(epsilon) * stats.norm.cdf(b)


def drive(lead):
    thread = threading.Thread(target=lead.drive, daemon=True)
    thread.start()
    return thread


def events_of(folder):
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def pushed(run):
    return [event for event in events_of(run.folder) if event["event"] == "pushed"]


def ledger_of(tmp_path):
    return PrivacyLedger(tmp_path / "journal_C1" / "privacy")


def test_what_the_server_gets_is_filtered_and_what_the_site_keeps_is_not(
    opened, take_part, tmp_path
):
    run = opened(**ALONE, num_rounds=1, keep_updates=1)
    driver = drive(run.lead)
    trainer = Trainer("C1")
    (summary,) = take_part(
        {"C1": run.transport("C1")}, {"C1": trainer}, privacy=PERCENTILE
    ).values()
    driver.join(30)
    assert summary.finished and "none" in summary.privacy
    arrays, _ = tensor_files.load(run.folder / "global" / "round_001.safetensors")
    trained = trainer.returned[1]
    change = {n: np.abs(trained[n].astype(np.float64) - toy.INITIAL[n]) for n in trained}
    values = np.sort(np.concatenate([c.ravel() for c in change.values()]))
    border = values[-int(values.size * 0.25)]
    for name, array in arrays.items():
        expected = np.where(change[name] >= border, trained[name], toy.INITIAL[name])
        np.testing.assert_array_equal(array, expected, err_msg=name)
    assert run.store.models() == {}  # nothing was lent
    (event,) = pushed(run)
    assert event["metrics"] == {}
    own = [e for e in events_of(tmp_path / "journal_C1") if e["event"] == "trained"]
    assert own[0]["metrics"] == {"loss": 1.0}  # the site's own log has them
    assert ledger_of(tmp_path).releases == (Release("none"),)


@pytest.mark.parametrize("transport", ["raw", "deflate", "half"])
def test_an_update_of_percentile_75_takes_at_most_35_per_cent_of_the_full_bytes(
    serving, take_part, tmp_path, transport
):
    """Over gRPC and TLS, counted by the server as the bytes arrive."""
    bulk = 600_000
    values = np.random.default_rng(13).normal(size=bulk).astype(np.float32) / 20
    start = toy.write_initial(tmp_path / "bulk.safetensors", arrays={**toy.INITIAL, "bulk": values})

    class Noisy(Trainer):
        def train(self, weights, round_number):
            rng = np.random.default_rng(round_number)
            return {
                name: (array + rng.normal(size=array.shape) / 1000).astype(np.float32)
                for name, array in weights.items()
            }, {}

    running = serving(**ALONE, start=start, transport=transport, num_rounds=2, keep_updates=2)
    take_part({"C1": running.connect("C1")}, {"C1": Noisy("C1", bulk=bulk)}, privacy=PERCENTILE)
    running.join()
    events = pushed(running)
    assert len(events) == 2
    for event in events:
        assert 0.05 < event["received"] / event["bytes"] <= 0.35, event


def test_the_epsilon_is_told_only_if_the_policy_allows_it(opened, take_part):
    run = opened(**ALONE, num_rounds=2)
    driver = drive(run.lead)
    policy = PrivacyPolicy(**GAUSSIAN, tell_epsilon=True, send_metrics=True)
    take_part({"C1": run.transport("C1")}, {"C1": Trainer("C1")}, privacy=policy)
    driver.join(30)
    told = [event["metrics"] for event in pushed(run)]
    assert [m["loss"] for m in told] == [1.0, 0.5]
    # Noise of 8 norms is 4 times what one patient moves; two releases are one of noise 4 / sqrt(2).
    for number, metrics in enumerate(told, start=1):
        assert delta_of(metrics[EPSILON], 4 / number**0.5) == pytest.approx(1e-5, rel=1e-6)


def test_a_resent_update_has_the_same_bytes_and_costs_nothing(opened, take_part, tmp_path):
    run = opened(**ALONE, num_rounds=1)
    transport, sent = run.transport("C1"), []

    def killed(path, sha256, **about):
        sent.append((sha256, path.read_bytes()))
        raise KeyboardInterrupt

    transport.push = killed
    policy = PrivacyPolicy(**GAUSSIAN)
    first = site_loop.run(Trainer("C1"), transport, tmp_path / "journal_C1", privacy=policy)
    assert not first.finished and "delta 1e-05" in first.privacy

    again, transport = Trainer("C1"), run.transport("C1")
    push = transport.push

    def watched(path, sha256, **about):
        sent.append((sha256, path.read_bytes()))
        return push(path, sha256, **about)

    transport.push = watched
    driver = drive(run.lead)
    take_part({"C1": transport}, {"C1": again}, privacy=policy)
    driver.join(30)
    assert sent[0] == sent[1] and "train 1" not in again.calls
    assert ledger_of(tmp_path).releases == (Release("gaussian", 8.0),)


def killed_before_it_pushes(run):
    """Returns a connection of C1 that ends its program, and the digests that it should push."""
    transport, digests = run.transport("C1"), []

    def killed(path, sha256, **about):
        digests.append(sha256)
        raise KeyboardInterrupt

    transport.push = killed
    return transport, digests


def test_an_update_whose_bytes_are_lost_gets_new_noise_which_counts_again(
    opened, take_part, tmp_path
):
    run = opened(**ALONE, num_rounds=1)
    transport, digests = killed_before_it_pushes(run)
    policy, journal = PrivacyPolicy(**GAUSSIAN), tmp_path / "journal_C1"
    site_loop.run(Trainer("C1"), transport, journal, privacy=policy)
    (journal / "update.safetensors").unlink()  # as after a power cut

    driver = drive(run.lead)
    take_part({"C1": run.transport("C1")}, {"C1": Trainer("C1")}, privacy=policy)
    driver.join(30)
    assert pushed(run)[0]["sha256"] != digests[0]
    assert ledger_of(tmp_path).releases == (Release("gaussian", 8.0),) * 2


def test_a_kill_between_spending_and_the_journal_counts_what_never_left(
    opened, take_part, tmp_path, monkeypatch
):
    run = opened(**ALONE, num_rounds=1)
    policy = PrivacyPolicy(**GAUSSIAN)

    def interrupted(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "keep_update", interrupted)
        site_loop.run(Trainer("C1"), run.transport("C1"), tmp_path / "journal_C1", privacy=policy)
    assert pushed(run) == []
    driver = drive(run.lead)
    take_part({"C1": run.transport("C1")}, {"C1": Trainer("C1")}, privacy=policy)
    driver.join(30)
    assert len(ledger_of(tmp_path).spent) == 2 and len(pushed(run)) == 1


def test_a_spent_budget_stops_the_site_before_it_trains_and_again_after_a_restart(
    opened, take_part, tmp_path
):
    run = opened(**ALONE, num_rounds=3)
    driver = drive(run.lead)
    policy = PrivacyPolicy(**{**GAUSSIAN, "budget": 1.5})  # two rounds cost 1.38, three 1.72
    for rounds in (["train 1", "train 2"], []):
        trainer = Trainer("C1")
        with pytest.raises(errors.PolicyRefused, match=r"budget 1\.5 is spent.*after round 3") as e:
            take_part({"C1": run.transport("C1")}, {"C1": trainer}, privacy=policy)
        assert e.value.exit_code == 77
        assert [call for call in trainer.calls if call.startswith("train")] == rounds
    assert len(pushed(run)) == 2 == len(ledger_of(tmp_path).spent)
    run.lead.stop()
    driver.join(30)


class NoServer:
    """A transport that must not be used."""

    site = "C1"

    def close(self):
        pass


@pytest.fixture
def begun(opened, tmp_path):
    """A site with a policy, stopped before it sent its first update."""
    run = opened(**ALONE)
    transport = run.transport("C1")

    def killed(*given, **about):
        raise KeyboardInterrupt

    transport.push = killed
    policy = PrivacyPolicy(**GAUSSIAN)
    site_loop.run(Trainer("C1"), transport, tmp_path / "journal_C1", privacy=policy)
    return run


@pytest.mark.parametrize("policy", [None, PrivacyPolicy()])
def test_a_site_that_had_a_policy_never_goes_on_without_one(begun, tmp_path, policy):
    with pytest.raises(errors.PolicyRefused, match="and now there is none; give the same"):
        site_loop.run(Trainer("C1"), NoServer(), tmp_path / "journal_C1", privacy=policy)


def test_a_ledger_that_is_gone_is_refused_before_the_server_is_asked(begun, tmp_path):
    shutil.rmtree(tmp_path / "journal_C1" / "privacy")
    with pytest.raises(errors.PolicyRefused, match="the ledger of this run is missing"):
        site_loop.run(
            Trainer("C1"), NoServer(), tmp_path / "journal_C1", privacy=PrivacyPolicy(**GAUSSIAN)
        )


@pytest.mark.parametrize("change", [{"noise": 4.0}, {"budget": 51.0}])
def test_a_weaker_policy_is_refused_and_nothing_is_sent(begun, tmp_path, change):
    policy = PrivacyPolicy(**{**GAUSSIAN, **change})
    with pytest.raises(errors.PolicyRefused, match="never weakened"):
        site_loop.run(Trainer("C1"), begun.transport("C1"), tmp_path / "journal_C1", privacy=policy)
    assert pushed(begun) == []


def test_a_policy_that_begins_in_the_middle_sends_no_unfiltered_update_again(
    opened, take_part, tmp_path
):
    run = opened(**ALONE, num_rounds=1)
    transport, digests = killed_before_it_pushes(run)
    site_loop.run(Trainer("C1"), transport, tmp_path / "journal_C1")
    driver = drive(run.lead)
    (summary,) = take_part(
        {"C1": run.transport("C1")}, {"C1": Trainer("C1")}, privacy=PrivacyPolicy(**GAUSSIAN)
    ).values()
    driver.join(30)
    assert pushed(run)[0]["sha256"] != digests[0]
    assert "none" in summary.privacy  # what may have left before is lost
    assert ledger_of(tmp_path).unfiltered_rounds == 1


def test_a_trainer_that_works_in_place_is_compared_with_what_was_received(opened, take_part):
    class InPlace(Trainer):
        def train(self, weights, round_number):
            for array in weights.values():
                array += np.float32(1)
            return weights, {}

    run = opened(**ALONE, num_rounds=1)
    driver = drive(run.lead)
    policy = PrivacyPolicy(filter="clip", clip_norm=0.3)
    take_part({"C1": run.transport("C1")}, {"C1": InPlace("C1")}, privacy=policy)
    driver.join(30)
    arrays, _ = tensor_files.load(run.folder / "global" / "round_001.safetensors")
    for name, array in toy.INITIAL.items():  # nine values of change 1 have norm 3
        np.testing.assert_allclose(arrays[name] - array, 0.1, rtol=1e-5)


def test_a_rounded_report_never_tells_an_epsilon_that_is_too_small(opened, take_part):
    run = opened(**ALONE, num_rounds=2)
    driver = drive(run.lead)
    policy = PrivacyPolicy(**GAUSSIAN, tell_epsilon=True)
    limits = AnswerLimits(report_digits=1)
    trainer = {"C1": Trainer("C1")}
    take_part({"C1": run.transport("C1")}, trainer, privacy=policy, limits=limits)
    driver.join(30)
    for number, event in enumerate(pushed(run), start=1):
        told = event["metrics"][EPSILON]
        assert delta_of(told, 4 / number**0.5) == pytest.approx(1e-5, rel=1e-6)


def test_noise_beyond_the_range_of_a_secure_sum_stops_the_site_before_it_trains(opened, tmp_path):
    """0.5 + 4 (sqrt(2 ln n) + 1) is above 4 for a model of any size."""
    run = opened(**ALONE)
    transport, trainer = run.transport("C1"), Trainer("C1")
    login = transport.login

    def with_sums(*given):
        sums = SumSettings(threshold=2, max_sites=3, value_range=4.0, fraction_bits=32)
        return dataclasses.replace(login(*given), sums=sums)

    transport.login, transport.signer = with_sums, None
    policy = PrivacyPolicy(**GAUSSIAN)
    with pytest.raises(errors.PolicyRefused, match="secure aggregation takes 4 at most"):
        site_loop.run(trainer, transport, tmp_path / "journal_C1", privacy=policy)
    assert trainer.calls == [] and not ledger_of(tmp_path).exists


def test_a_round_that_the_operator_discards_is_paid_for_again(opened, take_part, tmp_path):
    run = opened(**ALONE, num_rounds=3)
    driver = drive(run.lead)
    transport, discarded = run.transport("C1"), []
    ask = transport.next_task

    def next_task():
        task = ask()
        if (task.kind, task.round) == ("train", 3) and not discarded:
            discarded.append(run.lead.orders.discard_round(2))
            return ask()
        return task

    transport.next_task = next_task
    take_part({"C1": transport}, {"C1": Trainer("C1")}, privacy=PrivacyPolicy(**GAUSSIAN))
    driver.join(30)
    assert [entry.round for entry in ledger_of(tmp_path).spent] == [1, 2, 2, 3]
    digests = {event["round"]: event["sha256"] for event in pushed(run)}
    twice = [event["sha256"] for event in pushed(run) if event["round"] == 2]
    assert len(twice) == 2 and twice[0] != twice[1] == digests[2]  # new noise, and counted


@pytest.mark.parametrize("name", ["journal.json", "ledger.json"])
def test_a_part_of_an_older_backup_is_refused_or_counts_all_the_same(
    opened, take_part, tmp_path, name
):
    run, policy = opened(**ALONE, num_rounds=2), PrivacyPolicy(**GAUSSIAN)
    transport, journal = run.transport("C1"), tmp_path / "journal_C1"
    path = journal / name if name == "journal.json" else journal / "privacy" / name
    older, push = [], transport.push

    def killed_later(*given, **about):
        if older:
            raise KeyboardInterrupt
        older.append(path.read_bytes())
        return push(*given, **about)

    transport.push = killed_later
    driver = drive(run.lead)
    site_loop.run(Trainer("C1"), transport, journal, privacy=policy)
    assert [entry.round for entry in ledger_of(tmp_path).spent] == [1, 2]
    path.write_bytes(older[0])  # from round 1
    again = {"C1": Trainer("C1")}
    if name == "ledger.json":
        with pytest.raises(errors.PolicyRefused, match=r"ends with round 1, but.* round 2"):
            take_part({"C1": run.transport("C1")}, again, privacy=policy)
        run.lead.stop()
    else:
        take_part({"C1": run.transport("C1")}, again, privacy=policy)
        assert [entry.round for entry in ledger_of(tmp_path).spent] == [1, 2, 2]
    driver.join(30)

import contextlib
import dataclasses
import json
import math
import os

import pytest

from federated import errors
from federated.rounds.sum_phases import MAX_EXCHANGES, PHASES, Exchange
from federated.secure_aggregation import participant
from federated.server import sums
from federated.server.config import ServerConfig
from federated.storage.store import Store
from federated.tensors import tensor_files
from federated.wire.messages import SumPlace, SumPost
from tests.federated import masked_site, toy
from tests.federated.masked_site import SETTINGS, MaskedSite, in_phase

NAMES = ("C1", "C2", "C3")


@pytest.fixture(autouse=True)
def without_syncing(monkeypatch):
    """Disables syncing, which takes half of the time; these tests do not concern power cuts."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def run(opened, clock):
    clock.now = masked_site.now()
    run = opened(**SETTINGS)
    run.store._database.execute("PRAGMA synchronous=OFF")
    return run


@pytest.fixture
def sites(run, tmp_path):
    return [MaskedSite(name, run.transport(name), tmp_path / "sites") for name in NAMES]


def events(run, kind):
    lines = (run.folder / "events.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["event"] == kind]


def model(run, number):
    return tensor_files.load(run.folder / "global" / f"round_{number:03d}.safetensors")[0]


def finish(run, sites):
    for kind in ("train", "share", "mask", "consent", "reveal"):
        for site in sites:
            site.do(only=kind)
        run.lead.advance()


def check(run, number, names=NAMES):
    masked_site.assert_model(
        model(run, number), masked_site.expected(model(run, number - 1), names, number)
    )


def test_a_round_gives_the_weighted_mean_and_logs_what_it_did(run, sites):
    for number in (1, 2):
        finish(run, sites)
        check(run, number)
        line = events(run, "aggregated")[-1]
        assert line["secure_aggregation"] == {"threshold": 2, "exchange": 1, "dropped": []}
        assert line["sites"] == toy.EXAMPLES
    assert not run.store.sums.parts(2, "reveal"), "the shares of a closed round are kept"
    assert list((run.folder / "spool").iterdir()) == []
    assert all(line["change"] is None for line in events(run, "pushed"))


@pytest.mark.parametrize("phase", ["share", "mask", "consent", "reveal"])
def test_a_site_may_drop_out_in_every_phase(run, sites, phase, clock):
    in_phase(run, sites, phase)
    stay = [site for site in sites if site.name != "C2"]
    for kind in PHASES[PHASES.index(phase) :]:
        for site in stay:
            assert site.do(only=kind) == kind
        run.lead.advance()
        if kind == phase and kind != "reveal":
            assert not events(run, "aggregated")
            clock.now += run.config.secure_aggregation_deadline_s
            run.lead.advance()
    counted = ["C1", "C3"] if phase in ("share", "mask") else list(NAMES)
    check(run, 1, counted)
    line = events(run, "aggregated")[0]
    assert line["secure_aggregation"]["dropped"] == [name for name in NAMES if name not in counted]
    assert line["sites"].keys() == set(counted)
    # The site that was away goes on with the next round, from the model without it.
    finish(run, sites)
    check(run, 2)


@pytest.mark.parametrize("phase", ["share", "mask"])
def test_sites_that_demand_three_wait_for_the_one_that_dropped_out(run, phase, clock, tmp_path):
    sites = [
        MaskedSite(name, run.transport(name), tmp_path / "sites", min_sum_sites=3) for name in NAMES
    ]
    in_phase(run, sites, phase)
    stay = [site for site in sites if site.name != "C2"]
    for site in stay:
        site.do(only=phase)
    following = PHASES[PHASES.index(phase) + 1]
    for _ in range(2):  # the phase that C2 misses, and the one in which nobody does anything
        clock.now += run.config.secure_aggregation_deadline_s
        run.lead.advance()
        for site in stay if not events(run, "sum_given_up") else ():
            with pytest.raises(errors.StaleUpdate, match="takes part in sums of 3 or more"):
                site.do(only=following)
    (line,) = events(run, "sum_given_up")
    assert (line["phase"], line["sites"]) == (following, [])
    finish(run, sites)
    check(run, 1)
    assert events(run, "aggregated")[0]["secure_aggregation"] == {
        "threshold": 2,
        "exchange": 2,
        "dropped": [],
    }


@pytest.mark.parametrize("phase", ["share", "consent"])
def test_too_few_sites_give_the_exchange_up_and_the_round_is_done_again(run, sites, phase, clock):
    in_phase(run, sites, phase)
    sites[0].do(only=phase)
    run.lead.advance()
    clock.now += run.config.secure_aggregation_deadline_s
    run.lead.advance()
    (line,) = events(run, "sum_given_up")
    assert (line["round"], line["exchange"], line["phase"]) == (1, 1, phase)
    assert line["sites"] == ["C1"] and "2 are needed" in line["reason"]
    assert list((run.folder / "spool").iterdir()) == []
    before = {site.name: site.masking._me for site in sites}
    finish(run, sites)
    check(run, 1)
    assert events(run, "aggregated")[0]["secure_aggregation"]["exchange"] == 2
    for site in sites:
        assert site.masking._me.masking != before[site.name].masking, "the keys were used again"
        assert site.masking._me.self_secret != before[site.name].self_secret


def test_the_server_may_be_killed_in_every_phase(opened, sites):
    for kind in ("train", "share", "mask", "consent", "reveal"):
        sites[0].do(only=kind)
        again = opened(**SETTINGS)
        for site in sites:
            site.transport = again.transport(site.name)
            site.login()
        for site in sites:
            site.do(only=kind)
        again.lead.advance()
    check(again, 1)
    assert events(again, "sum_given_up") == []
    done = [task.kind for task in sites[0].asked]
    assert done == ["train", "share", "mask", "consent", "reveal"], "something was done twice"


@pytest.mark.parametrize("phase", ["share", "mask", "consent", "reveal"])
def test_the_time_in_which_the_server_was_away_ends_no_phase(opened, phase, clock, tmp_path):
    clock.now = masked_site.now()
    settings = {**SETTINGS, "round_deadline_s": 1e6}
    run = opened(**settings)
    sites = [MaskedSite(name, run.transport(name), tmp_path / "sites") for name in NAMES]
    in_phase(run, sites, phase)
    sites[0].do(only=phase)
    clock.now += 10 * run.config.secure_aggregation_deadline_s
    again = opened(**settings)
    for site in sites:
        site.transport = again.transport(site.name)
        site.login()
    again.lead.advance()
    assert again.lead._run.exchange.phase == phase and events(again, "sum_given_up") == []
    finish(again, sites)
    check(again, 1)


def test_an_operator_hears_of_a_round_that_is_begun_again_and_again(run, sites, clock):
    assert run.lead.orders.hindrance() == ""
    run.store.sums.advance(1, Exchange(4, clock.now))
    run.lead._run.reopen()
    assert "round 1 is in exchange 4" in run.lead.orders.hindrance()


@pytest.mark.parametrize("phase", ["train", "mask", "consent"])
def test_an_evicted_site_is_not_waited_for(run, sites, phase):
    in_phase(run, sites, phase)
    run.lead.orders.evict("C2")
    stay = [site for site in sites if site.name != "C2"]
    if phase == "train":
        for site in stay:
            site.do(only="train")
        run.lead.advance()
        assert run.lead._run.exchange.phase == "keys"  # three are needed
        run.lead.orders.readmit("C2")
        sites[1].login()
        finish(run, sites)
        check(run, 1)
        return
    for kind in PHASES[PHASES.index(phase) :]:
        for site in stay:
            site.do(only=kind)
        run.lead.advance()
    if phase in ("share", "mask"):
        check(run, 1, ("C1", "C3"))
    else:  # its update is in the sum that the others agreed to
        (line,) = events(run, "sum_given_up")
        assert "C2 was evicted" in line["reason"]
        assert not events(run, "aggregated")


def test_a_discarded_round_is_done_again_with_fresh_keys(run, sites):
    finish(run, sites)
    before = {site.name: site.masking._me for site in sites}
    in_phase(run, sites, "mask")
    run.lead.orders.discard_round(1)
    finish(run, sites)
    check(run, 1)
    for site in sites:
        assert site.masking._me.place == SumPlace(1, 1, 1)
        assert site.masking._me.masking != before[site.name].masking


def test_a_pause_stops_the_clocks_of_a_phase(run, sites, clock):
    in_phase(run, sites, "share")
    run.lead.orders.pause()
    assert [site.do() for site in sites] == ["wait"] * 3
    clock.now += 10 * run.config.secure_aggregation_deadline_s
    for site in sites:
        site.transport.heart_beat()
    run.lead.advance()
    run.lead.orders.resume()
    run.lead.advance()
    assert events(run, "sum_given_up") == []
    finish(run, sites)
    check(run, 1)


def test_keys_that_do_not_come_in_time_begin_another_attempt(opened, clock, tmp_path):
    clock.now = masked_site.now()
    run = opened(**{**SETTINGS, "round_deadline_s": 100.0})
    sites = [MaskedSite(name, run.transport(name), tmp_path / "sites") for name in NAMES]
    for site in sites[:2]:
        site.do(only="train")
    run.lead.advance()
    clock.now += 101
    run.lead.advance()
    assert [line["attempt"] for line in events(run, "round_expired")] == [2]
    sites[2].do(only="train")  # the keys of the others still count
    run.lead.advance()
    assert run.lead._run.exchange.phase == "share"
    finish(run, sites)
    check(run, 1)


def posted(run, site, phase):
    """Returns what a site sends in a phase, which it has not done yet."""
    task = site.task()
    assert task.kind == ("train" if phase == "keys" else phase)
    if phase == "keys":
        return site.masking.keys(task, site.plain(task.round))
    place = SumPlace(task.discarded, task.round, task.exchange)
    return site.masking.part(task, site.transport.ask_sum(phase, place))


def changed(post):
    """Yields posts that no other site could use."""
    if post.phase == "keys":
        for field in ("sealing_key", "masking_key", "certificate", "signature"):
            for value in (b"", b"\x01" * 32, bytes(100_000)):
                yield dataclasses.replace(
                    post, keys=dataclasses.replace(post.keys, **{field: value})
                )
        yield dataclasses.replace(post, keys=None)
        yield dataclasses.replace(post, keys=dataclasses.replace(post.keys, site="C2"))
        yield dataclasses.replace(post, consent=b"1")
    elif post.phase == "share":
        yield dataclasses.replace(post, commitment=b"")
        yield dataclasses.replace(post, shares={})
        yield dataclasses.replace(post, shares={**post.shares, "C1": bytes(160)})
        yield dataclasses.replace(post, shares={**post.shares, "C2": bytes(159)})
        yield dataclasses.replace(post, self_masks={"C1": bytes(66)})
    elif post.phase == "consent":
        yield dataclasses.replace(post, consent=b"")
        yield dataclasses.replace(post, consent=bytes(10_000))
        yield dataclasses.replace(post, shares={"C2": b""})
    else:
        yield dataclasses.replace(post, shares={"C2": bytes(160)})
        yield dataclasses.replace(post, self_masks={**post.self_masks, "C9": bytes(66)})
        yield dataclasses.replace(post, self_masks={**post.self_masks, "C2": bytes(65)})
        yield dataclasses.replace(post, mask_keys={"C2": bytes(66)})


@pytest.mark.parametrize("phase", ["keys", "share", "consent", "reveal"])
def test_parts_that_no_site_could_use_are_refused_and_the_round_goes_on(run, sites, phase):
    in_phase(run, sites, "train" if phase == "keys" else phase)
    post = posted(run, sites[0], phase)
    for bad in changed(post):
        with pytest.raises(errors.UpdateRefused):
            sites[0].transport.post_sum(bad)
    place = post.place
    for other in (
        dataclasses.replace(place, exchange=2),
        dataclasses.replace(place, round=2),
        dataclasses.replace(place, discarded=1),
    ):
        with pytest.raises(errors.StaleUpdate):
            sites[0].transport.post_sum(dataclasses.replace(post, place=other))
    for unknown in ("mask", "x" * 60_000, "\x1b[2J"):
        with pytest.raises((errors.StaleUpdate, errors.UpdateRefused)) as caught:
            sites[0].transport.post_sum(SumPost(unknown, place))
        assert str(caught.value).isprintable() and len(str(caught.value)) < 300
    sites[0].transport.post_sum(post)
    sites[0].transport.post_sum(post)  # a lost reply does no harm
    for kind in ("train", "share", "mask", "consent", "reveal"):
        for site in sites:
            site.do(only=kind)
        run.lead.advance()
    check(run, 1)


def test_a_site_cannot_take_back_what_it_sent(run, sites):
    first = posted(run, sites[0], "keys")
    sites[0].transport.post_sum(first)
    other = participant.begin(sites[0].transport.signer(), sites[0].masking._me.context, "update")
    with pytest.raises(errors.StaleUpdate, match="sent something else before"):
        sites[0].transport.post_sum(other.post("keys", keys=other.keys))


def test_an_update_that_is_not_masked_is_refused_before_its_bytes(run, sites):
    in_phase(run, sites, "mask")
    plain = sites[0].plain(1)
    with pytest.raises(errors.UpdateRefused, match="is not masked"):
        sites[0].transport.push(
            plain.update, plain.sha256, round_number=1, num_examples=30, metrics={}
        )


def test_a_masked_update_counts_in_its_phase_and_exchange_only(run, sites, clock):
    in_phase(run, sites, "mask")
    for site in sites[:2]:
        site.do(only="mask")
    run.lead.advance()
    late = sites[2]
    task, plain = late.task(), late.plain(1)
    place = SumPlace(task.discarded, task.round, task.exchange)
    sha256 = late.masking.mask(task, late.transport.ask_sum("mask", place), plain)
    clock.now += run.config.secure_aggregation_deadline_s
    run.lead.advance()
    with pytest.raises(errors.StaleUpdate, match="'C3' is at 'mask' of exchange 1"):
        late.push(task, plain, sha256)
    with pytest.raises(errors.StaleUpdate):
        late.transport.ask_sum("mask", place)


def lie(site, post):
    """Sends a wrong share of the self mask of C3."""
    bad = {**post.self_masks, "C3": post.self_masks["C2"]}
    site.transport.post_sum(dataclasses.replace(post, self_masks=bad))


def test_a_site_that_reveals_wrong_shares_is_named_and_the_others_open_the_sum(run, sites):
    in_phase(run, sites, "reveal")
    lie(sites[0], posted(run, sites[0], "reveal"))
    sites[1].do(only="reveal")
    run.lead.advance()
    (line,) = events(run, "sum_not_opened")
    assert "'C3' that C1, C2 revealed do not fit" in line["reason"]
    assert run.lead.advance() > 0, "it tries again without more shares"
    assert len(events(run, "sum_not_opened")) == 1
    sites[2].do(only="reveal")
    run.lead.advance()
    check(run, 1)
    (line,) = events(run, "sum_wrong_shares")
    assert (line["round"], line["exchange"], line["sites"]) == (1, 1, ["C1"])
    assert events(run, "sum_given_up") == []
    finish(run, sites)
    check(run, 2)


@pytest.mark.parametrize("how", ["deadline", "all"])
def test_shares_that_do_not_open_the_sum_give_the_exchange_up(run, sites, clock, how):
    in_phase(run, sites, "reveal")
    for site in sites[:2]:
        lie(site, posted(run, site, "reveal"))
    run.lead.advance()
    assert events(run, "sum_given_up") == []
    if how == "all":
        sites[2].do(only="reveal")
    else:
        clock.now += run.config.secure_aggregation_deadline_s
    run.lead.advance()
    (line,) = events(run, "sum_given_up")
    assert "shares of site 'C3'" in line["reason"]
    finish(run, sites)  # the sites help again, to open the very same sum
    check(run, 1)


@pytest.mark.parametrize("killed", [False, True])
def test_a_sum_that_may_have_been_opened_is_tried_again_with_the_same_sites(
    opened, run, sites, clock, killed
):
    in_phase(run, sites, "mask")
    for site in sites[:2]:  # C3 drops out, and comes back for the next exchange
        site.do(only="mask")
    run.lead.advance()
    clock.now += run.config.secure_aggregation_deadline_s
    run.lead.advance()
    for site in sites[:2]:
        site.do(only="consent")
    run.lead.advance()
    for site in sites[:2]:
        post = posted(run, site, "reveal")
        bad = {"C1": post.self_masks["C2"], "C2": post.self_masks["C1"]}
        site.transport.post_sum(dataclasses.replace(post, self_masks=bad))
    run.lead.advance()
    assert len(events(run, "sum_given_up")) == 1
    if killed:
        run = opened(**SETTINGS)
        for site in sites:
            site.transport = run.transport(site.name)
            site.login()
    finish(run, sites)
    check(run, 1, ("C1", "C2"))
    assert events(run, "aggregated")[0]["secure_aggregation"]["dropped"] == ["C3"]
    finish(run, sites)
    check(run, 2)


def test_the_keys_of_a_site_whose_sum_may_be_open_are_waited_for_a_while(run, sites, clock):
    again = frozenset({"C1", "C9"})  # C9 is heard, and slow
    run.lead._run.exchange = dataclasses.replace(run.lead._run.exchange, again=again)
    for site in sites:
        site.do(only="train")
    assert 0 < run.lead.advance() <= run.config.secure_aggregation_deadline_s
    assert run.lead._run.exchange.phase == "keys"
    clock.now += run.config.secure_aggregation_deadline_s
    run.lead.advance()
    assert run.lead._run.exchange.members == set(NAMES)


def test_a_restart_tries_again_to_open_a_sum_that_could_not_be_opened(opened, run, sites):
    in_phase(run, sites, "reveal")
    lie(sites[0], posted(run, sites[0], "reveal"))
    sites[1].do(only="reveal")
    run.lead.advance()
    again = opened(**SETTINGS)
    again.lead.advance()
    assert events(again, "sum_given_up") == []
    sites[2].transport = again.transport("C3")
    sites[2].login()
    sites[2].do(only="reveal")
    again.lead.advance()
    check(again, 1)


def test_one_site_that_seals_rubbish_for_another_stops_neither(run, sites):
    in_phase(run, sites, "share")
    post = posted(run, sites[2], "share")
    sites[2].transport.post_sum(dataclasses.replace(post, shares={**post.shares, "C1": bytes(160)}))
    finish(run, sites)
    assert sites[0].masking.unreadable == ("C3",)
    if not events(run, "aggregated"):  # C1 and C2 came first, and C1 has no share of C3
        sites[2].do(only="reveal")
        run.lead.advance()
    check(run, 1)


def test_a_site_that_is_evicted_after_the_agreement_stays_in_the_sum(run, sites):
    in_phase(run, sites, "reveal")
    run.lead.orders.evict("C2")
    for site in (sites[0], sites[2]):
        site.do(only="reveal")
    run.lead.advance()
    check(run, 1)
    assert events(run, "sum_given_up") == []
    assert run.lead._run.round.number == 2 and run.lead.orders.standing("C2") == "evicted"


def test_a_round_of_which_two_sums_are_asked_is_not_opened_twice(run, sites, clock):
    """The operator evicts a site and goes back: the difference would be that site's update."""
    finish(run, sites)
    run.lead.orders.evict("C3")
    run.lead.orders.discard_round(1)
    run.lead.orders.readmit("C3")
    sites[2].login()
    in_phase(run, sites, "mask")
    for site in sites[:2]:  # C3 drops out
        site.do(only="mask")
    run.lead.advance()
    clock.now += run.config.secure_aggregation_deadline_s
    run.lead.advance()
    with pytest.raises(errors.PolicyRefused, match=r"C1, C2 in round 1, after that of C1, C2, C3"):
        sites[0].do(only="consent")


def test_keys_that_another_site_has_are_refused_when_they_come(run, sites):
    post = posted(run, sites[0], "keys")
    sites[0].transport.post_sum(post)
    signer, context = sites[1].transport.signer(), sites[0].masking._me.context
    copied = signer.keys(context, post.keys.sealing_key, post.keys.masking_key)
    with pytest.raises(errors.UpdateRefused, match=r"site 'C2' .* a key that comes twice"):
        sites[1].transport.post_sum(dataclasses.replace(post, keys=copied))
    finish(run, sites)
    check(run, 1)


def test_keys_of_one_site_too_many_are_refused(run, sites, clock):
    """As when a site was evicted, another came in its place, and it was admitted again."""
    done = dict.fromkeys(("C4", "C5", "C6"), clock.now)
    run.lead._run.exchange = dataclasses.replace(run.lead._run.exchange, done=done)
    with pytest.raises(errors.StaleUpdate, match="has the keys of its 3 sites, site 'C2'"):
        sites[1].do(only="train")


def test_after_the_last_exchange_that_sites_follow_the_run_is_paused(run, sites, clock):
    last = Exchange(MAX_EXCHANGES, clock.now)
    run.store.sums.advance(1, last)
    run.lead._run.reopen()
    in_phase(run, sites, "share")
    clock.now += run.config.secure_aggregation_deadline_s
    assert run.lead.advance() is None and run.store.paused
    assert events(run, "paused")[0]["exchange"] == MAX_EXCHANGES
    run.lead.orders.resume()
    run.lead.advance()
    finish(run, sites)
    check(run, 1)


def test_an_update_that_the_disk_has_changed_gives_the_exchange_up(run, sites):
    in_phase(run, sites, "reveal")
    path = next((run.folder / "spool").iterdir())
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    finish(run, sites)
    (line,) = events(run, "sum_given_up")
    assert "the disk has changed" in line["reason"]
    finish(run, sites)
    check(run, 1)


def test_a_site_of_a_release_without_masks_is_turned_away_with_the_releases(run):
    with pytest.raises(errors.VersionDiffers, match=r"this server \(release .*earlier release"):
        run.lead.login("C1", "secret of C1", toy.PLAN, 30)
    for masking in (2, -1):
        with pytest.raises(errors.VersionDiffers, match=f"version {masking}"):
            run.lead.login("C1", "secret of C1", toy.PLAN, 30, masking=masking)


def test_a_site_with_more_cases_than_the_sum_can_hold_is_turned_away(run):
    most = 2**63 // (3 * 64 * 2**32)
    with pytest.raises(errors.UpdateRefused, match="training cases; with secure aggregation"):
        run.lead.login("C1", "secret of C1", toy.PLAN, most + 1, masking=1)


def test_the_store_keeps_what_the_run_began_with(tmp_path, initial):
    def open_run(folder, **settings):
        config = ServerConfig(num_rounds=3, **settings)
        with contextlib.closing(Store(tmp_path / folder)) as store:
            store.open_run(
                initial,
                policy=config.policy,
                local_epochs=config.local_epochs,
                sums=None if config.sums is None else vars(config.sums),
            )

    plain = {"min_num_clients": 3, "max_num_clients": 3}
    secure = {name: value for name, value in SETTINGS.items() if name != "poll_s"}
    open_run("secure", **secure)
    open_run("secure", **secure)
    with pytest.raises(errors.DifferentRun, match="secure_aggregation: the store has"):
        open_run("secure", **plain)
    with pytest.raises(errors.DifferentRun, match="secure_aggregation"):
        open_run("secure", **{**secure, "secure_aggregation_range": 1.0})
    open_run("plain", **plain)
    with pytest.raises(errors.DifferentRun, match="secure_aggregation"):
        open_run("plain", **secure)


def test_without_an_authority_there_are_no_sums(run):
    with pytest.raises(ValueError, match="certificate of the federation's authority"):
        sums.Sums(run.lead._run, None)
    assert math.isfinite(run.config.secure_aggregation_range)


def test_a_server_without_secure_aggregation_takes_no_parts(opened):
    run = opened(min_num_clients=1, max_num_clients=1)
    transport = run.transport("C1")
    transport.login(toy.PLAN, 30)
    with pytest.raises(errors.StaleUpdate, match="without secure aggregation"):
        transport.ask_sum("share", SumPlace(0, 1, 1))
    with pytest.raises(errors.StaleUpdate, match="without secure aggregation"):
        transport.post_sum(SumPost("keys", SumPlace(0, 1, 1)))

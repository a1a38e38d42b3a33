import dataclasses
import json
import stat

import numpy as np
import pytest

from federated import errors, simulation
from federated.rounds.tasks import Task
from federated.secure_aggregation import participant, ring
from federated.site.sums.masking import Masking, Plain
from federated.site.sums.sum_terms import SumTerms
from federated.tensors import tensor_files
from federated.wire.messages import SumSettings, SumState
from runkit import private

SETTINGS = SumSettings(2, 3, 64.0, ring.FRACTION_BITS)
NAMES = ("C1", "C2", "C3")
PLACE = {"discarded": 0, "round": 1, "exchange": 1}


@pytest.fixture(scope="module")
def signers(tmp_path_factory):
    return simulation.signers_in(tmp_path_factory.mktemp("certificates"), NAMES)


def task(kind, exchange=1, round_=1, discarded=0):
    return Task(kind, round=round_, discarded=discarded, exchange=exchange)


class Sites:
    """Three sites without a server: each gets what the others sent."""

    def __init__(self, folder, signers):
        self.folder, self.signers = folder, signers
        self.maskings = {site: self.opened(site) for site in NAMES}

    def opened(self, site, settings=SETTINGS, run="run", *, min_sites=2, required=False):
        folder = private.folder(self.folder / site)
        terms = SumTerms(min_sum_sites=min_sites, require_secure_aggregation=required)
        return Masking(folder, run, settings, lambda: self.signers[site], terms=terms)

    def restart(self, site):
        self.maskings[site] = self.opened(site)
        return self.maskings[site]

    def plain(self, site, *, change=0.5, examples=10, values=300_000):
        """Writes a model and an update; large enough for several chunks."""
        model = {"w": np.arange(values, dtype=np.float32) / 1024, "kept": np.float32([5.0])}
        update = {"w": model["w"] + np.float32(change)}
        paths = [self.folder / site / name for name in ("u.safetensors", "m.safetensors")]
        digests = [tensor_files.save(p, a) for p, a in zip(paths, (update, model), strict=True)]
        return Plain(paths[0], digests[0], paths[1], digests[1], examples, frozenset({"w"}))

    def keys(self, exchange=1, **named):
        return [
            self.maskings[site].keys(task("train", exchange), self.plain(site, **named)).keys
            for site in NAMES
        ]

    def shared(self, exchange=1):
        """Returns site to the shares that it sent, after the keys and the shares of all."""
        state = SumState(keys=tuple(self.keys(exchange)))
        return {
            site: self.maskings[site].part(task("share", exchange), state).shares for site in NAMES
        }

    def state(self, shares, site):
        return SumState(shares={by: shares[by][site] for by in NAMES if by != site})


@pytest.fixture
def sites(tmp_path, signers):
    return Sites(tmp_path, signers)


def words(path):
    with tensor_files.TensorFile(path) as file:
        return np.frombuffer(file.read_range(0, file.nbytes), "<u8")


def test_the_masked_updates_add_up_and_each_alone_is_noise(sites):
    shares, total, plains = sites.shared(), 0, []
    for number, site in enumerate(NAMES):
        plain = sites.plain(site)
        masking = sites.maskings[site]
        sha256 = masking.mask(task("mask"), sites.state(shares, site), plain)
        with tensor_files.TensorFile(masking.masked_path) as file:
            assert file.specs == ring.masked_specs(300_000)
            assert tensor_files.file_digest(file) == sha256
        masked = words(masking.masked_path)
        me = masking._me
        own = participant.own_masks(me)[0]
        total = total + masked - participant.masks.words(own.seed, 0, masked.size)
        plains.append(number)
        assert np.unique(masked).size == masked.size
    # Ten cases each, of a change of a half, three times.
    np.testing.assert_array_equal(total, np.full(300_000, 3 * 10 * 2**31, np.uint64))


def test_a_site_that_is_killed_repeats_the_same_bytes(sites):
    first = sites.keys()
    assert [sites.restart(site).keys(task("train"), sites.plain(site)).keys for site in NAMES] == (
        first
    )
    state = SumState(keys=tuple(first))
    posts = {site: sites.maskings[site].part(task("share"), state) for site in NAMES}
    for site in NAMES:
        assert sites.restart(site).part(task("share"), state) == posts[site]
    received = sites.state({site: posts[site].shares for site in NAMES}, "C1")
    masking, plain = sites.maskings["C1"], sites.plain("C1")
    sha256 = masking.mask(task("mask"), received, plain)
    content = masking.masked_path.read_bytes()
    assert sites.restart("C1").mask(task("mask"), received, plain) == sha256
    masking.masked_path.unlink()  # killed before it was written
    assert sites.restart("C1").mask(task("mask"), received, plain) == sha256
    assert masking.masked_path.read_bytes() == content


@pytest.mark.parametrize("other", [{"change": 0.25}, {"examples": 11}])
def test_the_same_masks_are_never_used_for_two_different_updates(sites, other):
    shares = sites.shared()
    masking, changed = sites.restart("C1"), sites.plain("C1", **other)
    with pytest.raises(errors.StaleUpdate, match="used for no other"):
        masking.keys(task("train"), changed)
    with pytest.raises(errors.StaleUpdate, match="used for no other"):
        masking.mask(task("mask"), sites.state(shares, "C1"), changed)
    assert not masking.masked_path.exists()
    before = masking._me.masking
    masking.keys(task("train", exchange=2), changed)
    assert masking._me.masking != before


def test_an_update_whose_file_was_changed_is_not_masked(sites):
    shares, plain = sites.shared(), sites.plain("C1")
    data = bytearray(plain.update.read_bytes())
    data[-1] ^= 1
    plain.update.write_bytes(data)
    with pytest.raises(errors.StaleUpdate, match="was changed"):
        sites.maskings["C1"].mask(task("mask"), sites.state(shares, "C1"), plain)


def test_what_is_on_disk_is_for_this_account_only_and_goes_at_the_end(sites):
    shares = sites.shared()
    masking = sites.maskings["C1"]
    masking.mask(task("mask"), sites.state(shares, "C1"), sites.plain("C1"))
    for path in (masking._path, masking.masked_path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = masking._me.masking.hex()
    assert secret in masking._path.read_text()
    masking.finish()
    assert secret not in masking._path.read_text() and not masking.masked_path.exists()
    assert Masking.began(masking._path.parent, "run")
    assert not Masking.began(masking._path.parent, "other")


def test_a_server_that_goes_back_or_changes_the_rules_is_refused(sites):
    plain = sites.plain("C1")
    masking = sites.maskings["C1"]
    masking.keys(task("train", exchange=2, round_=3), plain)
    for earlier in (task("train", 1, 3), task("train", 5, 2)):
        with pytest.raises(errors.ServerMisbehaves, match="goes back to exchange"):
            masking.keys(earlier, plain)
    with pytest.raises(errors.ServerMisbehaves, match="another global model"):
        masking.keys(task("train", 2, 3), plain._replace(model_sha256="0" * 64))
    with pytest.raises(errors.ServerMisbehaves, match="without an exchange"):
        masking.keys(task("train", exchange=0, round_=4), plain)
    masking.keys(task("train", 1, 1, discarded=1), plain)  # the operator took the run back
    masking.finish()
    with pytest.raises(errors.ServerMisbehaves, match="goes back"):
        sites.restart("C1").keys(task("train", 1, 1, discarded=1), plain)
    with pytest.raises(errors.ServerMisbehaves, match="in the middle of a run"):
        sites.opened("C1", dataclasses.replace(SETTINGS, value_range=1.0))
    with pytest.raises(errors.ServerMisbehaves, match=r"not safe: .* threshold"):
        sites.opened("C1", dataclasses.replace(SETTINGS, threshold=1))


def test_an_exchange_that_this_site_has_not_entered_is_sat_out(sites):
    for kind in ("share", "consent", "reveal"):
        with pytest.raises(errors.StaleUpdate, match="has not entered"):
            sites.maskings["C1"].part(task(kind), SumState())
    with pytest.raises(errors.StaleUpdate, match="has not entered"):
        sites.maskings["C1"].mask(task("mask"), SumState(), sites.plain("C1"))


def test_a_change_that_the_sum_cannot_hold_is_found_before_the_keys(sites):
    with pytest.raises(errors.UpdateRefused, match=r"update of round 1: .* 65; .*64 at most"):
        sites.maskings["C1"].keys(task("train"), sites.plain("C1", change=65.0))
    assert sites.maskings["C1"]._me is None


def test_nothing_is_opened_without_an_agreement_on_disk(sites):
    shares = sites.shared()
    masking = sites.maskings["C1"]
    masking.mask(task("mask"), sites.state(shares, "C1"), sites.plain("C1"))
    both = SumState(survivors=NAMES)
    with pytest.raises(errors.ServerMisbehaves, match="before this site has agreed"):
        masking.part(task("reveal"), both)
    masking.part(task("consent"), both)
    with pytest.raises(errors.ServerMisbehaves, match="after that of C1, C2, C3"):
        sites.restart("C1").part(task("consent"), SumState(survivors=("C1", "C2"), dropped=("C3",)))
    with pytest.raises(errors.ServerMisbehaves, match="self mask and for the masking key of C2"):
        sites.restart("C1").part(task("reveal"), SumState(survivors=NAMES, dropped=("C2",)))


def opened_by(sites, survivors, dropped, exchange=1, discarded=0):
    """Leads the three through an exchange, in the first round; returns what C1 reveals."""
    named = {"exchange": exchange, "discarded": discarded}
    plain = {site: sites.plain(site) for site in NAMES}
    keys = [sites.restart(s).keys(task("train", **named), plain[s]).keys for s in NAMES]
    state = SumState(keys=tuple(keys))
    shares = {s: sites.maskings[s].part(task("share", **named), state).shares for s in NAMES}
    for site in NAMES:
        sites.maskings[site].mask(task("mask", **named), sites.state(shares, site), plain[site])
    about = {"survivors": survivors, "dropped": dropped}
    signed = {
        s: sites.maskings[s].part(task("consent", **named), SumState(**about)).consent
        for s in survivors
    }
    state = SumState(**about, consents=signed)
    return {s: sites.maskings[s].part(task("reveal", **named), state) for s in survivors}


def test_a_server_cannot_subtract_the_sums_of_two_exchanges_of_a_round(sites):
    opened_by(sites, NAMES, ())
    # The same update, under fresh masks, in a sum without C3: one minus the other would be C3's.
    with pytest.raises(errors.StaleUpdate, match=r"C1, C2 in round 1, after that of C1, C2, C3"):
        opened_by(sites, ("C1", "C2"), ("C3",), exchange=2)
    assert sites.restart("C1")._me.survivors == (), "it has agreed to a sum that it will not open"
    posts = opened_by(sites, NAMES, (), exchange=3)  # the same sum tells nothing more
    assert posts["C1"].self_masks.keys() == set(NAMES)
    # Nor after a claim that the operator took the run back.
    with pytest.raises(errors.PolicyRefused, match="--repeated_sums=1"):
        opened_by(sites, ("C1", "C2"), ("C3",), discarded=1)


def test_a_sum_that_was_agreed_to_and_never_opened_may_be_replaced(sites):
    shares = sites.shared()
    for site in NAMES:
        masking = sites.maskings[site]
        masking.mask(task("mask"), sites.state(shares, site), sites.plain(site))
        masking.part(task("consent"), SumState(survivors=NAMES))
    posts = opened_by(sites, ("C1", "C2"), ("C3",), exchange=2)
    assert posts["C2"].mask_keys.keys() == {"C3"}


def test_a_site_sends_nothing_to_a_sum_of_fewer_sites_than_it_demands(sites):
    keys, plain = sites.keys(), sites.plain("C1")
    posts = {
        site: sites.maskings[site].part(task("share"), SumState(keys=tuple(keys))) for site in NAMES
    }
    strict = sites.opened("C1", min_sites=3)
    too_few = "of 2 sites .*, and this site takes part in sums of 3 or more .--min_sum_sites"
    with pytest.raises(errors.StaleUpdate, match=too_few):
        strict.mask(task("mask"), SumState(shares={"C2": posts["C2"].shares["C1"]}), plain)
    assert not strict.masked_path.exists() and strict._me.received == {}
    shares = {site: posts[site].shares for site in NAMES}
    strict.mask(task("mask"), sites.state(shares, "C1"), plain)
    two = SumState(survivors=("C1", "C2"), dropped=("C3",))
    for masking in (strict, sites.opened("C1", min_sites=3)):
        with pytest.raises(errors.StaleUpdate, match=too_few):
            masking.part(task("consent"), two)
        assert masking._me.survivors == ()
    strict.part(task("consent"), SumState(survivors=NAMES))


def test_a_site_that_demands_more_after_it_agreed_does_not_open_the_smaller_sum(sites):
    shares = sites.shared()
    about = {"survivors": ("C1", "C2"), "dropped": ("C3",)}
    for site in NAMES:
        sites.maskings[site].mask(task("mask"), sites.state(shares, site), sites.plain(site))
    signed = {
        site: sites.maskings[site].part(task("consent"), SumState(**about)).consent
        for site in ("C1", "C2")
    }
    with pytest.raises(errors.StaleUpdate, match="this site takes part in sums of 3"):
        sites.opened("C1", min_sites=3).part(task("reveal"), SumState(**about, consents=signed))


def test_a_restart_never_demands_less(sites):
    sites.opened("C1", min_sites=3)
    sites.maskings["C1"] = sites.opened("C1", min_sites=3)
    sites.maskings["C1"].keys(task("train"), sites.plain("C1"))
    for forget in (lambda: None, lambda: Masking.forget(sites.folder / "C1")):
        forget()
        with pytest.raises(errors.PolicyRefused, match=r"is 2, and was 3 .* --min_sum_sites=3"):
            sites.opened("C1", min_sites=2)
    assert sites.opened("C1", run="another", min_sites=2) is not None


def test_the_model_that_a_round_was_trained_from_is_noted_once(sites):
    masking = sites.maskings["C1"]
    assert masking.model_of(task("train")) == ""
    masking.note_model(task("train"), "a" * 64)
    masking.keys(task("train"), sites.plain("C1"))
    masking = sites.restart("C1")
    assert masking.model_of(task("mask")) == "a" * 64 and masking._me is not None
    masking.note_model(task("train", exchange=2), "a" * 64)
    with pytest.raises(errors.ServerMisbehaves, match="another global model than before"):
        masking.note_model(task("train", exchange=2), "b" * 64)
    masking.note_model(task("train", round_=2), "b" * 64)
    masking.note_model(task("train", discarded=1), "c" * 64)
    assert [masking.model_of(task("train", round_=n)) for n in (1, 2)] == ["", ""]
    assert masking.model_of(task("train", discarded=1)) == "c" * 64


def test_secrets_are_forgotten_without_a_server_too(sites):
    masking = sites.maskings["C1"]
    masking.keys(task("train"), sites.plain("C1"))
    secret, folder = masking._me.masking.hex(), masking._path.parent
    masking.masked_path.write_bytes(b"masked")
    Masking.forget(folder)
    assert secret not in masking._path.read_text() and not masking.masked_path.exists()
    with pytest.raises(errors.ServerMisbehaves, match="goes back"):
        sites.restart("C1").keys(task("train"), sites.plain("C1"))
    Masking.forget(folder / "none")  # of a run without secure aggregation


def test_a_site_that_required_masks_does_not_go_on_without(sites):
    sites.opened("C1", required=True)  # from then on
    sites.maskings["C1"].finish()
    sites.opened("C1", required=True)
    with pytest.raises(
        errors.PolicyRefused, match="start it with --require_secure_aggregation and"
    ):
        sites.opened("C1")
    assert sites.opened("C1", run="another") is not None


def test_a_file_that_was_not_written_here_is_named(sites):
    path = sites.maskings["C1"]._path
    for text, message in (
        ("[]", "not what this program writes"),
        (json.dumps({**json.loads(path.read_text()), "participant": {}}), "not what this"),
        (json.dumps({**json.loads(path.read_text()), "min_sites": "3"}), "not what this"),
        (json.dumps({**json.loads(path.read_text()), "min_sites": -1}), "not what this"),
        (json.dumps({**json.loads(path.read_text()), "required": 1}), "not what this"),
        (json.dumps({**json.loads(path.read_text()), "last": 5}), "not what this"),
        (json.dumps({**json.loads(path.read_text()), "last": PLACE | {"round": "1"}}), "not what"),
        (json.dumps({**json.loads(path.read_text()), "model": "abc"}), "not what this"),
        (json.dumps({**json.loads(path.read_text()), "format": 2}), "newer"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            sites.opened("C1")

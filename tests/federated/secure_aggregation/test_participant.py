import dataclasses
import itertools
import json

import pytest

from federated import errors
from federated.secure_aggregation import keys, participant
from federated.secure_aggregation.participant import Participant
from tests.federated.secure_aggregation import exchanges

THREE = ("C1", "C2", "C3")


@pytest.fixture
def three(signers):
    return {site: signers[site] for site in THREE}


@pytest.fixture
def begun(three):
    about = exchanges.context(3)
    return {site: participant.begin(signer, about, "update") for site, signer in three.items()}


@pytest.fixture
def sharing(three):
    return exchanges.shared(three, exchanges.context(3))


@pytest.fixture
def ready(sharing):
    return exchanges.received(sharing, THREE)


def refuses(match, call, *given):
    with pytest.raises(errors.ServerMisbehaves, match=match):
        call(*given)


def share(me, bundles, signers):
    return participant.share(me, bundles, signers["C1"].authority, exchanges.NOW)


def test_a_participant_survives_json_in_every_phase(begun, sharing, ready):
    agreed = participant.consent(ready["C1"], THREE, ())
    for me in (begun["C1"], sharing["C1"], ready["C1"], agreed):
        assert Participant.from_json(json.loads(json.dumps(me.to_json()))) == me
        for secret in (me.masking, me.sealing, me.self_secret):
            assert secret.hex() not in repr(me) and str(secret) not in repr(me)


def test_secrets_are_new_in_every_exchange(three):
    about = exchanges.context(3)
    first, second = (participant.begin(three["C1"], about, "update") for _ in range(2))
    for name in ("sealing", "masking", "self_secret"):
        assert getattr(first, name) != getattr(second, name)
    assert len({first.sealing, first.masking, first.self_secret}) == 3


def test_a_server_that_stands_between_the_sites_is_refused(begun, three, signers, strangers):
    me, bundles = begun["C1"], [each.keys for each in begun.values()]
    own = keys.public_key(keys.new_secret())
    swapped = dataclasses.replace(bundles[1], masking_key=own)
    forged = strangers["C2"].keys(me.context, own, keys.public_key(keys.new_secret()))
    older = participant.begin(three["C2"], exchanges.context(3, exchange=2), "update").keys
    elsewhere = participant.begin(three["C2"], exchanges.context(3, model="cd" * 32), "update").keys
    refuses("are not signed by it", share, me, [bundles[0], swapped, bundles[2]], signers)
    refuses("authority gave no site", share, me, [bundles[0], forged, bundles[2]], signers)
    refuses("not signed by it", share, me, [bundles[0], older, bundles[2]], signers)
    refuses("not signed by it", share, me, [bundles[0], elsewhere, bundles[2]], signers)
    refuses("2 sites; expected 3", share, me, bundles[:2], signers)
    refuses("own keys back", share, me, bundles[1:], signers)
    mine = participant.begin(three["C1"], me.context, "update").keys
    refuses("own keys back", share, me, [mine, *bundles[1:]], signers)
    refuses("own keys back", share, me, [], signers)
    refuses("comes twice", share, me, [*bundles[:2], bundles[1]], signers)


def test_an_exit_code_says_that_the_server_is_at_fault(begun, signers):
    with pytest.raises(errors.ServerMisbehaves) as caught:
        share(begun["C1"], [], signers)
    assert caught.value.exit_code == 76


def test_a_list_that_changes_within_an_exchange_is_refused(sharing, begun, three, signers):
    me = sharing["C1"]
    assert share(me, me.roster, signers) is me
    other = participant.begin(three["C2"], me.context, "update").keys
    refuses("another list", share, me, [me.roster[0], other, me.roster[2]], signers)
    refuses("another list", share, me, me.roster[:2], signers)


def test_shares_are_sealed_once_and_only_their_site_can_open_them(sharing):
    me = sharing["C1"]
    assert participant.shares_post(me) == participant.shares_post(me)
    assert me.shares.keys() == {"C2", "C3"}
    got = participant.receive(
        sharing["C2"], {"C1": me.shares["C2"], "C3": sharing["C3"].shares["C2"]}
    )
    assert got.received.keys() == set(THREE)
    swapped = {"C1": me.shares["C3"], "C3": sharing["C3"].shares["C2"]}
    got = participant.receive(sharing["C2"], swapped)
    assert (got.unreadable, got.received["C1"]) == (("C1",), (b"", b""))


def test_a_share_that_cannot_be_opened_stops_nobody_and_is_not_revealed(sharing, three):
    sent = {by: dict(me.shares) for by, me in sharing.items()}
    sent["C3"]["C1"] = sent["C3"]["C1"][:-1] + bytes([sent["C3"]["C1"][-1] ^ 1])
    ready = {
        site: participant.receive(me, {by: sent[by][site] for by in THREE if by != site})
        for site, me in sharing.items()
    }
    assert [ready[site].unreadable for site in THREE] == [("C3",), (), ()]
    assert Participant.from_json(json.loads(json.dumps(ready["C1"].to_json()))) == ready["C1"]
    for survivors, dropped in ((THREE, ()), (("C1", "C2"), ("C3",))):
        agreed = {s: participant.consent(ready[s], survivors, dropped) for s in ("C1", "C2")}
        signed = {s: participant.consent_post(me, three[s]).consent for s, me in agreed.items()}
        post = participant.reveal_post(agreed["C1"], signed)
        assert {*post.self_masks, *post.mask_keys} == {"C1", "C2"}


def test_shares_of_other_sites_are_refused(sharing, ready):
    me, good = sharing["C1"], {by: sharing[by].shares["C1"] for by in ("C2", "C3")}
    refuses("not on its list", participant.receive, me, {**good, "C9": good["C2"]})
    refuses("not on its list", participant.receive, me, {**good, "C1": good["C2"]})
    refuses("at least", participant.receive, me, {})
    assert participant.receive(ready["C1"], good) is ready["C1"]
    refuses("other sites than before", participant.receive, ready["C1"], {"C2": good["C2"]})


def test_a_server_that_asks_for_both_secrets_of_a_site_is_refused(ready):
    me = ready["C1"]
    refuses("self mask and for the masking key of C2", participant.consent, me, THREE, ("C2",))
    # One after the other: first the sum with C2, and then the sum without it.
    agreed = participant.consent(me, THREE, ())
    assert participant.consent(agreed, THREE, ()) == agreed
    refuses("after that of C1, C2, C3", participant.consent, agreed, ("C1", "C3"), ("C2",))
    without = participant.consent(me, ("C1", "C3"), ("C2",))
    refuses("after that of C1, C3", participant.consent, without, THREE, ())


@pytest.mark.parametrize(
    ("survivors", "dropped"),
    [
        (("C1",), ("C2", "C3")),
        (("C2", "C3"), ("C1",)),
        (("C1", "C2"), ()),
        (("C1", "C2", "C9"), ("C3",)),
        (("C1", "C2", "C2"), ("C3",)),
        ((), THREE),
    ],
)
def test_a_sum_of_too_few_or_of_others_is_refused(ready, survivors, dropped):
    refuses("asks to open a sum of", participant.consent, ready["C1"], survivors, dropped)


def test_nothing_is_revealed_without_the_consent_of_a_threshold(ready, three):
    agreed = {site: participant.consent(me, THREE, ()) for site, me in ready.items()}
    signed = {
        site: participant.consent_post(me, three[site]).consent for site, me in agreed.items()
    }
    me = agreed["C1"]
    post = participant.reveal_post(me, {site: signed[site] for site in ("C1", "C3")})
    assert (post.self_masks.keys(), post.mask_keys) == (set(THREE), {})
    refuses("1 of its sites agreed", participant.reveal_post, me, {"C2": signed["C2"]})
    refuses("0 of its sites", participant.reveal_post, me, {})
    refuses("does not hold", participant.reveal_post, me, {**signed, "C2": signed["C3"]})
    refuses("agreed", participant.reveal_post, me, {**signed, "C9": signed["C3"]})
    other = participant.consent(ready["C2"], ("C2", "C3"), ("C1",))
    split = {"C1": signed["C1"], "C2": participant.consent_post(other, three["C2"]).consent}
    refuses("does not hold", participant.reveal_post, me, split)


def test_no_site_is_ever_in_both_lists_of_what_is_revealed(ready, three):
    for gone in (None, *THREE):
        survivors = [site for site in THREE if site != gone]
        dropped = [gone] if gone else []
        agreed = {site: participant.consent(ready[site], survivors, dropped) for site in survivors}
        signed = {
            site: participant.consent_post(me, three[site]).consent for site, me in agreed.items()
        }
        for me in agreed.values():
            post = participant.reveal_post(me, signed)
            assert not post.self_masks.keys() & post.mask_keys.keys()
            assert {*post.self_masks, *post.mask_keys} == set(THREE)


def test_a_masking_key_that_gives_no_secret_is_refused_before_anything_is_shared(
    three, begun, signers
):
    bad = three["C2"].keys(exchanges.context(3), begun["C2"].keys.sealing_key, bytes(32))
    bundles = [begun["C1"].keys, bad, begun["C3"].keys]
    refuses("list of sites for secure aggregation", share, begun["C1"], bundles, signers)


def test_the_masks_of_all_sites_but_their_own_add_up_to_nothing(ready):
    pairs = [mask for me in ready.values() for mask in participant.own_masks(me)[1:]]
    assert len(pairs) == 6
    assert all(sum(other == mask.opposite() for other in pairs) == 1 for mask in pairs), (
        "a pair's masks do not cancel"
    )
    own = [participant.own_masks(me)[0].seed for me in ready.values()]
    assert len({*own, *(mask.seed for mask in pairs)}) == 6
    assert not any(a == b for a, b in itertools.combinations(own, 2))

import dataclasses

import pytest

from federated import errors
from federated.secure_aggregation import part_checks, participant
from federated.secure_aggregation.keys import SEALED_BYTES
from federated.secure_aggregation.shamir import SHARE_BYTES
from tests.federated.secure_aggregation import exchanges

NAMES = ("C1", "C2", "C3")
CONTEXT = exchanges.context(3)
ALL = frozenset(NAMES)


@pytest.fixture(scope="module")
def three(signers):
    return {site: signers[site] for site in NAMES}


@pytest.fixture(scope="module")
def parts(three):
    """Phase to what C1 sends in it, in an exchange from which C3 drops out before its upload."""
    sharing = exchanges.shared(three, CONTEXT)
    ready = exchanges.received(sharing, NAMES)
    agreed = {s: participant.consent(ready[s], ("C1", "C2"), ("C3",)) for s in ("C1", "C2")}
    consents = {s: participant.consent_post(me, three[s]) for s, me in agreed.items()}
    signed = {site: post.consent for site, post in consents.items()}
    me = sharing["C1"]
    return {
        "known": {site: each.keys for site, each in sharing.items()},
        "keys": me.post("keys", keys=me.keys),
        "share": participant.shares_post(me),
        "consent": consents["C1"],
        "reveal": participant.reveal_post(agreed["C1"], signed),
        "consent of C2": consents["C2"],
    }


@pytest.fixture
def check(signers, parts):
    def call(post, *, done=(), site="C1", known=None):
        two = frozenset({"C1", "C2"})
        part_checks.check_part(
            site,
            post,
            part_checks.Standing(frozenset(done), ALL, two, ALL - two),
            CONTEXT,
            parts["known"] if known is None else known,
            signers["C1"].authority,
            exchanges.NOW,
        )

    return call


@pytest.mark.parametrize("phase", ["keys", "share", "consent", "reveal"])
def test_what_an_honest_site_sends_is_taken_and_nothing_beside_it(check, parts, phase):
    post = parts[phase]
    check(post)
    for field, value in (
        ("keys", parts["keys"].keys),
        ("commitment", b"1"),
        ("shares", {"C2": b"1"}),
        ("consent", b"1"),
        ("self_masks", {"C2": b"1"}),
        ("mask_keys", {"C3": b"1"}),
    ):
        if getattr(post, field) in (None, b"", {}):
            with pytest.raises(errors.UpdateRefused, match="not what that phase needs"):
                check(dataclasses.replace(post, **{field: value}))


def test_shares_are_one_for_each_other_site_and_of_their_size(check, parts):
    post = parts["share"]
    short = {**post.shares, "C2": bytes(SEALED_BYTES - 1)}
    for shares in ({}, {"C2": post.shares["C2"]}, {**post.shares, "C9": post.shares["C2"]}, short):
        with pytest.raises(errors.UpdateRefused):
            check(dataclasses.replace(post, shares=shares))


def test_a_consent_is_the_sites_own_for_this_sum(check, parts):
    for consent in (b"", bytes(10_000), parts["consent of C2"].consent):
        with pytest.raises(errors.UpdateRefused):
            check(dataclasses.replace(parts["consent"], consent=consent))


def test_a_share_may_be_missing_and_none_is_of_the_other_kind(check, parts):
    post = parts["reveal"]
    check(dataclasses.replace(post, self_masks={"C1": post.self_masks["C1"]}, mask_keys={}))
    for change in (
        {"self_masks": {**post.self_masks, "C3": bytes(SHARE_BYTES)}},  # both of C3
        {"mask_keys": {**post.mask_keys, "C2": bytes(SHARE_BYTES)}},
        {"self_masks": {**post.self_masks, "C2": bytes(SHARE_BYTES + 1)}},
        {"mask_keys": {"C3": b""}},
    ):
        with pytest.raises(errors.UpdateRefused):
            check(dataclasses.replace(post, **change))


def test_keys_are_the_sites_own_and_no_other_sites(check, parts, signers):
    post, other = parts["keys"], parts["known"]["C2"]
    for keys in (other, dataclasses.replace(post.keys, signature=other.signature)):
        with pytest.raises(errors.UpdateRefused):
            check(dataclasses.replace(post, keys=keys))
    copied = signers["C1"].keys(CONTEXT, post.keys.sealing_key, other.masking_key)
    with pytest.raises(errors.UpdateRefused, match="also those of another site"):
        check(dataclasses.replace(post, keys=copied))
    check(dataclasses.replace(post, keys=copied), known={})


def test_one_site_too_many_waits(check, parts):
    with pytest.raises(errors.StaleUpdate, match="the keys of its 3 sites, site 'C1'"):
        check(parts["keys"], done=("C4", "C5", "C6"), known={})
    check(parts["keys"], done=("C1", "C5", "C6"), known={})

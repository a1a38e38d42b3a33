import dataclasses
import datetime

import pytest

from federated import simulation
from federated.secure_aggregation import keys
from federated.secure_aggregation.roster import NotSigned, Roster, Signer, verify_keys
from federated.security import certificates
from tests.federated.secure_aggregation import exchanges

CONTEXT = exchanges.context(3)


def bundle(signer, context=CONTEXT):
    public = (keys.public_key(keys.new_secret()) for _ in range(2))
    return signer.keys(context, *public)


@pytest.fixture
def bundles(signers):
    return [bundle(signers[site]) for site in ("C1", "C2", "C3")]


def test_signed_keys_are_accepted(signers, bundles):
    for each in bundles:
        verify_keys(each, CONTEXT, signers["C1"].authority, exchanges.NOW)
    assert Roster.of(bundles[::-1], CONTEXT).sites == ("C1", "C2", "C3")
    assert Roster.of(bundles, CONTEXT).place("C2") == 2


@pytest.mark.parametrize("name", ["operator", "Operator", "server", "authority"])
def test_whoever_runs_the_server_is_no_site_by_the_operators_certificate(tmp_path, name):
    # Made like a site's, by the same authority; so the server could be a majority of three.
    signer = simulation.signers_in(tmp_path, [name])[name]
    with pytest.raises(NotSigned, match="a name that no site has"):
        verify_keys(bundle(signer), CONTEXT, signer.authority, exchanges.NOW)


def test_names_from_a_server_are_short_and_printable_in_messages(signers):
    keys_of = dataclasses.replace(bundle(signers["C1"]), site="\x1b[2J" + "x" * 10_000)
    with pytest.raises(NotSigned) as caught:
        verify_keys(keys_of, CONTEXT, signers["C1"].authority, exchanges.NOW)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


def test_keys_that_the_site_has_not_signed_for_this_exchange_are_refused(signers, strangers):
    authority, good = signers["C1"].authority, bundle(signers["C1"])
    other = bundle(signers["C2"])
    as_c1 = dataclasses.replace(signers["C2"], site="C1")
    for changed, message in (
        (bundle(strangers["C1"]), "authority gave no site"),
        (bundle(as_c1), "certificate of 'C2'"),
        (dataclasses.replace(good, sealing_key=other.sealing_key), "not signed by it"),
        (dataclasses.replace(good, masking_key=other.masking_key), "not signed by it"),
        (dataclasses.replace(good, sealing_key=good.masking_key), "not signed by it"),
        (dataclasses.replace(good, signature=other.signature), "not signed by it"),
        (dataclasses.replace(good, signature=b""), "not signed by it"),
        (dataclasses.replace(good, signature=bytes(10_000)), "not signed by it"),
        (dataclasses.replace(good, sealing_key=b"short"), "not public keys of X25519, 32"),
        (signers["C1"].keys(CONTEXT, good.sealing_key, bytes(32)), "not public keys"),
        (dataclasses.replace(good, certificate=b"none"), "not a certificate"),
        (dataclasses.replace(good, certificate=bytes(10**6)), "not a certificate"),
        (bundle(signers["C1"], exchanges.context(3, exchange=2)), "not signed by it for this"),
        (bundle(signers["C1"], exchanges.context(3, model="cd" * 32)), "global model and exch"),
        (bundle(signers["C1"], exchanges.context(3, threshold=3)), "not signed by it"),
        (bundle(signers["C1"], dataclasses.replace(CONTEXT, run="x")), "not signed by it"),
    ):
        with pytest.raises(NotSigned, match=message):
            verify_keys(changed, CONTEXT, authority, exchanges.NOW)
    late = exchanges.NOW + datetime.timedelta(days=4000)
    with pytest.raises(NotSigned, match="not valid now"):
        verify_keys(good, CONTEXT, authority, late)


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        ("a0 03 02 01 02", "a0 03 02 01 01"),  # the version
        ("2a 86 48 ce 3d 02 01", "2a 86 48 ce 3d 02 05"),  # the kind of key
        ("2a 86 48 ce 3d 03 01 07", "2a 86 48 ce 3d 03 01 47"),  # its curve
        ("55 1d 0e", "55 1d 0f"),  # an extension, which then comes twice
    ],
)
def test_a_certificate_that_nobody_can_read_is_refused_at_both_ends(signers, part, changed):
    good = bundle(signers["C1"])
    certificate = good.certificate.replace(bytes.fromhex(part), bytes.fromhex(changed))
    assert certificate != good.certificate
    keys_of = dataclasses.replace(good, certificate=certificate)
    for check in (
        lambda: verify_keys(keys_of, CONTEXT, signers["C1"].authority, exchanges.NOW),
        lambda: Roster.of([keys_of, bundle(signers["C2"]), bundle(signers["C3"])], CONTEXT),
    ):
        with pytest.raises(NotSigned, match="come with what is not a certificate"):
            check()


def test_the_certificate_of_a_server_signs_no_keys():
    key, authority_key = certificates.new_key(), certificates.new_key()
    authority = certificates.new_authority(authority_key, 1, exchanges.NOW)
    issued = (key.public_key(), authority, authority_key, 1, exchanges.NOW)
    site, server = (
        Signer("C1", key, certificates.issue("C1", *issued, hosts=hosts), authority)
        for hosts in ((), ("localhost",))
    )
    verify_keys(bundle(site), CONTEXT, authority, exchanges.NOW)
    with pytest.raises(NotSigned, match="authority gave no site"):
        verify_keys(bundle(server), CONTEXT, authority, exchanges.NOW)


def test_a_list_that_is_too_short_or_repeats_is_refused(signers, bundles):
    fourth = bundle(signers["C4"])
    for listed, message in (
        (bundles[:2], "2 sites; expected 3 to 3"),
        ([], "0 sites"),
        ([*bundles, fourth], "4 sites; expected 3 to 3"),
        ([bundles[0], bundles[1], bundles[1]], "comes twice"),
        (
            [*bundles[:2], dataclasses.replace(fourth, sealing_key=bundles[0].masking_key)],
            "comes twice",
        ),
        ([*bundles[:2], dataclasses.replace(bundles[1], site="C9")], "comes twice"),
        (
            [*bundles[:2], dataclasses.replace(fourth, certificate=bundles[0].certificate)],
            "one certificate's key",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            Roster.of(listed, CONTEXT)
    few = exchanges.context(8, threshold=5)
    with pytest.raises(ValueError, match="3 sites, fewer than the threshold 5"):
        Roster.of(bundles, few)


def test_a_consent_holds_for_its_sites_and_its_exchange_only(signers, bundles):
    roster, both = Roster.of(bundles, CONTEXT), ("C1", "C2")
    signed = signers["C1"].consent(CONTEXT, roster, both)
    roster.verify_consent("C1", signed, CONTEXT, ("C2", "C1"))
    second = exchanges.context(3, exchange=2)
    for site, context, survivors, signature in (
        ("C2", CONTEXT, both, signed),
        ("C1", CONTEXT, ("C1", "C2", "C3"), signed),
        ("C1", second, both, signed),
        ("C1", CONTEXT, both, bundles[0].signature),
    ):
        with pytest.raises(NotSigned, match=f"consent of site '{site}'"):
            roster.verify_consent(site, signature, context, survivors)
    others = Roster.of([*bundles[:2], bundle(signers["C3"])], CONTEXT)
    with pytest.raises(NotSigned):
        others.verify_consent("C1", signed, CONTEXT, both)


def test_no_private_key_is_in_what_a_site_shows(signers):
    signer = signers["C1"]
    secret = signer.key.private_numbers().private_value.to_bytes(32, "big")
    shown = bundle(signer)
    assert all(secret not in part for part in (shown.certificate, shown.signature))
    assert "key=" not in repr(signer)

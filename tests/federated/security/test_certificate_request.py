import datetime
import errno
import hashlib
import json
import os
import shutil
import ssl
import stat
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization

from federated.admin import client as admin_client
from federated.doctor import local_checks
from federated.errors import CertificateRefused
from federated.security import (
    certificate_request,
    certificates,
    credentials,
    expiry,
    provisioning,
    revocation,
    tls,
)
from federated.site import grpc_transport
from tests import kills


@pytest.fixture
def federation(tmp_path):
    """A federation of one site, C1, whose key the operator made."""
    return provisioning.provision(tmp_path / "federation", "localhost", ("C1",), port=0)


@pytest.fixture
def enrolled(federation, tmp_path):
    """The kit of C2, which made its own key and joined the federation."""
    kit = tmp_path / "C2_kit"
    certificate_request.request(kit, "C2")
    provisioning.add(federation, requests=[kit / "site.csr"])
    certificate_request.install(
        kit, federation / "C2", authority=provisioning.authority_fingerprint(federation)
    )
    return kit


@pytest.fixture
def asked(federation, tmp_path):
    """C2 has made a request, and its answer is in `federation`/C2; returns the kit."""
    certificate_request.request(tmp_path / "asked", "C2")
    provisioning.add(federation, requests=[tmp_path / "asked" / "site.csr"])
    return tmp_path / "asked"


def book(federation):
    return credentials.CredentialBook.read(federation / "server" / "credentials.json")


def secret(kit):
    return (kit / "credential").read_text().strip()


def no_space(descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_no_secret_travels(federation, tmp_path):
    kit = tmp_path / "kit"
    made = certificate_request.request(kit, "C2")
    provisioning.add(federation, requests=[kit / "site.csr"])
    answer = federation / "C2"
    assert sorted(path.name for path in answer.iterdir()) == ["ca.pem", "site.json", "site.pem"]
    sent = (kit / "site.csr").read_text() + "".join(path.read_text() for path in answer.iterdir())
    assert "PRIVATE" not in sent and secret(kit) not in sent
    text = subprocess.run(
        ["openssl", "req", "-in", kit / "site.csr", "-noout", "-text", "-verify"],
        capture_output=True,
        text=True,
    )
    assert (
        made.credential_sha256 in text.stdout and secret(kit) not in text.stdout
    )  # what a security office sees in it
    for private in ("site.key.next", "credential"):
        assert stat.S_IMODE((kit / private).stat().st_mode) == 0o600


def test_the_installed_kit_is_like_any_other(federation, enrolled):
    tls.Identity.of(enrolled, "site")
    book(federation).current().check("C2", secret(enrolled))
    assert sorted(path.name for path in enrolled.iterdir()) == [
        "ca.pem",
        "credential",
        "site.json",
        "site.key",
        "site.pem",
    ]


def test_the_fingerprint_is_what_openssl_says(enrolled):
    digest = tls.fingerprint_of_pem((enrolled / "site.pem").read_bytes())
    shown = subprocess.run(
        ["openssl", "x509", "-in", enrolled / "site.pem", "-noout", "-fingerprint", "-sha256"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown.strip().split("=")[1].replace(":", "").lower() == digest


def test_renewal_by_request_keeps_the_credential_and_the_old_key_until_the_answer_is_in(
    federation, enrolled
):
    before, credential = (enrolled / "site.key").read_bytes(), secret(enrolled)
    certificate_request.request(enrolled, "C2")
    assert (enrolled / "site.key").read_bytes() == before
    tls.Identity.of(enrolled, "site")
    provisioning.add(federation, requests=[enrolled / "site.csr"])
    certificate_request.install(enrolled, federation / "C2")
    assert (enrolled / "site.key").read_bytes() != before and secret(enrolled) == credential
    book(federation).current().check("C2", credential)


def test_the_operator_sees_whether_a_request_renews_or_replaces(federation, enrolled, tmp_path):
    certificate_request.request(enrolled, "C2")
    assert (
        provisioning.meaning(federation, provisioning.read_request_file(enrolled / "site.csr"))
        == "a renewal by the existing site"
    )
    certificate_request.request(tmp_path / "somebody", "C2")
    assert "ANOTHER CREDENTIAL" in provisioning.meaning(
        federation, provisioning.read_request_file(tmp_path / "somebody" / "site.csr")
    )
    assert (
        provisioning.meaning(federation, certificate_request.request(tmp_path / "third", "C3"))
        == "a new site"
    )


def test_an_installation_that_was_killed_can_be_repeated(federation, enrolled, monkeypatch):
    certificate_request.request(enrolled, "C2")
    provisioning.add(federation, requests=[enrolled / "site.csr"])

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(certificate_request.os, "replace", killed)
        certificate_request.install(enrolled, federation / "C2")
    certificate_request.install(enrolled, federation / "C2")
    tls.Identity.of(enrolled, "site")


def test_a_request_and_an_installation_go_on_after_a_kill_at_any_moment(federation, tmp_path):
    """Nothing stays under a temporary name: it might be a key."""

    def made(kit):
        certificate_request.request(kit, "C2")

    for kit in kills.folders(tmp_path, made):
        made(kit)
        assert not list(kit.glob(".partial-*"))
    provisioning.add(federation, requests=[kit / "site.csr"])
    authority = provisioning.authority_fingerprint(federation)

    def install(kit):
        certificate_request.install(kit, federation / "C2", authority=authority)

    for number in range(100):
        other = shutil.copytree(kit, tmp_path / f"other_{number}")
        with kills.before_call(number) as calls:
            install(other)
        if (other / "site.key.next").exists():
            install(other)
        tls.Identity.of(other, "site")
        assert not list(other.glob(".partial-*")) and not (other / "site.csr").exists()
        if len(calls) < number:
            break
    assert number > 10


def test_a_revocation_that_was_killed_leaves_nothing_in_the_kit(federation, enrolled, tmp_path):
    provisioning.revoke(federation, ["server"])
    statement = federation / "authority" / revocation.FILE

    def take(kit):
        return certificate_request.take_revocation(kit, statement)

    for number in range(100):
        kit = shutil.copytree(enrolled, tmp_path / f"kit_{number}")
        with kills.before_call(number) as calls:
            take(kit)
        assert take(kit) == 1
        assert sorted(path.name for path in kit.iterdir()) == sorted(
            [*os.listdir(enrolled), revocation.FILE]
        )
        if len(calls) < number:
            break
    assert number > 3


def test_a_request_that_fails_leaves_the_key_of_the_request_before(federation, asked, monkeypatch):
    """The operator may already have answered the earlier one."""
    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", no_space)
        with pytest.raises(OSError, match="No space left"):
            certificate_request.request(asked, "C2")
    certificate_request.install(
        asked, federation / "C2", authority=provisioning.authority_fingerprint(federation)
    )
    tls.Identity.of(asked, "site")


def test_an_answer_for_another_key_is_refused(federation, tmp_path):
    kit = tmp_path / "kit"
    certificate_request.request(kit, "C2")
    provisioning.add(federation, requests=[kit / "site.csr"])
    (kit / "site.key.next").unlink()
    newest = certificate_request.request(kit, "C2")
    with pytest.raises(
        ValueError,
        match=r"site\.pem: certifies another key than the newest request.*"
        rf"send {kit}/site\.csr .*{certificates.spoken(newest.fingerprint)}",
    ):
        certificate_request.install(kit, federation / "C2")


def test_the_answer_to_another_sites_request_is_refused_by_name(federation, asked, tmp_path):
    certificate_request.request(tmp_path / "kit", "C3")
    with pytest.raises(ValueError, match=r"of site 'C2', the request in .*kit is of 'C3'"):
        certificate_request.install(tmp_path / "kit", federation / "C2")


def test_an_answer_that_is_installed_already_is_named_as_such(federation, enrolled, tmp_path):
    with pytest.raises(ValueError, match=r"C2: is installed in .* already; there is nothing to do"):
        certificate_request.install(enrolled, federation / "C2")
    other = shutil.copytree(federation / "C1", tmp_path / "C1")
    with pytest.raises(ValueError, match=r"waits for no answer.*give the kit that made it"):
        certificate_request.install(enrolled, other)


def test_a_request_is_pending_until_its_answer_is_installed(federation, tmp_path):
    kit = tmp_path / "kit"
    assert certificate_request.pending(kit) is None
    made = certificate_request.request(kit, "C2")
    assert certificate_request.pending(kit) == made
    (kit / "site.csr").write_text("damaged")
    assert certificate_request.pending(kit) is None
    certificate_request.request(kit, "C2")
    provisioning.add(federation, requests=[kit / "site.csr"])
    certificate_request.install(
        kit, federation / "C2", authority=provisioning.authority_fingerprint(federation)
    )
    assert certificate_request.pending(kit) is None


def test_the_request_stays_the_same_until_its_answer_is_installed(federation, asked):
    authority = provisioning.authority_fingerprint(federation)
    sent = (asked / "site.csr").read_bytes()
    told = certificate_request.request(asked, "C2")
    assert (asked / "site.csr").read_bytes() == sent
    assert told == provisioning.read_request_file(asked / "site.csr")
    certificate_request.install(asked, federation / "C2", authority=authority)
    certificate_request.request(asked, "C2")  # a renewal, with a new key
    assert (asked / "site.key.next").read_bytes() != (asked / "site.key").read_bytes()
    assert (asked / "site.csr").read_bytes() != sent


def test_an_answer_is_installed_although_requests_were_killed_and_repeated_meanwhile(
    federation, tmp_path
):
    certificate_request.request(tmp_path / "first", "C2")
    provisioning.add(federation, requests=[tmp_path / "first" / "site.csr"])
    authority = provisioning.authority_fingerprint(federation)
    for number in range(100):
        kit = shutil.copytree(tmp_path / "first", tmp_path / f"kit_{number}")
        with kills.before_call(number) as calls:
            certificate_request.request(kit, "C2")
        certificate_request.request(kit, "C2")
        certificate_request.install(kit, federation / "C2", authority=authority)
        tls.Identity.of(kit, "site")
        if len(calls) < number:
            break
    assert number > 1


def test_what_a_killed_request_left_is_synced_before_the_next_one_relies_on_it(tmp_path):
    """Otherwise a power cut could take the key of a request that was sent."""
    fsync, number = os.fsync, 0
    for kit in kills.folders(tmp_path, lambda kit: certificate_request.request(kit, "C2")):
        synced = set()

        def note(descriptor, to=synced):
            to.add(os.stat(descriptor).st_ino)
            fsync(descriptor)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", note)
            certificate_request.request(kit, "C2")
        assert {kit.stat().st_ino, kit.parent.stat().st_ino} <= synced
        number += 1
    assert number > 10


def test_a_name_that_was_mistyped_is_corrected_with_the_same_key(federation, tmp_path):
    kit = tmp_path / "kit"
    certificate_request.request(kit, "C22")
    key = (kit / "site.key.next").read_bytes()
    assert certificate_request.request(kit, "C2").name == "C2"
    assert (kit / "site.key.next").read_bytes() == key
    provisioning.add(federation, requests=[kit / "site.csr"])
    certificate_request.install(
        kit, federation / "C2", authority=provisioning.authority_fingerprint(federation)
    )


@pytest.mark.parametrize("harmed", ["site.key.next", "site.csr"])
@pytest.mark.parametrize("content", [b"", b"not PEM \xff"])
def test_a_pending_request_that_cannot_be_read_is_made_again(tmp_path, harmed, content):
    kit = tmp_path / "kit"
    certificate_request.request(kit, "C2")
    (kit / harmed).write_bytes(content)
    told = certificate_request.request(kit, "C2")
    key = certificates.load_key((kit / "site.key.next").read_bytes())
    assert told.public_key == key.public_key()


def test_an_answer_with_another_authority_is_refused(federation, tmp_path, other_kits):
    kit = tmp_path / "kit"
    certificate_request.request(kit, "C2")
    provisioning.add(federation, requests=[kit / "site.csr"])
    shutil.copy(other_kits / "C1" / "ca.pem", federation / "C2" / "ca.pem")
    with pytest.raises(ValueError, match=r"was not issued by the authority in ca\.pem beside it"):
        certificate_request.install(kit, federation / "C2")


def colons(digest):
    return ":".join(digest[i : i + 2] for i in range(0, len(digest), 2)).upper()


@pytest.mark.parametrize(
    "said",
    [
        lambda digest: digest,
        colons,
        certificates.spoken,
        lambda d: certificates.spoken(d).replace(" ", "-"),
    ],
)
def test_the_first_answer_is_installed_with_the_authoritys_fingerprint(federation, asked, said):
    digest = hashlib.sha256(
        ssl.PEM_cert_to_DER_cert((federation / "authority" / "ca.pem").read_text())
    ).hexdigest()
    certificate_request.install(asked, federation / "C2", authority=said(digest))
    tls.Identity.of(asked, "site")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (lambda digest: "", "the authority's fingerprint is missing.*telephone.*--authority"),
        (lambda digest: digest[:31], "at least its first 32 digits"),
        (lambda digest: digest[:31] + "g", "is not a fingerprint"),
        (lambda digest: digest + "0", "is not a fingerprint"),
        (
            lambda digest: digest[:31] + ("0" if digest[31] != "0" else "1"),
            "is not the authority with the fingerprint.*changed in transit",
        ),
        (lambda digest: digest[1:33], "is not the authority"),
    ],
    ids=["none", "short", "letters", "long", "another", "shifted"],
)
def test_an_answer_without_the_right_fingerprint_changes_nothing(federation, asked, said, message):
    digest = tls.fingerprint_of_pem((federation / "authority" / "ca.pem").read_bytes())
    before = {path.name: path.read_bytes() for path in asked.iterdir()}
    with pytest.raises(ValueError, match=message):
        certificate_request.install(asked, federation / "C2", authority=said(digest))
    assert {path.name: path.read_bytes() for path in asked.iterdir()} == before


def attackers_answer(kit, folder, **about):
    """Makes an attacker's answer to the request: complete, by an authority of the attacker."""
    forged = provisioning.provision(folder, "attacker.example", (), requests=[kit / "site.csr"])
    name = provisioning.read_request_file(kit / "site.csr").name
    return forged, forged / name


def test_an_answer_forged_on_the_way_is_refused(federation, asked, tmp_path):
    _, answer = attackers_answer(asked, tmp_path / "forged")
    with pytest.raises(ValueError, match="is not the authority with the fingerprint"):
        certificate_request.install(
            asked, answer, authority=provisioning.authority_fingerprint(federation)
        )
    assert not (asked / "ca.pem").exists()


def test_a_renewal_by_another_authority_needs_its_fingerprint_and_a_confirmation(
    enrolled, tmp_path
):
    before = (enrolled / "ca.pem").read_bytes()
    certificate_request.request(enrolled, "C2")
    forged, answer = attackers_answer(enrolled, tmp_path / "forged")
    said = provisioning.authority_fingerprint(forged)
    with pytest.raises(
        ValueError,
        match=r"its authority is not the kit's; "
        r"host is 'attacker\.example', in the kit 'localhost'",
    ):
        certificate_request.install(enrolled, answer)
    with pytest.raises(ValueError, match="--confirm_change"):
        certificate_request.install(enrolled, answer, authority=said)
    with pytest.raises(ValueError, match="give the fingerprint of the new one"):
        certificate_request.install(enrolled, answer, confirm_change=True)
    assert (enrolled / "ca.pem").read_bytes() == before
    certificate_request.install(enrolled, answer, authority=said, confirm_change=True)
    assert (enrolled / "ca.pem").read_bytes() == (forged / "authority" / "ca.pem").read_bytes()
    tls.Identity.of(enrolled, "site")


@pytest.mark.parametrize(("key", "value"), [("host", "attacker.example"), ("port", 4443)])
def test_a_renewal_with_another_address_is_refused_unless_confirmed(
    federation, enrolled, key, value
):
    certificate_request.request(enrolled, "C2")
    provisioning.add(federation, requests=[enrolled / "site.csr"])
    about = json.loads((federation / "C2" / "site.json").read_text())
    (federation / "C2" / "site.json").write_text(json.dumps({**about, key: value}))
    with pytest.raises(ValueError, match=rf"{key} is {value!r}, in the kit .*--confirm_change"):
        certificate_request.install(
            enrolled, federation / "C2", authority=provisioning.authority_fingerprint(federation)
        )
    assert json.loads((enrolled / "site.json").read_text()) == about
    certificate_request.install(enrolled, federation / "C2", confirm_change=True)
    assert json.loads((enrolled / "site.json").read_text()) == {**about, key: value}


def test_an_answer_under_another_name_is_refused(federation, tmp_path):
    """The operator has mixed up sites: the certificate is for this key, but not for this site."""
    kit = tmp_path / "kit"
    certificate_request.request(kit, "C2")
    key = serialization.load_pem_private_key((kit / "site.key.next").read_bytes(), None)
    secret_hash = credentials.hashed(secret(kit))
    (tmp_path / "C9.csr").write_bytes(certificates.new_request("C9", key, secret_hash))
    provisioning.add(federation, requests=[tmp_path / "C9.csr"])
    said = provisioning.authority_fingerprint(federation)
    with pytest.raises(ValueError, match="site is 'C9', the request was made for 'C2'"):
        certificate_request.install(kit, federation / "C9", authority=said)
    (federation / "C9" / "site.json").write_text(
        json.dumps({"site": "C2", "host": "localhost", "port": 1})
    )
    with pytest.raises(ValueError, match="is of site 'C2', the certificate beside it of 'C9'"):
        certificate_request.install(kit, federation / "C9", authority=said)


@pytest.mark.parametrize(
    "about",
    [
        "[]",
        "{}",
        '{"site": "C2", "host": "a b", "port": 1}',
        '{"site": "C2", "host": "a\\u001b[2J", "port": 1}',
    ],
    ids=["list", "empty", "space", "escape"],
)
def test_an_answer_without_a_usable_address_is_refused_by_name(federation, asked, about):
    (federation / "C2" / "site.json").write_text(about)
    with pytest.raises(ValueError, match=r"site\.json: expected"):
        certificate_request.install(
            asked, federation / "C2", authority=provisioning.authority_fingerprint(federation)
        )


def test_another_credential_under_a_known_name_needs_the_operators_consent(
    federation, enrolled, tmp_path
):
    certificate_request.request(tmp_path / "somebody", "C2")
    csr = tmp_path / "somebody" / "site.csr"
    before = json.loads((federation / "server" / "credentials.json").read_text())
    with pytest.raises(
        ValueError, match=r"another credential than site C2 has.*--replace_credential=C2"
    ):
        provisioning.add(federation, requests=[csr])
    with pytest.raises(ValueError, match="another credential"):
        provisioning.add(federation, requests=[csr], replace_credential=["C1"])
    assert json.loads((federation / "server" / "credentials.json").read_text()) == before
    provisioning.add(federation, requests=[csr], replace_credential=["C2"])
    book(federation).current().check("C2", secret(tmp_path / "somebody"))


def test_a_name_that_differs_in_case_only_is_not_a_new_site(federation, enrolled, tmp_path):
    certificate_request.request(tmp_path / "somebody", "c2")
    with pytest.raises(ValueError, match="asks for 'c2', and there is 'C2'"):
        provisioning.add(federation, requests=[tmp_path / "somebody" / "site.csr"])


# Links.


@pytest.mark.parametrize("name", ["credential", "site.key.next", "site.csr"])
def test_a_link_in_a_kit_is_not_followed(federation, asked, tmp_path, name):
    (asked / name).rename(tmp_path / "elsewhere")
    (asked / name).symlink_to(tmp_path / "elsewhere")
    before = (tmp_path / "elsewhere").read_bytes()
    for work in (
        lambda: certificate_request.request(asked, "C2"),
        lambda: certificate_request.install(
            asked, federation / "C2", authority=provisioning.authority_fingerprint(federation)
        ),
    ):
        with pytest.raises(ValueError, match=rf"{name}: is a symbolic link.*put the file itself"):
            work()
    assert (tmp_path / "elsewhere").read_bytes() == before


@pytest.mark.parametrize("name", ["ca.pem", "site.pem", "site.json"])
def test_a_link_in_an_answer_is_not_followed(federation, asked, tmp_path, name):
    (federation / "C2" / name).rename(tmp_path / "elsewhere")
    (federation / "C2" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=rf"{name}: is a symbolic link"):
        certificate_request.install(
            asked, federation / "C2", authority=provisioning.authority_fingerprint(federation)
        )


@pytest.mark.parametrize("name", ["ca.pem", "site.pem", "site.key", "credential", "site.json"])
def test_no_program_of_a_site_follows_a_link_in_its_kit(federation, enrolled, tmp_path, name):
    (enrolled / name).rename(tmp_path / "elsewhere")
    (enrolled / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=rf"{name}: is a symbolic link"):
        grpc_transport.connect(enrolled, port=1)
    with pytest.raises(ValueError, match=rf"{name}: is a symbolic link"):
        admin_client.Kit.read(enrolled, port=1)
    now = datetime.datetime.now(datetime.timezone.utc)
    (finding,) = (f for f in local_checks.check_kit(enrolled, now=now) if f.state == "fault")
    assert name in finding.found and "links are not followed" in finding.remedy


@pytest.mark.parametrize(
    "name",
    [
        "authority",
        "authority/ca.key",
        "server/credentials.json",
        "C1",
        "C1/site.key",
        "operator/credential",
    ],
)
def test_provisioning_does_not_write_through_a_link(federation, tmp_path, name):
    path = federation / name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=rf"{path.name}: is a symbolic link"):
        provisioning.renew(federation, ["server", "operator", "C1"])
    with pytest.raises(ValueError, match="is a symbolic link"):
        provisioning.provision(federation, "localhost", ("C1",), overwrite=True)


def test_a_link_in_place_of_a_request_is_not_followed(federation, asked, tmp_path):
    (tmp_path / "C2.csr").symlink_to(asked / "site.csr")
    with pytest.raises(ValueError, match=r"C2\.csr: is a symbolic link"):
        provisioning.add(federation, requests=[tmp_path / "C2.csr"])


@pytest.mark.parametrize(
    "spoil",
    [lambda pem: b"", lambda pem: pem[:200], lambda pem: pem.replace(b"M", b"N", 1)],
    ids=["empty", "cut", "changed"],
)
def test_a_corrupt_request_is_refused_and_named(federation, tmp_path, spoil):
    certificate_request.request(tmp_path / "kit", "C2")
    path = tmp_path / "C2.csr"
    path.write_bytes(spoil((tmp_path / "kit" / "site.csr").read_bytes()))
    with pytest.raises(ValueError, match=r"C2\.csr: .*make it again"):
        provisioning.add(federation, requests=[path])


def test_a_kit_cannot_become_that_of_another_site(enrolled):
    with pytest.raises(ValueError, match="is the kit of site C2, not of C1"):
        certificate_request.request(enrolled, "C1")


def test_a_request_may_not_ask_for_the_server_or_the_operator(federation, tmp_path):
    key = certificates.new_key()
    for name in ("server", "operator"):
        (tmp_path / "bad.csr").write_bytes(certificates.new_request(name, key, "0" * 64))
        with pytest.raises(ValueError, match=f"'{name}' cannot be used"):
            provisioning.add(federation, requests=[tmp_path / "bad.csr"])


def test_a_revocation_stops_logins_and_certificates_at_once(federation, enrolled):
    server = book(federation)
    digest = tls.fingerprint_of_pem((enrolled / "site.pem").read_bytes())
    server.current().check("C2", secret(enrolled))
    server.current().check_certificate(digest)
    provisioning.revoke(federation, ["C2"])
    with pytest.raises(credentials.WrongCredential):
        server.current().check("C2", secret(enrolled))
    with pytest.raises(CertificateRefused, match="was revoked"):
        server.current().check_certificate(digest)
    assert server.current().sites == ("C1",)
    assert {entry.name: entry.state for entry in provisioning.issued(federation)} == {
        "authority": "valid",
        "server": "valid",
        "operator": "valid",
        "C1": "valid",
        "C2": "revoked",
    }


def test_a_bad_credentials_file_changes_nothing_at_a_running_server(federation):
    server = book(federation)
    (federation / "server" / "credentials.json").write_text("{half a fi")
    assert server.current().sites == ("C1",)
    with pytest.raises(ValueError, match=r"credentials\.json: not valid JSON"):
        book(federation)


def test_kits_made_here_are_renewed_here(federation, enrolled):
    credential, old = secret(federation / "C1"), (federation / "C1" / "site.pem").read_bytes()
    before = json.loads((federation / "server" / "credentials.json").read_text())
    provisioning.renew(federation, ["C1", "server", "operator"], valid_days=10)
    assert (
        secret(federation / "C1") == credential
        and (federation / "C1" / "site.pem").read_bytes() != old
    )
    assert json.loads((federation / "server" / "credentials.json").read_text()) == before
    tls.Identity.of(federation / "server", "server")
    assert expiry.warnings(federation / "C1") == [
        "site.pem: the certificate expires in 10 days; have it renewed"
    ]
    assert expiry.warnings(enrolled) == []
    with pytest.raises(
        ValueError, match="key of 'C2' was not made here; renew the certificate by a new request"
    ):
        provisioning.renew(federation, ["C2"])


def test_a_sites_credential_is_not_the_operators_nor_the_other_way_round(federation):
    server = book(federation)
    server.current().check_operator(secret(federation / "operator"))
    with pytest.raises(credentials.WrongCredential):
        server.current().check_operator(secret(federation / "C1"))
    with pytest.raises(credentials.WrongCredential):
        server.current().check("operator", secret(federation / "operator"))
    provisioning.revoke(federation, ["operator"])
    with pytest.raises(credentials.WrongCredential):
        server.current().check_operator(secret(federation / "operator"))


@pytest.mark.parametrize("earlier_release", [False, True])
def test_a_credential_that_a_full_disk_left_empty_is_made_again(
    federation, tmp_path, monkeypatch, earlier_release
):
    kit = tmp_path / "kit"
    kit.mkdir()
    if earlier_release:
        (kit / "credential").touch()
    else:
        with monkeypatch.context() as disk:
            disk.setattr(os, "fsync", no_space)
            with pytest.raises(
                OSError, match=r"No space left on device; it takes \d+ bytes: .*kit/credential"
            ):
                certificate_request.request(kit, "C9")
        assert not (kit / "credential").exists()
    asked = certificate_request.request(kit, "C9")
    assert len(secret(kit)) > 40 and asked.credential_sha256 == credentials.hashed(secret(kit))

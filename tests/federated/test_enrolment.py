import json
import shutil
import stat
import subprocess

import pytest

from federated import certificates, credentials, enrolment, expiry, provision, tls
from federated.errors import CertificateRefused


@pytest.fixture
def federation(tmp_path):
    """A federation of one site whose key was made at the operator's."""
    return provision.provision(tmp_path / "federation", "localhost", ("C1",), port=0)


@pytest.fixture
def enrolled(federation, tmp_path):
    """C2 makes its own key and is taken in."""
    kit = tmp_path / "C2_kit"
    enrolment.request(kit, "C2")
    provision.add(federation, requests=[kit / "site.csr"])
    enrolment.install(kit, federation / "C2")
    return kit


def book(federation):
    return credentials.CredentialBook.read(federation / "server" / "credentials.json")


def secret(kit):
    return (kit / "credential").read_text().strip()


def test_no_secret_travels(federation, tmp_path):
    kit = tmp_path / "kit"
    made = enrolment.request(kit, "C2")
    provision.add(federation, requests=[kit / "site.csr"])
    answer = federation / "C2"
    assert sorted(path.name for path in answer.iterdir()) == ["ca.pem", "site.json", "site.pem"]
    sent = (kit / "site.csr").read_text() + "".join(path.read_text() for path in answer.iterdir())
    assert "PRIVATE" not in sent and secret(kit) not in sent
    text = subprocess.run(["openssl", "req", "-in", kit / "site.csr", "-noout", "-text", "-verify"], capture_output=True, text=True)
    assert made.credential_sha256 in text.stdout and secret(kit) not in text.stdout  # what a security office sees in it
    for private in ("site.key.next", "credential"):
        assert stat.S_IMODE((kit / private).stat().st_mode) == 0o600


def test_the_installed_kit_is_like_any_other(federation, enrolled):
    tls.Identity.of(enrolled, "site")
    book(federation).check("C2", secret(enrolled))
    assert sorted(path.name for path in enrolled.iterdir()) == ["ca.pem", "credential", "site.json", "site.key", "site.pem"]


def test_the_fingerprint_is_what_openssl_says(enrolled):
    digest = tls.fingerprint_of_pem((enrolled / "site.pem").read_bytes())
    shown = subprocess.run(
        ["openssl", "x509", "-in", enrolled / "site.pem", "-noout", "-fingerprint", "-sha256"], capture_output=True, text=True, check=True
    ).stdout
    assert shown.strip().split("=")[1].replace(":", "").lower() == digest


def test_renewal_by_request_keeps_the_credential_and_the_old_key_until_the_answer_is_in(federation, enrolled):
    before, credential = (enrolled / "site.key").read_bytes(), secret(enrolled)
    enrolment.request(enrolled, "C2")
    assert (enrolled / "site.key").read_bytes() == before
    tls.Identity.of(enrolled, "site")
    provision.add(federation, requests=[enrolled / "site.csr"])
    enrolment.install(enrolled, federation / "C2")
    assert (enrolled / "site.key").read_bytes() != before and secret(enrolled) == credential
    book(federation).check("C2", credential)


def test_the_operator_sees_whether_a_request_renews_or_replaces(federation, enrolled, tmp_path):
    enrolment.request(enrolled, "C2")
    assert provision.meaning(federation, provision.read_request_file(enrolled / "site.csr")) == "a renewal by the site that is there"
    enrolment.request(tmp_path / "somebody", "C2")
    assert "ANOTHER CREDENTIAL" in provision.meaning(federation, provision.read_request_file(tmp_path / "somebody" / "site.csr"))
    assert provision.meaning(federation, enrolment.request(tmp_path / "third", "C3")) == "a new site"


def test_an_install_that_was_killed_half_way_is_repeated(federation, enrolled, monkeypatch):
    enrolment.request(enrolled, "C2")
    provision.add(federation, requests=[enrolled / "site.csr"])

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(enrolment.os, "replace", killed)
        enrolment.install(enrolled, federation / "C2")
    enrolment.install(enrolled, federation / "C2")
    tls.Identity.of(enrolled, "site")


def test_an_answer_to_an_older_request_is_refused(federation, tmp_path):
    kit = tmp_path / "kit"
    enrolment.request(kit, "C2")
    provision.add(federation, requests=[kit / "site.csr"])
    enrolment.request(kit, "C2")
    with pytest.raises(ValueError, match=r"site\.pem: certifies another key than the newest request.*send site\.csr again"):
        enrolment.install(kit, federation / "C2")


def test_an_answer_with_another_authority_is_refused(federation, tmp_path, other_kits):
    kit = tmp_path / "kit"
    enrolment.request(kit, "C2")
    provision.add(federation, requests=[kit / "site.csr"])
    shutil.copy(other_kits / "C1" / "ca.pem", federation / "C2" / "ca.pem")
    with pytest.raises(ValueError, match=r"is not of the authority in ca\.pem beside it"):
        enrolment.install(kit, federation / "C2")


@pytest.mark.parametrize(
    "spoil", [lambda pem: b"", lambda pem: pem[:200], lambda pem: pem.replace(b"M", b"N", 1)], ids=["empty", "cut", "changed"]
)
def test_a_spoilt_request_is_refused_by_name(federation, tmp_path, spoil):
    enrolment.request(tmp_path / "kit", "C2")
    path = tmp_path / "C2.csr"
    path.write_bytes(spoil((tmp_path / "kit" / "site.csr").read_bytes()))
    with pytest.raises(ValueError, match=r"C2\.csr: .*make it again"):
        provision.add(federation, requests=[path])


def test_a_kit_is_not_turned_into_another_sites(enrolled):
    with pytest.raises(ValueError, match="is the kit of site C2, not of C1"):
        enrolment.request(enrolled, "C1")


def test_a_request_may_not_ask_for_the_server_or_the_operator(federation, tmp_path):
    key = certificates.new_key()
    for name in ("server", "operator"):
        (tmp_path / "bad.csr").write_bytes(certificates.new_request(name, key, "0" * 64))
        with pytest.raises(ValueError, match=f"'{name}' cannot be used"):
            provision.add(federation, requests=[tmp_path / "bad.csr"])


def test_revoked_means_no_login_and_no_certificate_at_once(federation, enrolled):
    server = book(federation)
    digest = tls.fingerprint_of_pem((enrolled / "site.pem").read_bytes())
    server.check("C2", secret(enrolled))
    server.check_certificate(digest)
    provision.revoke(federation, ["C2"])
    with pytest.raises(credentials.WrongCredential):
        server.check("C2", secret(enrolled))
    with pytest.raises(CertificateRefused, match="was revoked"):
        server.check_certificate(digest)
    assert server.sites == ("C1",)
    assert {entry.name: entry.state for entry in provision.issued(federation)} == {
        "authority": "valid",
        "server": "valid",
        "operator": "valid",
        "C1": "valid",
        "C2": "revoked",
    }


def test_a_bad_credentials_file_changes_nothing_at_a_running_server(federation):
    server = book(federation)
    (federation / "server" / "credentials.json").write_text("{half a fi")
    assert server.sites == ("C1",)
    with pytest.raises(ValueError, match=r"credentials\.json: not valid JSON"):
        book(federation)


def test_kits_made_here_are_renewed_here(federation, enrolled):
    credential, old = secret(federation / "C1"), (federation / "C1" / "site.pem").read_bytes()
    before = json.loads((federation / "server" / "credentials.json").read_text())
    provision.renew(federation, ["C1", "server", "operator"], valid_days=10)
    assert secret(federation / "C1") == credential and (federation / "C1" / "site.pem").read_bytes() != old
    assert json.loads((federation / "server" / "credentials.json").read_text()) == before
    tls.Identity.of(federation / "server", "server")
    assert expiry.warnings(federation / "C1") == ["site.pem: the certificate ends in 10 days; have it renewed"]
    assert expiry.warnings(enrolled) == []
    with pytest.raises(ValueError, match="key of 'C2' was not made here; renew the certificate by a new request"):
        provision.renew(federation, ["C2"])


def test_the_operators_credential_opens_nothing_of_a_site_and_back(federation):
    server = book(federation)
    server.check_operator(secret(federation / "operator"))
    with pytest.raises(credentials.WrongCredential):
        server.check_operator(secret(federation / "C1"))
    with pytest.raises(credentials.WrongCredential):
        server.check("operator", secret(federation / "operator"))
    provision.revoke(federation, ["operator"])
    with pytest.raises(credentials.WrongCredential):
        server.check_operator(secret(federation / "operator"))

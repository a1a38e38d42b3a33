import base64
import json

import pytest

from federated import errors
from federated.security import credentials
from federated.security.credentials import CredentialBook, Sessions, TokenRecord


class Memory(dict):
    def add_session(self, token_sha256, session, *, now):
        self[token_sha256] = session

    def session(self, token_sha256):
        return self.get(token_sha256)


def site_of(sessions, token, certificate):
    record = sessions.record_of(token)
    sessions.check_bound(record, certificate)
    return record.site


@pytest.fixture
def sessions(clock):
    return Sessions(Memory(), lifetime_s=100.0, clock=clock)


def test_secrets_are_256_bits_and_never_the_same():
    secrets = {credentials.new_secret() for _ in range(50)}
    assert len(secrets) == 50
    assert all(len(base64.urlsafe_b64decode(secret + "=")) == 32 for secret in secrets)


def test_a_token_is_stored_hashed_only(clock):
    memory = Memory()
    token, _ = Sessions(memory, lifetime_s=1.0, clock=clock).open("C1", "cert")
    assert token not in repr(memory)
    assert [len(key) for key in memory] == [64]


def test_a_token_of_another_run_is_unknown_even_in_a_copied_table(clock):
    memory = Memory()
    token, _ = Sessions(memory, lifetime_s=10.0, clock=clock, run="first").open("C1", "cert")
    first, second = (
        Sessions(memory, lifetime_s=10.0, clock=clock, run=run) for run in ("first", "second")
    )
    assert first.record_of(token).site == "C1"
    with pytest.raises(errors.SessionExpired, match="not known here"):
        second.record_of(token)


def test_a_token_of_an_earlier_certificate_of_the_server_is_void(sessions):
    token, _ = sessions.open("C1", "cert", generation=1)
    assert sessions.record_of(token, generation=1).site == "C1"
    for another in (0, 2):
        with pytest.raises(errors.SessionExpired, match="not known here"):
            sessions.record_of(token, generation=another)


def test_a_token_names_its_site_until_it_expires(sessions, clock):
    token, expires_at = sessions.open("C1", "cert")
    assert expires_at == clock.now + 100.0
    clock.now += 99.9
    assert site_of(sessions, token, "cert") == "C1"
    clock.now += 0.1
    with pytest.raises(errors.SessionExpired, match="token of site 'C1' has expired"):
        sessions.record_of(token)


def test_a_token_is_bound_to_the_certificate_it_was_issued_to(sessions):
    token, _ = sessions.open("C1", "cert of C1")
    with pytest.raises(errors.CertificateRefused, match="'C1'"):
        site_of(sessions, token, "cert of C2")


@pytest.mark.parametrize("token", ["", "x", "0" * 43])
def test_a_made_up_token_belongs_to_no_site(sessions, token):
    sessions.open("C1", "")
    with pytest.raises(errors.SessionExpired, match="not known") as caught:
        sessions.record_of(token)
    assert token == "" or token not in str(caught.value).replace("log in", "")


def test_a_wrong_credential_and_an_unknown_site_read_alike():
    book = CredentialBook({"C1": credentials.hashed("right")}).current()
    book.check("C1", "right")
    for site, credential in (("C1", "wrong"), ("C9", "right"), ("C9", ""), ("C1", "")):
        with pytest.raises(
            errors.WrongCredential, match=f"site '{site}' and its credential do not go together"
        ) as caught:
            book.check(site, credential)
        assert "right" not in str(caught.value) and "wrong" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sites": {"C1": "short"}}'])
def test_a_file_that_is_not_a_credential_book_is_named(tmp_path, content):
    (tmp_path / "credentials.json").write_text(content)
    with pytest.raises(ValueError, match=r"credentials\.json"):
        CredentialBook.read(tmp_path / "credentials.json")
    with pytest.raises(ValueError, match=r"none\.json: no such file"):
        CredentialBook.read(tmp_path / "none.json")


def test_a_value_stays_as_it_was_and_the_next_one_has_the_change(tmp_path):
    path = tmp_path / "credentials.json"
    path.write_text(json.dumps({"sites": {"C1": "0" * 64}}))
    book = CredentialBook.read(path)
    before = book.current()
    path.write_text(json.dumps({"sites": {"C2": "0" * 64}, "revoked": ["aa" * 32]}))
    record = TokenRecord("C1", "bb" * 32, 0.0)
    before.check_standing(record)
    with pytest.raises(errors.SessionExpired, match="'C1' no longer has a part"):
        book.current().check_standing(record)
    with pytest.raises(errors.CertificateRefused, match="was revoked"):
        book.current().check_standing(TokenRecord("C2", "aa" * 32, 0.0))
    path.write_text("{")  # half a file: what was read last stays in force
    assert book.current().revoked == {"aa" * 32}

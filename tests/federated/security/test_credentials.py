import base64

import pytest

from federated import errors
from federated.security import credentials
from federated.security.credentials import CredentialBook, Sessions


class Memory(dict):
    def add_session(self, token_sha256, session, *, now):
        self[token_sha256] = session

    def session(self, token_sha256):
        return self.get(token_sha256)


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
    assert (
        Sessions(memory, lifetime_s=10.0, clock=clock, run="first").site_of(token, "cert") == "C1"
    )
    with pytest.raises(errors.SessionExpired, match="not known here"):
        Sessions(memory, lifetime_s=10.0, clock=clock, run="second").site_of(token, "cert")


def test_a_token_names_its_site_until_it_expires(sessions, clock):
    token, expires_at = sessions.open("C1", "cert")
    assert expires_at == clock.now + 100.0
    clock.now += 99.9
    assert sessions.site_of(token, "cert") == sessions.record_of(token).site == "C1"
    clock.now += 0.1
    with pytest.raises(errors.SessionExpired, match="token of site 'C1' has expired"):
        sessions.site_of(token, "cert")


def test_a_token_is_bound_to_the_certificate_it_was_issued_to(sessions):
    token, _ = sessions.open("C1", "cert of C1")
    with pytest.raises(errors.CertificateRefused, match="'C1'"):
        sessions.site_of(token, "cert of C2")


@pytest.mark.parametrize("token", ["", "x", "0" * 43])
def test_a_made_up_token_belongs_to_no_site(sessions, token):
    sessions.open("C1", "")
    with pytest.raises(errors.SessionExpired, match="not known") as caught:
        sessions.record_of(token)
    assert token == "" or token not in str(caught.value).replace("log in", "")


def test_a_wrong_credential_and_an_unknown_site_read_alike():
    book = CredentialBook({"C1": credentials.hashed("right")})
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

import base64
import json

import pytest

from federated import errors
from federated.security import credentials
from federated.security.credentials import CredentialBook, Credentials, TokenRecord


def test_secrets_are_256_bits_and_never_the_same():
    secrets = {credentials.new_secret() for _ in range(50)}
    assert len(secrets) == 50
    assert all(len(base64.urlsafe_b64decode(secret + "=")) == 32 for secret in secrets)


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


def test_a_token_is_bound_to_the_certificate_it_was_issued_to():
    record = TokenRecord("C1", "aa" * 32, 0.0)
    credentials_now = Credentials({"C1": "0" * 64})
    credentials_now.check_standing(record)  # the connection is not known yet
    credentials_now.check_standing(record, "aa" * 32)
    for another in ("bb" * 32, ""):
        with pytest.raises(errors.CertificateRefused, match="token of site 'C1' came with another"):
            credentials_now.check_standing(record, another)


@pytest.mark.parametrize("revoked", [None, 5, [["a"]], [5]])
def test_malformed_revocations_are_named_and_leave_the_last_good_ones_in_force(tmp_path, revoked):
    path = tmp_path / "credentials.json"
    content = {"sites": {"C1": "0" * 64}, "revoked": ["ab"]}
    path.write_text(json.dumps(content))
    book = CredentialBook.read(path)
    path.write_text(json.dumps({**content, "revoked": revoked}))
    with pytest.raises(ValueError, match=r"credentials\.json: expected"):
        CredentialBook.read(path)
    assert book.current().revoked == {"ab"}

import pytest

from federated import errors
from federated.security.credentials import CredentialBook
from tests.federated import toy

CERTIFICATE, ANOTHER = "aa" * 32, "bb" * 32


@pytest.fixture
def logged_in(opened):
    """A run, and the token of C1, bound to its certificate."""
    run = opened()
    session = run.lead.login("C1", "secret of C1", toy.PLAN, 30, certificate=CERTIFICATE)
    return run, session.token


def test_both_looks_at_a_token_give_its_site(logged_in, clock):
    run, token = logged_in
    clock.now += 50.0
    record = run.lead.record_of(token)
    assert record.site == "C1" and record.certificate == CERTIFICATE
    assert run.lead.orders.status()["sites"]["C1"]["seconds_since_heard"] == 50.0
    assert run.lead.identify(record, CERTIFICATE) == "C1"
    assert run.lead.orders.status()["sites"]["C1"]["seconds_since_heard"] == 0.0


def test_a_token_over_another_connection_is_refused_and_its_site_is_not_heard(logged_in, clock):
    run, token = logged_in
    clock.now += 50.0
    with pytest.raises(errors.CertificateRefused, match="another certificate than at login"):
        run.lead.identify(run.lead.record_of(token), ANOTHER)
    with pytest.raises(errors.CertificateRefused, match="another certificate than at login"):
        run.lead.check_token(token, ANOTHER)
    assert run.lead.orders.status()["sites"]["C1"]["seconds_since_heard"] == 50.0


@pytest.mark.parametrize(
    ("book", "error"),
    [
        (CredentialBook({"C2": "0" * 64}), errors.SessionExpired),
        (CredentialBook({"C1": "0" * 64}, revoked=[CERTIFICATE]), errors.CertificateRefused),
    ],
    ids=["no longer provisioned", "certificate revoked"],
)
def test_what_changes_between_the_two_looks_counts(logged_in, book, error):
    run, token = logged_in
    record = run.lead.record_of(token)
    run.lead._login._credentials = book
    with pytest.raises(error):
        run.lead.identify(record, CERTIFICATE)
    with pytest.raises(error):
        run.lead.check_token(token, CERTIFICATE)


def test_a_site_that_is_no_longer_provisioned_fails_at_the_first_look(logged_in):
    run, token = logged_in
    run.lead._login._credentials = CredentialBook({"C2": "0" * 64})
    with pytest.raises(errors.SessionExpired, match="'C1' no longer has a part"):
        run.lead.record_of(token)


def test_a_token_of_a_revoked_certificate_fails_at_the_first_look(logged_in):
    run, token = logged_in
    run.lead._login._credentials = CredentialBook({"C1": "0" * 64}, revoked=[CERTIFICATE])
    with pytest.raises(errors.CertificateRefused, match="was revoked"):
        run.lead.record_of(token)


def test_an_unknown_token_fails_at_the_first_look(logged_in):
    run, token = logged_in
    for unknown in ("", "x", token[:-1], token + "x"):
        with pytest.raises(errors.SessionExpired, match="not known here"):
            run.lead.record_of(unknown)

import json
import types

import pytest

from federated import errors
from federated.security.credentials import CredentialBook, Credentials, TokenRecord
from federated.server import run_state
from runkit.line_budget import LineBudget
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
        run.lead.record_of(token, ANOTHER)
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
        run.lead.record_of(token, CERTIFICATE)


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


def test_a_token_is_stored_hashed_only(logged_in):
    run, token = logged_in
    ((stored, *about),) = run.store._all("SELECT * FROM sessions")
    assert len(stored) == 64 and token not in repr((stored, about))


def test_a_token_of_another_run_is_unknown_even_in_a_copied_table(logged_in, opened, clock):
    run, token = logged_in
    assert run.lead.site_of(token, CERTIFICATE) == "C1"
    ((stored, *about),) = run.store._all("SELECT * FROM sessions")
    another = opened(folder="another")
    another.store.add_session(stored, TokenRecord(*about), now=clock.now)
    with pytest.raises(errors.SessionExpired, match="not known here"):
        another.lead.record_of(token)


def test_a_token_of_an_earlier_certificate_of_the_server_is_void(opened):
    run = opened()
    hashes = run.lead._login._credentials.current().hashes

    def served(generation):
        now = Credentials(hashes, generation=generation)
        run.lead._login._credentials = types.SimpleNamespace(current=lambda: now)

    served(1)
    token = run.lead.login("C1", "secret of C1", toy.PLAN, 30).token
    assert run.lead.record_of(token).site == "C1"
    for another in (0, 2):
        served(another)
        with pytest.raises(errors.SessionExpired, match="not known here"):
            run.lead.record_of(token)


def test_a_token_names_its_site_until_it_expires(opened, clock):
    run = opened(token_lifetime_s=100.0)
    session = run.lead.login("C1", "secret of C1", toy.PLAN, 30)
    assert session.expires_at == clock.now + 100.0
    clock.now += 99.5
    assert run.lead.site_of(session.token) == "C1"
    clock.now += 0.5
    with pytest.raises(errors.SessionExpired, match="token of site 'C1' has expired"):
        run.lead.record_of(session.token)


def test_a_site_that_logs_in_without_end_does_not_fill_the_log(opened, monkeypatch):
    monkeypatch.setattr(run_state, "LineBudget", lambda **given: LineBudget(burst=2, every_s=1e9))
    run = opened()
    for _ in range(6):
        run.lead.login("C1", "secret of C1", toy.PLAN, 30)
    run.lead.orders.readmit("C1")
    run.lead.login("C1", "secret of C1", toy.PLAN, 31)  # the number weights updates and scores
    run.lead.login("C2", "secret of C2", toy.PLAN, 10)
    lines = [json.loads(line) for line in (run.folder / "events.jsonl").open()]
    logins = [(line["site"], line["num_examples"]) for line in lines if line["event"] == "login"]
    assert logins == [*[("C1", 30)] * 3, ("C1", 31), ("C2", 10)]

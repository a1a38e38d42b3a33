"""Sessions, tokens and certificates: each ends when it should."""

import pytest

from federated import errors
from tests.federated import toy


def test_a_site_keeps_only_its_newest_sessions(opened):
    run = opened()
    tokens = [run.lead.login("C1", "secret of C1", toy.PLAN, 30).token for _ in range(30)]
    assert run.store._one("SELECT COUNT(*) FROM sessions") == (8,)
    assert run.lead.site_of(tokens[-1]) == "C1"
    with pytest.raises(errors.SessionExpired):
        run.lead.site_of(tokens[0])


def test_an_expired_certificate_does_not_log_in_again_over_an_open_connection(serving, clock):
    running = serving(clock=clock)
    transport = running.connect("C1")
    session = transport.login(toy.PLAN, 30)
    transport.heart_beat()
    clock.now += 10 * 365 * 86400 + 2_000_000_000  # the connection stays as it is
    with pytest.raises(errors.SessionExpired):
        transport.heart_beat()
    with pytest.raises(
        errors.CertificateOutOfDate, match="the certificate of site 'C1' has ended; renew it"
    ):
        transport.login(toy.PLAN, 30)
    assert session.expires_at < clock.now
    transport.close()


def test_a_token_ends_with_its_certificate(opened, clock):
    run = opened()
    session = run.lead.login("C1", "secret of C1", toy.PLAN, 30, certificate_ends=clock.now + 60)
    assert session.expires_at == clock.now + 60
    clock.now += 60
    with pytest.raises(errors.SessionExpired):
        run.lead.site_of(session.token)
    with pytest.raises(errors.CertificateOutOfDate):
        run.lead.login("C1", "secret of C1", toy.PLAN, 30, certificate_ends=clock.now)

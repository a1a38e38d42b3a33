import datetime
import shutil

import pytest
from cryptography import x509

from federated.security import expiry


@pytest.fixture
def kit(kits, tmp_path):
    return shutil.copytree(kits / "C1", tmp_path / "kit")


def ends(path):
    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc


def test_a_certificate_with_more_than_thirty_days_left_gives_no_warning(kit):
    end = min(ends(kit / "site.pem"), ends(kit / "ca.pem"))
    assert expiry.warnings(kit, end - datetime.timedelta(days=31)) == []


@pytest.mark.parametrize(
    ("days", "text"),
    [(29, "expires in 29 days"), (1, "expires in 1 days"), (-3, "expired 3 days ago")],
)
def test_one_that_ends_soon_or_has_ended_is_named_with_the_remedy(kit, days, text):
    now = ends(kit / "site.pem") - datetime.timedelta(days=days)
    assert expiry.warnings(kit, now) == [f"site.pem: the certificate {text}; have it renewed"]


def test_an_authority_cannot_be_renewed(kit):
    now = ends(kit / "ca.pem") + datetime.timedelta(days=2)
    first, second = expiry.warnings(kit, now)
    assert first == "ca.pem: the certificate expired 2 days ago; provision the federation again"
    assert second.startswith("site.pem: the certificate expired")


def test_a_damaged_certificate_is_left_to_the_doctor(kit):
    now = ends(kit / "site.pem")
    (kit / "site.pem").write_text("-----BEGIN CERTIFICATE-----\nhello\n")
    assert expiry.warnings(kit, now) == []

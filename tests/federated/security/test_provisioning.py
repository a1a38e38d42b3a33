import errno
import json
import os
import shutil
import stat

import pytest
from cryptography import x509

from federated.security import (
    certificate_request,
    credentials,
    federation_folder,
    provisioning,
    tls,
)
from runkit import atomic, folder_lock
from tests import failing_reads, kills


def certificate(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_every_kit_is_complete_and_private(kits):
    assert sorted(path.name for path in kits.iterdir()) == [
        "C1",
        "C2",
        "C3",
        "authority",
        "operator",
        "server",
    ]
    assert sorted(path.name for path in (kits / "server").iterdir()) == [
        "ca.pem",
        "credentials.json",
        "server.key",
        "server.pem",
    ]
    assert sorted(path.name for path in (kits / "C1").iterdir()) == [
        "ca.pem",
        "credential",
        "site.json",
        "site.key",
        "site.pem",
    ]
    for private in (
        "authority/ca.key",
        "server/server.key",
        "C1/site.key",
        "C1/credential",
        "C2/site.key",
    ):
        assert stat.S_IMODE((kits / private).stat().st_mode) == 0o600, private


def test_the_server_knows_credentials_by_their_hashes_only(kits):
    book = (kits / "server" / "credentials.json").read_text()
    for site in ("C1", "C2", "C3"):
        credential = (kits / site / "credential").read_text().strip()
        assert credential not in book
        credentials.CredentialBook.read(kits / "server" / "credentials.json").current().check(
            site, credential
        )


def test_the_servers_certificate_names_its_hosts(tmp_path):
    folder = provisioning.provision(
        tmp_path / "kits", ["hospital.example", "10.1.2.3"], ("C1",), port=8500
    )
    names = (
        certificate(folder / "server" / "server.pem")
        .extensions.get_extension_for_class(x509.SubjectAlternativeName)
        .value
    )
    assert names.get_values_for_type(x509.DNSName) == ["hospital.example", "localhost"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == [
        "10.1.2.3",
        "127.0.0.1",
        "::1",
    ]
    assert json.loads((folder / "C1" / "site.json").read_text()) == {
        "format": 1,
        "site": "C1",
        "host": "hospital.example",
        "port": 8500,
    }


def test_certificates_are_issued_by_the_authority_for_one_purpose(kits):
    authority = certificate(kits / "server" / "ca.pem")
    for path, purpose in (
        (kits / "server" / "server.pem", "serverAuth"),
        (kits / "C2" / "site.pem", "clientAuth"),
    ):
        one = certificate(path)
        one.verify_directly_issued_by(authority)
        assert [
            usage._name
            for usage in one.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        ] == [purpose]
        assert not one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate(kits / "C2" / "site.pem").subject.rfc4514_string() == "CN=C2"


def test_existing_kits_are_replaced_only_when_asked(tmp_path):
    folder = provisioning.provision(tmp_path / "kits", "localhost", ("C1",))
    before = (folder / "C1" / "credential").read_text()
    with pytest.raises(
        ValueError, match=r"kits holds authority, operator, server, C1 already; .*overwrite"
    ):
        provisioning.provision(folder, "localhost", ("C1",))
    assert (folder / "C1" / "credential").read_text() == before
    provisioning.provision(folder, "localhost", ("C1",), overwrite=True)
    assert (folder / "C1" / "credential").read_text() != before


@pytest.mark.parametrize(
    ("hosts", "sites", "message"),
    [
        ([], ("C1",), "server_hosts is empty"),
        ("fl.example.org:8443", ("C1",), "host is 'fl.example.org:8443'; .* port given separately"),
        (["localhost", "https://fl.example.org"], ("C1",), "host is 'https://fl.example.org'"),
        ("fl example", ("C1",), "host is 'fl example'"),
        ("köln.example", ("C1",), "host is 'köln.example'; .*xn--"),
        ("localhost", (), "sites is empty"),
        ("localhost", ("../C1",), "'../C1' cannot be used"),
        ("localhost", ("server",), "'server' cannot be used"),
        ("localhost", ("C1", "c1"), "given twice"),
        (
            "localhost",
            ("C1_north", "C1"),
            "'C1' and 'C1_north' cannot be in one federation.* e.g. C1-north",
        ),
    ],
)
def test_names_that_cannot_work_are_refused_before_anything_is_written(
    tmp_path, hosts, sites, message
):
    with pytest.raises(ValueError, match=message):
        provisioning.provision(tmp_path / "kits", hosts, sites)
    assert not (tmp_path / "kits").exists()


def test_a_site_that_is_named_although_it_sent_a_request_is_refused_with_the_remedy(tmp_path):
    certificate_request.request(tmp_path / "kit", "C2")
    asked = [tmp_path / "kit" / "site.csr"]
    with pytest.raises(ValueError, match=r"sites C2: named, although .* none \(--sites=\)"):
        provisioning.provision(tmp_path / "kits", "localhost", ("C1", "C2"), requests=asked)
    assert not (tmp_path / "kits").exists()


@pytest.mark.parametrize(
    ("first", "late"), [("C1", "C1_north"), ("C1", "c1_north"), ("C1_north", "C1")]
)
def test_a_later_site_cannot_have_a_name_with_which_models_of_another_site_begin(
    tmp_path, first, late
):
    """C1 may have lent "C1_north_baseline" before; then C1_north could not lend its own."""
    folder = provisioning.provision(tmp_path / "kits", "localhost", (first,))
    before = (folder / "server" / "credentials.json").read_bytes()
    with pytest.raises(ValueError, match="cannot be in one federation"):
        provisioning.add(folder, sites=[late])
    assert (folder / "server" / "credentials.json").read_bytes() == before and not (
        folder / late
    ).exists()
    assert provisioning.add(folder, sites=["C1-north", "C12"]) == ["C1-north", "C12"]


def test_two_such_sites_of_an_earlier_release_stay(tmp_path, monkeypatch):
    with monkeypatch.context() as earlier:
        earlier.setattr(provisioning, "_check_apart", lambda *names: None)
        folder = provisioning.provision(tmp_path / "kits", "localhost", ("C1", "C1_north"))
    provisioning.add(folder, sites=["C3"])
    provisioning.renew(folder, ["C1_north"])
    assert credentials.CredentialBook.read(
        folder / "server" / "credentials.json"
    ).current().sites == (
        "C1",
        "C1_north",
        "C3",
    )


def test_a_disk_that_fills_half_way_leaves_nothing_in_the_way_of_the_next_attempt(
    tmp_path, monkeypatch
):
    folder = tmp_path / "kits"
    with monkeypatch.context() as disk:
        write, left = atomic.write_bytes, iter(range(9))

        def filling(path, content):
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, "No space left on device", os.fspath(path))
            write(path, content)

        disk.setattr(atomic, "write_bytes", filling)
        with pytest.raises(OSError, match="No space left"):
            provisioning.provision(folder, "localhost", ("C1", "C2"))
    assert not list(folder.iterdir())
    provisioning.provision(folder, "localhost", ("C1", "C2"))


def whole(folder):
    """Checks that every party of a federation could start with its kit; returns its sites."""
    book = credentials.CredentialBook.read(folder / "server" / "credentials.json").current()
    for site in book.sites:
        book.check(site, (folder / site / "credential").read_text().strip())
    for name in ("server", "operator", *book.sites):
        tls.Identity.of(folder / name, name if name in ("server", "operator") else "site")
    assert not [path.name for path in folder.rglob(".partial-*")], "it may hold a key"
    assert not (folder / ".unfinished").exists()
    return book.sites


def test_provisioning_that_was_killed_goes_on_with_the_same_command(tmp_path):
    def act(folder):
        provisioning.provision(folder, "localhost", ["C1"])

    places = list(kills.folders(tmp_path, act))
    assert len(places) > 50
    for folder in places[:-1]:
        if folder.exists() and not federation_folder.is_provisioned(folder):
            with pytest.raises(
                ValueError, match=r"did not finish; run the same command again|no such"
            ):
                provisioning.add(folder, sites=["C2"])
            act(folder)
            assert whole(folder) == ("C1",)
            assert federation_folder.is_provisioned(folder)
    assert whole(places[-1]) == ("C1",)


@pytest.mark.parametrize(
    ("act", "sites"),
    [
        (lambda folder: provisioning.renew(folder, ["server"]), ("C1", "C2")),
        (lambda folder: provisioning.renew(folder, ["C1"]), ("C1", "C2")),
        (lambda folder: provisioning.renew(folder, ["operator"]), ("C1", "C2")),
        (lambda folder: provisioning.revoke(folder, ["server"]), ("C1", "C2")),
        (lambda folder: provisioning.add(folder, sites=["C3"]), ("C1", "C2", "C3")),
    ],
    ids=["renew server", "renew site", "renew operator", "revoke server", "add"],
)
def test_a_change_that_was_killed_loses_no_kit_and_goes_on_with_the_same_command(
    tmp_path, act, sites
):
    """The server's kit alone has the credentials of all sites."""
    provisioning.provision(tmp_path / "made", "localhost", ["C1", "C2"])

    for number in range(1000):
        folder = shutil.copytree(tmp_path / "made", tmp_path / str(number))
        with kills.before_call(number) as made:
            act(folder)
        try:
            act(folder)
        except ValueError as error:
            assert "C3 is there already" in str(error)
        assert whole(folder) == sites
        if len(made) < number:
            break
    assert number > 15


def test_two_changes_at_once_do_not_lose_each_other(tmp_path):
    provisioning.provision(tmp_path / "made", "localhost", ["C1"])
    with (
        folder_lock.hold(tmp_path / "made"),
        pytest.raises(folder_lock.FolderInUse, match="made is in use by process"),
    ):
        provisioning.add(tmp_path / "made", sites=["C2"])
    assert whole(tmp_path / "made") == ("C1",)


def test_a_kit_that_cannot_be_read_is_named_by_every_function(tmp_path):
    """A failed read has no name of its own, and there are many files in a federation."""
    made, kit, asked = tmp_path / "made", tmp_path / "kit", tmp_path / "kit" / "site.csr"
    provisioning.provision(made, "localhost", ["C1"])
    certificate_request.request(kit, "C2")
    provisioning.add(made, requests=[asked])
    authority = provisioning.authority_fingerprint(made)
    calls = [
        lambda: provisioning.add(made, sites=["C3"]),
        lambda: provisioning.renew(made, ["C1"]),
        lambda: provisioning.issued(made),
        lambda: certificate_request.install(kit, made / "C2", authority=authority),
        lambda: certificate_request.request(kit, "C2"),
        lambda: tls.Identity.of(made / "server", "server").authority_fingerprint,
    ]
    for call in calls:
        assert failing_reads.check_named(call, tmp_path) > 0

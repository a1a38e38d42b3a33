"""Faults of kits, folders and the installation.

Each test plants one fault; the doctor has to name it and its remedy.
"""

import contextlib
import datetime
import os
import shutil

import pytest

from federated.doctor import examination, local_checks
from federated.doctor.diagnosis import is_well
from federated.security import provisioning
from runkit import atomic
from tests import failing_reads
from tests.federated.doctor.planted import one, only_fault, site


@pytest.mark.parametrize("name", ["ca.pem", "site.pem", "site.key", "credential", "site.json"])
def test_a_file_is_missing(kit, name):
    (kit / name).unlink()
    only_fault(site(kit, 1), "kit", f"{name} missing", "use the whole folder")


def test_the_answer_to_a_request_is_not_installed_yet(tmp_path):
    from federated.security import certificate_request

    certificate_request.request(tmp_path / "kit", "C1")
    only_fault(site(tmp_path / "kit", 1), "kit", "site.pem", "install the operator's answer")


def test_a_site_that_made_its_own_key_is_told_how_to_make_another_and_it_works(tmp_path):
    """Nobody else has the key, so the operator cannot send the kit again."""
    from federated.security import certificate_request

    def kit_of_own_key(folder, **replace):
        certificate_request.request(folder, "C1")
        asked = {"requests": [folder / "site.csr"]}
        if replace:
            provisioning.add(tmp_path / "federation", **asked, **replace)
        else:
            provisioning.provision(tmp_path / "federation", "localhost", [], port=8443, **asked)
        certificate_request.install(
            folder,
            tmp_path / "federation" / "C1",
            authority=provisioning.authority_fingerprint(tmp_path / "federation"),
        )
        return local_checks.check_kit(folder, now=datetime.datetime.now(datetime.timezone.utc))

    assert is_well(kit_of_own_key(tmp_path / "kit"))
    (tmp_path / "kit" / "site.key").write_bytes(b"damaged")
    (finding,) = (one for one in site(tmp_path / "kit", 1) if one.state == "fault")
    assert "experiments.request --kit=… --site=…" in finding.remedy
    assert "--replace_credential" in finding.remedy and "ask for it again" in finding.remedy
    assert is_well(kit_of_own_key(tmp_path / "new", replace_credential=["C1"]))


@pytest.mark.parametrize("kind", ["server", "operator"])
def test_the_kit_of_a_server_or_operator_comes_from_where_it_was_provisioned(kits, kind, tmp_path):
    shutil.copytree(kits / kind, tmp_path / "kit")
    (tmp_path / "kit" / f"{kind}.key").write_bytes(b"damaged")
    now = datetime.datetime.now(datetime.timezone.utc)
    remedies = [one.remedy for one in local_checks.check_kit(tmp_path / "kit", now=now)]
    assert any(f"the whole folder `{kind}`" in remedy for remedy in remedies)
    assert not any("ask" in remedy for remedy in remedies)


def test_there_is_no_such_folder(tmp_path):
    only_fault(site(tmp_path / "nowhere", 1), "kit", "no such folder", "--kit")


@pytest.mark.parametrize("name", ["C1", "operator", "server"])
def test_a_file_that_the_disk_cannot_read_is_named(kits, name):
    now = datetime.datetime.now(datetime.timezone.utc)
    act = lambda: local_checks.check_kit(kits / name, now=now)  # noqa: E731
    assert failing_reads.check_named(act, kits) > 2


def test_a_kill_leaves_nothing_in_the_folder_that_is_tried(tmp_path, monkeypatch):
    there = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: there.append(os.listdir(tmp_path)))
    local_checks.check_folder("store", tmp_path, 0)
    assert there == [[]]


def test_the_key_can_be_read_by_others(kit):
    (kit / "site.key").chmod(0o644)
    finding = one(site(kit, 1), "private files")
    assert finding.state == "warning" and "chmod 600 site.key" in finding.remedy


def test_the_folders_can_be_read_by_others(kits, kit, tmp_path):
    for folder in (kit, tmp_path / "site" / "cases", tmp_path / "store"):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
    (tmp_path / "site").chmod(0o700)
    (tmp_path / "store" / "state.sqlite").touch(0o644)
    findings = site(kit, 1, folder=tmp_path / "site")
    assert (
        one(findings, "private files").state == one(findings, "private folder").state == "warning"
    )
    assert f"cases in {tmp_path / 'site'}" in one(findings, "private folder").found
    assert f"chmod -R go= {tmp_path / 'site'}" in one(findings, "private folder").remedy
    finding = one(
        examination.of_server(kits / "server", store=tmp_path / "store", port=0), "private folder"
    )
    assert finding.state == "warning" and "the folder, state.sqlite in" in finding.found
    (tmp_path / "site" / "cases").chmod(0o700)
    assert one(site(kit, 1, folder=tmp_path / "site"), "private folder").state == "good"
    assert kit.stat().st_mode & 0o777 == 0o755, "the doctor has changed something"


def test_the_doctor_shows_the_authority_that_the_operator_reads_out(kits, kit):
    said = provisioning.authority_fingerprint(kits)
    assert one(site(kit, 1), "authority").found == said
    assert one(examination.of_server(kits / "server", port=0), "authority").found == said


def test_the_key_is_of_another_kit(kit, kits):
    shutil.copy(kits / "C2" / "site.key", kit / "site.key")
    only_fault(site(kit, 1), "certificate", "not a pair", "use the whole folder")


def test_the_authority_is_of_another_federation(kit, other_kits):
    shutil.copy(other_kits / "C1" / "ca.pem", kit / "ca.pem")
    only_fault(
        site(kit, 1), "certificate", "not issued by the authority in ca.pem", "use the whole folder"
    )


@pytest.mark.parametrize("name", ["site.pem", "ca.pem", "site.key"])
@pytest.mark.parametrize("content", ["", "-----BEGIN CERTIFICATE-----\nhello\n"])
def test_a_damaged_file_of_the_kit_is_named(kit, name, content):
    (kit / name).write_text(content)
    what = "is damaged" if content else "is empty"
    only_fault(site(kit, 1), "certificate", f"{name} {what}", "use the whole folder")


def test_it_is_the_kit_of_another_site(kit):
    only_fault(
        site(kit, 1, site="C2"),
        "site",
        "kit of C1, the prepared cases are those of C2",
        "use the kit of C2",
    )


def test_somebody_has_renamed_the_site_in_the_kit(kit):
    atomic.write_json(kit / "site.json", {"site": "C2", "host": "localhost", "port": 1})
    only_fault(
        site(kit, 1),
        "site",
        "certificate is that of C1, site.json says C2",
        "use the whole folder",
    )


def test_the_address_in_the_kit_is_not_readable(kit):
    (kit / "site.json").write_text('{"site": "C1"}')
    only_fault(site(kit, 1), "site", "site.json cannot be read", '"host"')


@pytest.mark.parametrize(
    ("days_from_now", "state", "found"),
    [
        (-1, "fault", "not valid before"),
        (366, "fault", "expired on"),
        (345, "warning", "expires in"),
        (10, "good", "valid until"),
    ],
)
def test_the_certificate_has_expired_or_is_not_valid_yet(kits, days_from_now, state, found):
    findings = local_checks.check_kit(
        kits / "C1",
        now=datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days_from_now),
        site="C1",
    )
    finding = next(finding for finding in findings if finding.check == "validity")
    assert finding.state == state and found in finding.found
    assert state == "good" or ("clock" in finding.remedy) == (days_from_now < 0)


def test_the_messages_do_not_fit_the_installed_protobuf():
    def importing(name):
        raise TypeError("Descriptors cannot be created directly")

    only_fault(
        local_checks.check_packages(importing),
        "packages",
        "do not load with protobuf",
        "force-reinstall",
    )


def test_the_folder_cannot_be_written(kits, tmp_path):
    (tmp_path / "file").write_text("")
    findings = site(kits / "C1", 1, folder=tmp_path / "file" / "below")
    finding = one(findings, "site's folder")
    assert finding.state == "fault" and "make it writable" in finding.remedy


def test_the_disk_is_full(kits, tmp_path):
    findings = site(
        kits / "C1",
        1,
        folder=tmp_path,
        disk_usage=lambda _: shutil._ntuple_diskusage(10**12, 10**12, 10**6),
    )
    finding = one(findings, "site's folder, room")
    assert (
        finding.state == "fault"
        and "1.0 MB free, 600.0 MB needed" in finding.found
        and "free space" in finding.remedy
    )


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0,
    reason="a file system of 64 KiB can be mounted by root only",
)
def test_a_disk_that_is_really_full_is_noticed_by_writing(tmp_path):
    import subprocess

    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True
    ).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        with contextlib.suppress(OSError):
            (folder / "filler").write_bytes(b"x" * 2**16)
        (finding,) = local_checks.check_folder("store", folder, 0)
        assert finding.state == "fault" and "free space" in finding.remedy
    finally:
        subprocess.run(["umount", folder], check=True)

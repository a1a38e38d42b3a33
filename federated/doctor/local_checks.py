"""Checks without the network: a kit's files and certificates, folders, installed packages."""

from __future__ import annotations

import datetime
import errno
import importlib
import importlib.metadata
import json
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from cryptography import x509

from federated.doctor.diagnosis import Diagnosis, fault, good, warning
from federated.security import certificates, kit_files, revocation
from federated.security.credentials import CredentialBook
from runkit import atomic, byte_counts, private, release

KIT_FILES: Mapping[str, Sequence[str]] = {
    "site": ("ca.pem", "site.pem", "site.key", "credential", "site.json"),
    "operator": ("ca.pem", "operator.pem", "operator.key", "credential", "operator.json"),
    "server": ("ca.pem", "server.pem", "server.key", "credentials.json"),
}


class DiskSpace(Protocol):
    @property
    def free(self) -> int: ...


DiskUsage = Callable[[pathlib.Path], DiskSpace]


def fresh_kit(kind: str) -> str:
    """Returns how to get a kit in place of a damaged one.

    The files do not show who made a site's key, so both cases are named.
    """
    if kind != "site":
        return (
            f"copy the whole folder `{kind}` here again from the folder in which the federation "
            "was provisioned"
        )
    return (
        "if the operator made this kit, ask for it again and use the whole folder; if this site "
        "made its own key, which nobody else has, make a new one in a new folder (python -m "
        "experiments.request --kit=… --site=…), and send the operator the request, which replaces "
        "this kit (--replace_credential of experiments.provision)"
    )


def kind_of(kit: pathlib.Path) -> str:
    """Returns "server", "operator" or "site"; any other folder counts as a site's."""
    return next(
        (
            kind
            for kind in ("server", "operator")
            if (kit / f"{kind}.pem").is_file() or (kit / f"{kind}.key").is_file()
        ),
        "site",
    )


def check_kit(
    kit: pathlib.Path, *, now: datetime.datetime, site: str | None = None
) -> list[Diagnosis]:
    """Checks the files and certificates of a kit.

    Args:
      kit: folder of the kit.
      now: the time by this machine's clock.
      site: name of the site whose prepared cases are here, if known.
    """
    kind = kind_of(kit)
    findings = [_files(kit, kind)]
    if findings[0].state == "fault":
        return findings
    findings += [check_private("private files", kit), *_certificate(kit, kind, now)]
    if any(finding.check == "certificate" and "damaged" in finding.found for finding in findings):
        return findings
    if kind == "site":
        findings.append(_owner(kit, site))
    if kind == "server":
        findings.append(_book(kit))
    return findings


def _files(kit: pathlib.Path, kind: str) -> Diagnosis:
    check = "kit"
    if not kit.is_dir():
        return fault(check, f"{kit}: no such folder", "give the folder of the kit with --kit")
    missing = [name for name in KIT_FILES[kind] if not (kit / name).is_file()]
    if missing:
        remedy = kit_files.remedy(kit, [kind], otherwise=fresh_kit(kind))
        return fault(check, f"{', '.join(missing)} missing in {kit}", remedy)
    links = [path.name for path in sorted(kit.iterdir()) if path.is_symlink()]
    if links:
        return fault(
            check,
            f"{', '.join(links)} in {kit}: a link, not a file",
            "put the files themselves there; links are not followed",
        )
    unreadable = [name for name in KIT_FILES[kind] if not os.access(kit / name, os.R_OK)]
    if unreadable:
        return fault(
            check,
            f"{', '.join(unreadable)} may not be read by this user",
            "start the program as the owner of the kit, or chown it",
        )
    return good(check, f"{kit_files.KINDS[kind]}, complete")


def check_private(check: str, folder: pathlib.Path) -> Diagnosis:
    """Checks that no other account of the machine can read a folder or anything in it.

    A missing folder passes: it will be made private.
    """
    if not folder.is_dir():
        return good(check, f"{folder} will be made private")
    open_ones = list(private.open_to_others(folder))
    if open_ones:
        names = ", ".join(
            "the folder" if path == folder else str(path.relative_to(folder))
            for path in open_ones[:3]
        )
        more = f" and {len(open_ones) - 3} more" if len(open_ones) > 3 else ""
        few = len(open_ones) <= 3 and all(
            path.parent == folder and path.is_file() for path in open_ones
        )
        remedy = (
            f"chmod 600 {names.replace(',', '')}, in {folder}"
            if few
            else f"chmod -R go= {folder}, as its owner"
        )
        return warning(check, f"{names}{more} in {folder} can be read by other users", remedy)
    return good(check, "readable by their owner only")


def _certificate(kit: pathlib.Path, kind: str, now: datetime.datetime) -> list[Diagnosis]:
    path = kit  # the file that is read
    try:
        certificate = certificates.load(atomic.read_bytes(path := kit / f"{kind}.pem"))
        authority = certificates.load(atomic.read_bytes(path := kit / "ca.pem"))
        key = certificates.load_key(atomic.read_bytes(path := kit / f"{kind}.key"))
    except ValueError:
        what = "is damaged" if path.stat().st_size else "is empty, so damaged"
        return [fault("certificate", f"{path} {what}", fresh_kit(kind))]
    findings = []
    if not certificates.same_key(certificate, key):
        findings.append(
            fault(
                "certificate",
                f"{kind}.pem and {kind}.key are not a pair: two kits were mixed",
                fresh_kit(kind),
            )
        )
    elif not certificates.is_issued_by(certificate, authority):
        findings.append(
            fault(
                "certificate",
                f"{kind}.pem was not issued by the authority in ca.pem: kits of two federations "
                "were mixed",
                fresh_kit(kind),
            )
        )
    else:
        spoken = certificates.spoken(certificates.fingerprint(certificate))
        about = f"of {certificates.common_name(certificate)}, {spoken}"
        findings.append(good("certificate", about))
        findings.append(good("authority", certificates.spoken(certificates.fingerprint(authority))))
    findings.append(check_validity("validity", f"{kind}.pem", certificate, now))
    if (ends := check_validity("validity", "ca.pem", authority, now)).state != "good":
        findings.append(ends)
    if kind == "server":
        findings.append(good("host names", ", ".join(certificates.hosts_of(certificate))))
        findings += _revoked(kit, certificate)
    return findings


def _revoked(kit: pathlib.Path, certificate: x509.Certificate) -> list[Diagnosis]:
    try:
        statement = json.loads(atomic.read_bytes(kit / "credentials.json")).get(
            "server_revocation", ""
        )
        generation = revocation.read(statement.encode("ascii"), kit / "ca.pem") if statement else 0
    except (ValueError, AttributeError) as error:
        return [
            fault(
                "revocation",
                f"credentials.json: {error}",
                "copy credentials.json from the folder in which the federation was provisioned",
            )
        ]
    if certificates.generation_of(certificate) < generation:
        return [
            fault(
                "revocation",
                "server.pem was revoked: sites refuse it",
                "copy the server's whole folder here from the operator",
            )
        ]
    return (
        [good("revocation", f"certificates before generation {generation} are revoked")]
        if generation
        else []
    )


def check_validity(
    check: str, name: str, certificate: x509.Certificate, now: datetime.datetime
) -> Diagnosis:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < begins:
        return fault(
            check,
            f"{name} is not valid before {begins:%Y-%m-%d %H:%M} UTC, this machine's clock says "
            f"{now:%Y-%m-%d %H:%M}",
            "set the clock (timedatectl set-ntp true); if it is right, ask the operator for a new "
            "certificate",
        )
    days = certificates.days_left(certificate, now)
    renew = (
        "provision the federation again"
        if name == "ca.pem"
        else "have it renewed: a request of experiments.request, or the operator"
    )
    if days <= 0:
        return fault(
            check,
            f"{name} expired on {ends:%Y-%m-%d}, this machine's clock says {now:%Y-%m-%d}",
            renew,
        )
    if days < certificates.WARN_DAYS:
        return warning(check, f"{name} expires in {days:.0f} days", renew)
    return good(check, f"{name} is valid until {ends:%Y-%m-%d}")


def _owner(kit: pathlib.Path, site: str | None) -> Diagnosis:
    check = "site"
    try:
        about = json.loads(atomic.read_bytes(kit / "site.json"))
        name = str(about["site"])
        _ = str(about["host"]), int(about["port"])
    except (ValueError, KeyError, TypeError) as error:
        return fault(
            check,
            f"site.json cannot be read ({type(error).__name__})",
            'it should hold {"site": …, "host": …, "port": …}',
        )
    owner = certificates.common_name(certificates.load(atomic.read_bytes(kit / "site.pem")))
    if owner != name:
        return fault(
            check, f"the certificate is that of {owner}, site.json says {name}", fresh_kit("site")
        )
    if site is not None and site != name:
        return fault(
            check,
            f"this is the kit of {name}, the prepared cases are those of {site}",
            f"use the kit of {site}",
        )
    return good(check, name)


def _book(kit: pathlib.Path) -> Diagnosis:
    try:
        sites = CredentialBook.read(kit / "credentials.json").current().sites
    except ValueError as error:
        return fault(
            "sites",
            str(error),
            "copy credentials.json from the folder in which the federation was provisioned",
        )
    if not sites:
        return fault(
            "sites",
            "no site may log in",
            "add one: python -m experiments.provision --output=… --add=…",
        )
    return good("sites", ", ".join(sites))


def check_packages(importing: Callable[[str], object] = importlib.import_module) -> list[Diagnosis]:
    """Checks that the packages of the weight exchange are installed and compatible."""
    check = "packages"
    try:
        versions = [
            f"{name} {importlib.metadata.version(name)}"
            for name in ("grpcio", "protobuf", "cryptography")
        ]
    except importlib.metadata.PackageNotFoundError as error:
        return [
            fault(
                check,
                f"{error.name} is not installed",
                "install the product with pip, which installs it too",
            )
        ]
    try:
        importing("federated.wire.weight_exchange_pb2")
        importing("federated.wire.operation_pb2")
    # protobuf raises all kinds of errors if generated code and library are not compatible.
    except Exception as error:
        protobuf = importlib.metadata.version("protobuf")
        return [
            fault(
                check,
                f"the messages do not load with protobuf {protobuf} ({type(error).__name__})",
                "pip install --force-reinstall the product: another program has changed protobuf "
                "in this environment",
            )
        ]
    return [
        good(
            check,
            f"release {release.version()}, Python {sys.version.split()[0]}, {', '.join(versions)}",
        )
    ]


def check_folder(
    check: str, folder: pathlib.Path, needed_bytes: int, disk_usage: DiskUsage = shutil.disk_usage
) -> list[Diagnosis]:
    """Checks that a folder, or the one in which it would be made, is writable and has space."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there, prefix=".doctor-") as file:  # it has no name
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        remedy = (
            "free space on that disk"
            if error.errno == errno.ENOSPC
            else "make it writable for the user who starts the program, or choose another folder"
        )
        return [fault(check, f"{folder} cannot be written to ({error.strerror})", remedy)]
    free = disk_usage(there).free
    if free < needed_bytes:
        return [
            fault(
                f"{check}, room",
                f"{byte_counts.text(free)} free, {byte_counts.text(needed_bytes)} needed",
                "free space on that disk, or choose another folder",
            )
        ]
    return [good(check, f"writable, {byte_counts.text(free)} free")]


def check_open_files(limit: int | None = None) -> Diagnosis:
    """Checks the limit on open files; a server needs a few for each site."""
    if limit is None:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit < 1024:
        return warning(
            "open files",
            f"at most {limit}",
            "raise it: ulimit -n 4096, or LimitNOFILE= in the unit file",
        )
    return good("open files", f"up to {limit}")

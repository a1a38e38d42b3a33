"""Makes everything a federation needs to trust each other: an authority, the server's kit and one kit per site, ready to send.

<folder>/authority/{ca.pem, ca.key}     stays with the operator; needed only to provision again
         server/{ca.pem, server.pem, server.key, credentials.json}
         <site>/{ca.pem, site.pem, site.key, credential, site.json}
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import pathlib
import re
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federated.credentials import hashed, new_secret
from runkit import atomic

SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_RESERVED = ("server", "authority")
DEFAULT_PORT = 8443


def provision(
    folder: str | os.PathLike,
    server_hosts: Sequence[str] | str,
    sites: Sequence[str] = ("C1", "C2"),
    *,
    port: int = DEFAULT_PORT,
    valid_days: int = 365,
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes an authority of its own, the server's kit and a kit for each site; returns the folder.

    Args:
      server_hosts: names or addresses under which sites reach the server, the first being the one written into their kits;
        localhost, 127.0.0.1 and ::1 are added to the certificate.
      sites: their names; they name folders, certificates and rows.
      port: the server's port, for the sites' kits.
      valid_days: lifetime of the certificates.
      overwrite: replaces kits that are there; the old ones stop working.
    Raises:
      ValueError: for a name that cannot be used, or a folder that holds kits already.
    """
    hosts = [server_hosts] if isinstance(server_hosts, str) else list(server_hosts)
    folder = pathlib.Path(folder)
    if not hosts or not all(hosts):
        raise ValueError("server_hosts is empty; give the name or address under which sites reach the server")
    if not sites:
        raise ValueError("sites is empty; give the name of every site")
    for site in sites:
        if not SITE_NAME.fullmatch(site) or site.lower() in _RESERVED:
            raise ValueError(
                f"site name {site!r} cannot be used; letters, digits, '_' and '-', at most 32, and not {' or '.join(_RESERVED)}"
            )
    if len({site.lower() for site in sites}) != len(sites):
        raise ValueError(f"sites {', '.join(sites)}: a name is given twice; file systems may not tell upper from lower case")
    if not 0 <= port <= 65535:
        raise ValueError(f"port is {port}; expected 1 to 65535, or 0 for a local run that finds a free one")
    there = [name for name in ("authority", "server", *sites) if (folder / name).exists()]
    if there and not overwrite:
        raise ValueError(
            f"{folder} holds {', '.join(there)} already; a new kit makes the old one useless: choose another folder, or ask to overwrite"
        )

    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _authority(authority_key, valid_days)
    credentials = {site: new_secret() for site in sites}
    with atomic.replacing_folder(folder / "authority") as kit:
        _write_certificate(kit / "ca.pem", authority)
        _write_key(kit / "ca.key", authority_key)
    with atomic.replacing_folder(folder / "server") as kit:
        _write_identity(kit, "server", "server", authority, authority_key, valid_days, hosts=[*hosts, "localhost", "127.0.0.1", "::1"])
        atomic.write_json(kit / "credentials.json", {"sites": {site: hashed(secret) for site, secret in credentials.items()}})
    for site in sites:
        with atomic.replacing_folder(folder / site) as kit:
            _write_identity(kit, "site", site, authority, authority_key, valid_days)
            _write_private(kit / "credential", credentials[site].encode("ascii") + b"\n")
            atomic.write_json(kit / "site.json", {"site": site, "host": hosts[0], "port": port})
    return folder


def _authority(key: ec.EllipticCurvePrivateKey, valid_days: int) -> x509.Certificate:
    name = _name("federation authority")
    return (
        _builder(name, name, key, valid_days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def _write_identity(
    kit: pathlib.Path,
    file_name: str,
    common_name: str,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    valid_days: int,
    *,
    hosts: Sequence[str] = (),
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        _builder(_name(common_name), authority.subject, key, valid_days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(host) for host in dict.fromkeys(hosts)]), critical=False)
    _write_certificate(kit / "ca.pem", authority)
    _write_certificate(kit / f"{file_name}.pem", builder.sign(authority_key, hashes.SHA256()))
    _write_key(kit / f"{file_name}.key", key)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, valid_days: int) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # a site whose clock is a little behind can begin at once
        .not_valid_after(now + datetime.timedelta(days=valid_days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _write_certificate(path: pathlib.Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _write_key(path: pathlib.Path, key: ec.EllipticCurvePrivateKey) -> None:
    _write_private(
        path,
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def _write_private(path: pathlib.Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # private from the first byte on, not after a chmod
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)

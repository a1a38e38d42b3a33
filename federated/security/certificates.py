"""X.509 as a federation uses it: one authority, P-256 keys, one purpose a certificate. Bytes in,
bytes out; no files.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import re
import ssl
from collections.abc import Sequence
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AttributeOID, ExtendedKeyUsageOID, NameOID

from runkit import printable

BACKDATED = datetime.timedelta(hours=1)  # a site whose clock is a little behind can begin at once
_NAME = 64  # characters of a common name, as X.520 has it
WARN_DAYS = 30  # before a certificate ends
_GENERATION = re.compile(r"server-([1-9][0-9]{0,5})\.federation\.invalid")
_SPOKEN_BITS = 128  # of a fingerprint are compared at least


class Request(NamedTuple):
    """What a site asks to be certified. The key's private half never left it, and of its credential
    it tells the hash only.
    """

    name: str
    public_key: ec.EllipticCurvePublicKey
    credential_sha256: str
    fingerprint: str  # to be compared over the telephone


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def new_authority(
    key: ec.EllipticCurvePrivateKey, valid_days: int, now: datetime.datetime
) -> x509.Certificate:
    """Returns a certificate that signs certificates and nothing else, and no further authority."""
    name = _name("federation authority")
    return (
        _builder(name, name, key.public_key(), now, now + datetime.timedelta(days=valid_days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def issue(
    common_name: str,
    public_key: ec.EllipticCurvePublicKey,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    valid_days: int,
    now: datetime.datetime,
    *,
    hosts: Sequence[str] = (),
    generation: int = 0,
) -> x509.Certificate:
    """Returns a certificate: of a server where `hosts` are given, else of a client. It ends with
    its authority at the latest.

    Args:
      generation: how often the server's certificate was revoked before this one. The certificate
        bears the name of every generation up to it, so that a client that has not heard of the
        newest revocation still connects, and hears of it.
    """
    ends = min(now + datetime.timedelta(days=valid_days), authority.not_valid_after_utc)
    if ends <= now:
        raise ValueError(
            f"the authority ended on {authority.not_valid_after_utc:%Y-%m-%d}; provision the federation again"
        )
    usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        _builder(_name(common_name), authority.subject, public_key, now, ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
    )
    if hosts:
        names = dict.fromkeys(
            [*hosts, *(server_name(number) for number in range(1, generation + 1))]
        )
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False
        )
    return builder.sign(authority_key, hashes.SHA256())


def new_request(name: str, key: ec.EllipticCurvePrivateKey, credential_sha256: str) -> bytes:
    """Returns a PEM certificate request. It carries the credential's hash as challenge password, so
    its signature covers it.
    """
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_name(name))
        .add_attribute(AttributeOID.CHALLENGE_PASSWORD, credential_sha256.encode("ascii"))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def read_request(pem: bytes) -> Request:
    """Returns what a request asks for. Raises ValueError unless it is one of `new_request`, signed
    by the key it names.
    """
    try:
        request = x509.load_pem_x509_csr(pem)
        digest = request.attributes.get_attribute_for_oid(
            AttributeOID.CHALLENGE_PASSWORD
        ).value.decode("ascii")
        names = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        key = request.public_key()
        whole = (
            request.is_signature_valid
            and len(names) == 1
            and isinstance(key, ec.EllipticCurvePublicKey)
        )
    except (ValueError, x509.AttributeNotFound, InvalidSignature) as error:
        raise ValueError(
            f"not a certificate request of this release ({type(error).__name__})"
        ) from error
    if not whole or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise ValueError(
            "a certificate request whose signature, name or credential hash is not right"
        )
    return Request(
        printable.text(names[0].value, limit=_NAME),
        key,
        digest,
        fingerprint_of_bytes(request.public_bytes(serialization.Encoding.DER)),
    )


def server_name(generation: int) -> str:
    """Returns the name that server certificates bear from a generation on. Nobody can be reached
    under it (RFC 6761).
    """
    return f"server-{generation}.federation.invalid"


def generation_of(certificate: x509.Certificate) -> int:
    """Returns the generation of a server's certificate, 0 where no certificate was revoked before
    it.
    """
    return max(
        (
            int(found[1])
            for name in _alternatives(certificate)
            if (found := _GENERATION.fullmatch(name))
        ),
        default=0,
    )


def new_revocation(
    generation: int,
    serial_numbers: Sequence[int],
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
) -> bytes:
    """Returns the authority's statement that server certificates before a generation are revoked: a
    PEM list of revoked certificates (X.509 CRL) whose number is the generation. It holds as long as
    the authority does.
    """
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(now - BACKDATED)
        .next_update(authority.not_valid_after_utc)
        .add_extension(x509.CRLNumber(generation), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
    )
    for number in serial_numbers:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(number).revocation_date(now).build()
        )
    return builder.sign(authority_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def read_revocation(pem: bytes, authority: x509.Certificate | None) -> int:
    """Returns from which generation on server certificates are trusted.

    Args:
      authority: whose statement it must be; None where nobody relies on the answer.
    Raises:
      ValueError: for anything but a statement of `new_revocation` that this authority has signed.
    """
    try:
        statement = x509.load_pem_x509_crl(pem)
        number = statement.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        signed = authority is None or statement.is_signature_valid(authority.public_key())
    except (ValueError, TypeError, x509.ExtensionNotFound, InvalidSignature) as error:
        raise ValueError(
            f"not a list of revoked certificates of this release ({type(error).__name__})"
        ) from error
    if not signed:
        raise ValueError(
            "a list of revoked certificates that this federation's authority has not signed"
        )
    return number


def fingerprint(certificate: x509.Certificate) -> str:
    """Returns the SHA-256 of the DER form, as `openssl x509 -fingerprint -sha256` prints it,
    without colons.
    """
    return certificate.fingerprint(hashes.SHA256()).hex()


def fingerprint_of_pem(pem: bytes) -> str:
    """Returns the fingerprint of a PEM certificate without parsing it, "" of none."""
    return (
        fingerprint_of_bytes(ssl.PEM_cert_to_DER_cert(pem.decode("ascii", "replace")))
        if pem
        else ""
    )


def fingerprint_of_bytes(der: bytes) -> str:
    return hashlib.sha256(der).hexdigest()


def spoken(digest: str) -> str:
    """Returns the first 128 bits of a digest in groups of four, to be read out over the telephone."""
    return " ".join(digest[i : i + 4] for i in range(0, 32, 4))


def is_spoken(text: str, digest: str) -> bool:
    """Returns whether a fingerprint as somebody typed it, in groups, with colons or in capitals, is
    that of `digest`.

    Raises:
      ValueError: for what is no fingerprint, or for fewer than 128 bits of one.
    """
    given = re.sub(r"[\s:-]", "", text).lower()
    if not re.fullmatch(r"[0-9a-f]*", given) or not _SPOKEN_BITS // 4 <= len(given) <= len(digest):
        raise ValueError(
            f"{text[:100]!r} is not a fingerprint; give at least its first {_SPOKEN_BITS // 4} digits, 0 to 9 and a to f"
        )
    return digest.startswith(given)


def common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return printable.text(names[0].value, limit=_NAME) if names else ""


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """Returns the names and addresses under which a server's certificate may be reached, as
    printable text.
    """
    return [name for name in _alternatives(certificate) if not _GENERATION.fullmatch(name)]


def _alternatives(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    found = [*names.get_values_for_type(x509.DNSName), *names.get_values_for_type(x509.IPAddress)]
    return [printable.text(name) for name in found]


def days_left(certificate: x509.Certificate, now: datetime.datetime) -> float:
    return (certificate.not_valid_after_utc - now).total_seconds() / 86400


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def same_key(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    return _public_bytes(certificate.public_key()) == _public_bytes(key.public_key())


def to_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _public_bytes(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    begins: datetime.datetime,
    ends: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins - BACKDATED)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
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

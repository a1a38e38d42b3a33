"""X.509 as a federation uses it: one authority, P-256 keys, one purpose per certificate.

The functions work on bytes and values, not on files.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import ipaddress
import re
import ssl
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AttributeOID, ExtendedKeyUsageOID, NameOID

from runkit import printable

BACKDATED = datetime.timedelta(hours=1)  # so that a site whose clock is slow can start at once
_NAME = 64  # longest common name in characters (X.520)
WARN_DAYS = 30  # before a certificate expires
_GENERATION = re.compile(r"server-([1-9][0-9]{0,5})\.federation\.invalid")
# What `cryptography` raises for X.509 that it cannot read; some only when a part is looked at.
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
_SPOKEN_BITS = 128  # least number of bits of a fingerprint that people compare


class Request(NamedTuple):
    """What a site asks to have certified.

    The private key never leaves the site, and the site sends only the hash of its credential.
    """

    name: str
    public_key: ec.EllipticCurvePublicKey
    credential_sha256: str
    fingerprint: str  # compared over the telephone


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def load(pem: bytes) -> x509.Certificate:
    """Returns a certificate with a name, a key and extensions that can be read.

    Raises:
      ValueError: for anything else.
    """
    return _readable(x509.load_pem_x509_certificate, pem)


def load_der(der: bytes) -> x509.Certificate:
    """Does the same as `load` for a certificate in DER form."""
    return _readable(x509.load_der_x509_certificate, der)


def _readable(read: Callable[[bytes], x509.Certificate], data: bytes) -> x509.Certificate:
    try:
        certificate = read(data)
        # The package reads these only when they are asked for.
        _ = certificate.subject, certificate.issuer, certificate.extensions
        certificate.public_key()
    except ValueError:
        raise
    except _UNREADABLE as error:
        raise ValueError(f"a certificate that cannot be read ({type(error).__name__})") from error
    return certificate


def new_authority(
    key: ec.EllipticCurvePrivateKey, valid_days: int, now: datetime.datetime
) -> x509.Certificate:
    """Returns a certificate that may sign certificates of sites and servers, and nothing else."""
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
    """Returns a server's certificate if `hosts` is given, else a client's.

    It expires no later than its authority.

    Args:
      generation: number of revocations of the server's certificate before this one. The certificate
        bears the names of all generations up to this one, so that a client that does not know of
        the newest revocation can still connect, and then learns of it.
    Raises:
      ValueError: if the authority has expired.
    """
    ends = min(now + datetime.timedelta(days=valid_days), authority.not_valid_after_utc)
    if ends <= now:
        raise ValueError(
            f"the authority expired on {authority.not_valid_after_utc:%Y-%m-%d}; "
            "provision the federation again"
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
    """Returns a PEM certificate request.

    It carries the credential's hash as challenge password, so that its signature covers the hash.
    """
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_name(name))
        .add_attribute(AttributeOID.CHALLENGE_PASSWORD, credential_sha256.encode("ascii"))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def read_request(pem: bytes) -> Request:
    """Reads and checks a certificate request.

    Raises:
      ValueError: unless `new_request` made it, signed with the key that it names.
    """
    try:
        request = x509.load_pem_x509_csr(pem)
        password = request.attributes.get_attribute_for_oid(AttributeOID.CHALLENGE_PASSWORD)
        digest = password.value.decode("ascii")
        names = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        key = request.public_key()
        signed = request.is_signature_valid
    except (*_UNREADABLE, x509.AttributeNotFound, InvalidSignature) as error:
        raise ValueError(
            f"not a certificate request of this release ({type(error).__name__})"
        ) from error
    if (
        not (signed and len(names) == 1 and isinstance(key, ec.EllipticCurvePublicKey))
        or len(digest) != 64
        or set(digest) - set("0123456789abcdef")
    ):
        raise ValueError("a certificate request with a wrong signature, name or credential hash")
    return Request(
        printable.text(names[0].value, limit=_NAME),
        key,
        digest,
        fingerprint_of_bytes(request.public_bytes(serialization.Encoding.DER)),
    )


def server_name(generation: int) -> str:
    """Returns the name that server certificates of this and later generations bear.

    A host cannot be reached under this name (RFC 6761).
    """
    return f"server-{generation}.federation.invalid"


def generation_of(certificate: x509.Certificate) -> int:
    """Returns the generation of a server's certificate; 0 if none was revoked before it."""
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
    """Returns the authority's statement that server certificates before a generation are revoked.

    It is a PEM list of revoked certificates (X.509 CRL) whose number is the generation. It is valid
    as long as the authority.
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
    """Returns the first generation of server certificates that is trusted.

    Args:
      authority: the authority that must have signed the statement; None skips this check, for
        callers that do not rely on the answer.
    Raises:
      ValueError: unless `new_revocation` made the statement, signed by this authority.
    """
    try:
        statement = x509.load_pem_x509_crl(pem)
        number = statement.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        signed = authority is None or _has_signed(authority, statement)
    except (*_UNREADABLE, x509.ExtensionNotFound, InvalidSignature) as error:
        raise ValueError(
            f"not a list of revoked certificates of this release ({type(error).__name__})"
        ) from error
    if not signed:
        raise ValueError(
            "a list of revoked certificates that this federation's authority has not signed"
        )
    return number


def _has_signed(authority: x509.Certificate, statement: x509.CertificateRevocationList) -> bool:
    key = authority.public_key()
    return isinstance(key, ec.EllipticCurvePublicKey) and statement.is_signature_valid(key)


def fingerprint(certificate: x509.Certificate) -> str:
    """Returns the SHA-256 of the DER form: what `openssl x509 -fingerprint -sha256` prints.

    It is in lower case and has no colons.
    """
    return certificate.fingerprint(hashes.SHA256()).hex()


# The server asks for it at every call, and a connection shows the same certificate at all of them.
@functools.lru_cache(maxsize=1000)
def fingerprint_of_pem(pem: bytes) -> str:
    """Returns the fingerprint of a PEM certificate without parsing it; "" for b""."""
    if not pem:
        return ""
    return fingerprint_of_bytes(ssl.PEM_cert_to_DER_cert(pem.decode("ascii", "replace")))


def fingerprint_of_bytes(der: bytes) -> str:
    return hashlib.sha256(der).hexdigest()


def spoken(digest: str) -> str:
    """Returns the first 128 bits of a digest in groups of four digits, to be read out."""
    return " ".join(digest[i : i + 4] for i in range(0, 32, 4))


def is_spoken(text: str, digest: str) -> bool:
    """Returns whether a fingerprint that somebody typed is the beginning of `digest`.

    Spaces, colons, hyphens and upper or lower case do not matter.

    Raises:
      ValueError: if the text is not a fingerprint, or has fewer than 128 bits of one.
    """
    given = re.sub(r"[\s:-]", "", text).lower()
    if not re.fullmatch(r"[0-9a-f]*", given) or not _SPOKEN_BITS // 4 <= len(given) <= len(digest):
        raise ValueError(
            f"{text[:100]!r} is not a fingerprint; give at least its first {_SPOKEN_BITS // 4} "
            "digits, 0 to 9 and a to f"
        )
    return digest.startswith(given)


def common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return printable.text(names[0].value, limit=_NAME) if names else ""


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """Returns the names and addresses that a server's certificate is for, as printable text."""
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
    except (*_UNREADABLE, InvalidSignature):
        return False
    return True


def same_key(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    return certificate.public_key() == key.public_key()


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Returns a private key. Raises ValueError for anything but an unencrypted EC key."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except TypeError as error:  # encrypted
        raise ValueError("the key is encrypted") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the key is not an elliptic-curve key")
    return key


def to_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
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

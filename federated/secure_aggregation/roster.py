"""The sites that take part in an exchange: their signed keys, and the verification of these.

The server passes keys on, and could replace them by its own. So each site signs its keys with the
private key of the certificate that the federation's authority issued to it, and verifies the keys
of every other site.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from collections.abc import Collection, Mapping, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from federated.secure_aggregation.keys import KEY_BYTES, Context, is_usable
from federated.security import certificates
from federated.wire import site_names
from federated.wire.messages import SumKeys
from runkit import printable

LEAST_SITES = 3
MAX_CERTIFICATE = 4 * 2**10  # bytes; a certificate of this product has less than 700
MAX_SIGNATURE = 80  # bytes; an ECDSA signature over P-256 has at most 72
_SKEW = datetime.timedelta(hours=1)  # between the clocks of two sites
_ALGORITHM = ec.ECDSA(hashes.SHA256())


class NotSigned(ValueError):
    """Keys or a consent not signed for this exchange by the site that they name."""


@dataclasses.dataclass(frozen=True)
class Signer:
    """A site's certificate and private key, and the authority that all sites trust."""

    site: str
    key: ec.EllipticCurvePrivateKey = dataclasses.field(repr=False)
    certificate: x509.Certificate
    authority: x509.Certificate

    def keys(self, context: Context, sealing_key: bytes, masking_key: bytes) -> SumKeys:
        """Returns the site's public keys for an exchange, signed."""
        statement = _keys_statement(context, self.site, sealing_key, masking_key)
        return SumKeys(
            self.site,
            sealing_key,
            masking_key,
            self.certificate.public_bytes(serialization.Encoding.DER),
            self.key.sign(statement, _ALGORITHM),
        )

    def consent(self, context: Context, roster: Roster, survivors: Collection[str]) -> bytes:
        """Returns the site's signature over the sites whose updates are in the sum."""
        return self.key.sign(roster.statement(context, survivors), _ALGORITHM)


def verify_keys(
    keys: SumKeys, context: Context, authority: x509.Certificate, now: datetime.datetime
) -> None:
    """Checks the public keys of one site.

    Raises:
      NotSigned: stating what is wrong: the name, the certificate, its owner, its dates, or the
        signature.
    """
    who = f"the keys of site {printable.text(repr(keys.site), limit=80)}"
    if keys.site.lower() in site_names.RESERVED:
        # The server's operator has the operator's certificate, which is made like a site's.
        raise NotSigned(f"{who} have a name that no site has")
    if not (is_usable(keys.sealing_key) and is_usable(keys.masking_key)):
        raise NotSigned(f"{who} are not public keys of X25519, {KEY_BYTES} bytes each")
    certificate = _certificate(keys)
    if certificates.common_name(certificate) != keys.site:
        name = certificates.common_name(certificate)
        raise NotSigned(
            f"{who} come with the certificate of {printable.text(repr(name), limit=80)}"
        )
    if not certificates.is_issued_by(certificate, authority) or not _is_client(certificate):
        raise NotSigned(
            f"{who} come with a certificate that this federation's authority gave no site"
        )
    if not certificate.not_valid_before_utc - _SKEW <= now <= certificate.not_valid_after_utc:
        raise NotSigned(f"{who} come with a certificate that is not valid now")
    _verify(
        certificate,
        keys.signature,
        _keys_statement(context, keys.site, keys.sealing_key, keys.masking_key),
        f"{who} are not signed by it for this run, round, global model and exchange",
    )


def check_apart(keys: Sequence[SumKeys]) -> None:
    """Raises ValueError if two sites have the same name or the same key."""
    names = {each.site for each in keys}
    public = {each.sealing_key for each in keys} | {each.masking_key for each in keys}
    if len(names) != len(keys) or len(public) != 2 * len(keys):
        raise ValueError("a site or a key that comes twice")
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    owners = {_certificate(each).public_key().public_bytes(*form) for each in keys}
    if len(owners) != len(keys):
        raise ValueError("two sites with one certificate's key")


@dataclasses.dataclass(frozen=True)
class Roster:
    """The sites of an exchange and their keys, checked against one another.

    Raises:
      ValueError: if there are too few or too many sites, a site occurs twice, or keys are repeated.
    """

    keys: Mapping[str, SumKeys]

    @classmethod
    def of(cls, keys: Sequence[SumKeys], context: Context) -> Roster:
        by_name = {each.site: each for each in sorted(keys, key=lambda each: each.site)}
        if not LEAST_SITES <= len(keys) <= context.settings.max_sites:
            raise ValueError(
                f"{len(keys)} sites; expected {LEAST_SITES} to {context.settings.max_sites}"
            )
        check_apart(keys)
        if len(keys) < context.settings.threshold:
            raise ValueError(
                f"{len(keys)} sites, fewer than the threshold {context.settings.threshold}"
            )
        return cls(by_name)

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites' names, sorted."""
        return tuple(self.keys)

    def place(self, site: str) -> int:
        """Returns the place of a site's shares, counted from 1."""
        return self.sites.index(site) + 1

    def statement(self, context: Context, survivors: Collection[str]) -> bytes:
        """Returns what a site signs to agree to the sum of `survivors`."""
        digest = hashlib.sha256()
        for each in self.keys.values():
            for part in (each.site.encode(), each.sealing_key, each.masking_key):
                digest.update(len(part).to_bytes(4, "big") + part)
        return context.statement("consent", digest.hexdigest(), sorted(survivors))

    def verify_consent(
        self, site: str, signature: bytes, context: Context, survivors: Collection[str]
    ) -> None:
        """Raises NotSigned unless `site` has signed for the sum of exactly these sites."""
        _verify(
            _certificate(self.keys[site]),
            signature,
            self.statement(context, survivors),
            f"the consent of site {site!r} is not signed by it for these sites",
        )


def _keys_statement(context: Context, site: str, sealing_key: bytes, masking_key: bytes) -> bytes:
    return context.statement("keys", site, sealing_key.hex(), masking_key.hex())


def _certificate(keys: SumKeys) -> x509.Certificate:
    try:
        if len(keys.certificate) > MAX_CERTIFICATE:
            raise ValueError(f"{len(keys.certificate)} bytes")
        return certificates.load_der(keys.certificate)
    except ValueError as error:
        raise NotSigned(
            f"the keys of site {printable.text(repr(keys.site), limit=80)} come with what is not a "
            "certificate"
        ) from error


def _is_client(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return ExtendedKeyUsageOID.CLIENT_AUTH in usage


def _verify(certificate: x509.Certificate, signature: bytes, statement: bytes, what: str) -> None:
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or len(signature) > MAX_SIGNATURE:
        raise NotSigned(what)
    try:
        key.verify(signature, statement, _ALGORITHM)
    except InvalidSignature as error:
        raise NotSigned(what) from error

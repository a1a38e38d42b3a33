"""Keys of one exchange: agreement (X25519), derivation (HKDF), sealed shares (ChaCha20-Poly1305).

Every key is derived for one purpose in one exchange, which `Context` describes, so that keys and
streams are never used twice.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from federated.secure_aggregation.shamir import SHARE_BYTES
from federated.wire.messages import SumPlace, SumSettings

KEY_BYTES = 32
_NONCE_BYTES, _TAG_BYTES = 12, 16
SEALED_BYTES = _NONCE_BYTES + 2 * SHARE_BYTES + _TAG_BYTES
_PURPOSE = "federated secure aggregation 1"


@dataclasses.dataclass(frozen=True)
class Context:
    """The description of one exchange; all of it is signed, and enters every derived key.

    Attributes:
      model: digest of the global model that the sites trained from. A server that gave the sites
        different models could infer updates from their sum (Pasquini et al. 2022, Eluding Secure
        Aggregation in Federated Learning via Model Inconsistency).
    """

    run: str
    place: SumPlace
    model: str
    settings: SumSettings

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-256 of the context, 32 bytes."""
        return hashlib.sha256(_canonical([_PURPOSE, dataclasses.asdict(self)])).digest()

    def statement(self, what: str, *parts: object) -> bytes:
        """Returns the bytes that a site signs to state `what` in this exchange."""
        return _canonical([_PURPOSE, what, self.digest.hex(), *parts])


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def new_secret() -> bytes:
    """Returns 32 random bytes: a private key of X25519, or the seed of a self mask."""
    return secrets.token_bytes(KEY_BYTES)


def public_key(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def is_usable(public: bytes) -> bool:
    """Returns whether sites can agree on secrets with a public key.

    Points of small order yield no secret.
    """
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return False
    return True


def agreed(private: bytes, public: bytes, context: Context, purpose: str, *names: str) -> bytes:
    """Returns the 32-byte key that two sites share for one purpose.

    Args:
      names: the sites whose key it is, in an order that both use.
    Raises:
      ValueError: if the public key has another size, or yields no secret (a point of small order).
    """
    shared = X25519PrivateKey.from_private_bytes(private).exchange(
        X25519PublicKey.from_public_bytes(public)
    )
    return derived(shared, context, purpose, *names)


def derived(secret: bytes, context: Context, purpose: str, *names: str) -> bytes:
    """Returns a 32-byte key for one purpose (HKDF with SHA-256)."""
    info = _canonical([purpose, *names])
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=context.digest, info=info).derive(secret)


def pair_seed(private: bytes, public: bytes, context: Context, site: str, other: str) -> bytes:
    """Returns the seed of the stream that two sites share; it is the same at both."""
    return agreed(private, public, context, "pair mask", *sorted((site, other)))


def self_seed(secret: bytes, context: Context, site: str) -> bytes:
    """Returns the seed of a site's own stream."""
    return derived(secret, context, "self mask", site)


def commitment(secret: bytes, context: Context, site: str) -> bytes:
    """Returns 32 bytes that commit to the secret of a self mask and reveal nothing about it."""
    return derived(secret, context, "commitment", site)


def seal(key: bytes, mask_share: bytes, key_share: bytes) -> bytes:
    """Returns two shares, encrypted and authenticated: `SEALED_BYTES` bytes."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, mask_share + key_share, None)


def unseal(key: bytes, sealed: bytes) -> tuple[bytes, bytes]:
    """Returns (share of the self mask's secret, share of the masking key).

    Raises:
      ValueError: if the bytes were not sealed with this key.
    """
    if len(sealed) != SEALED_BYTES:
        raise ValueError(f"a sealed share has {len(sealed)} bytes; expected {SEALED_BYTES}")
    try:
        opened = ChaCha20Poly1305(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None)
    except InvalidTag as error:
        raise ValueError("it was changed, or sealed with another key") from error
    return opened[:SHARE_BYTES], opened[SHARE_BYTES:]

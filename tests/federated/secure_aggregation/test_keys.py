import dataclasses
import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from federated.secure_aggregation import keys
from federated.wire.messages import SumPlace
from tests.federated.secure_aggregation import exchanges

CONTEXT = exchanges.context(3)


def test_agreement_is_that_of_the_standard():
    # X25519, then RFC 5869 written out: extract, and one block of expand.
    mine, theirs = keys.new_secret(), keys.new_secret()
    shared = X25519PrivateKey.from_private_bytes(theirs).exchange(
        X25519PublicKey.from_public_bytes(keys.public_key(mine))
    )
    extracted = hmac.digest(CONTEXT.digest, shared, "sha256")
    expanded = hmac.digest(extracted, b'["pair mask","C1","C2"]' + b"\x01", "sha256")
    assert keys.pair_seed(mine, keys.public_key(theirs), CONTEXT, "C2", "C1") == expanded


def test_two_sites_agree_on_one_seed_and_on_different_ones_for_everything_else():
    mine, theirs = keys.new_secret(), keys.new_secret()
    here = keys.pair_seed(mine, keys.public_key(theirs), CONTEXT, "C1", "C2")
    assert here == keys.pair_seed(theirs, keys.public_key(mine), CONTEXT, "C2", "C1")
    public = keys.public_key(theirs)
    others = [
        keys.pair_seed(mine, public, CONTEXT, "C1", "C3"),
        keys.agreed(mine, public, CONTEXT, "share", "C1", "C2"),
        keys.agreed(mine, public, CONTEXT, "share", "C2", "C1"),
        keys.pair_seed(mine, public, exchanges.context(3, exchange=2), "C1", "C2"),
        keys.pair_seed(mine, public, exchanges.context(3, model="cd" * 32), "C1", "C2"),
        keys.self_seed(mine, CONTEXT, "C1"),
        keys.commitment(mine, CONTEXT, "C1"),
    ]
    assert len({here, *others}) == 8 and all(len(key) == 32 for key in others)


def test_every_part_of_the_context_changes_its_digest():
    settings = CONTEXT.settings
    changed = [
        dataclasses.replace(CONTEXT, run="other"),
        dataclasses.replace(CONTEXT, model="cd" * 32),
        *(
            dataclasses.replace(CONTEXT, place=place)
            for place in (SumPlace(1, 1, 1), SumPlace(0, 2, 1), SumPlace(0, 1, 2))
        ),
        *(
            dataclasses.replace(CONTEXT, settings=dataclasses.replace(settings, **{name: value}))
            for name, value in (
                ("threshold", 3),
                ("max_sites", 4),
                ("value_range", 32.0),
                ("fraction_bits", 31),
            )
        ),
    ]
    assert len({each.digest for each in [CONTEXT, *changed]}) == 10
    assert CONTEXT.digest == exchanges.context(3).digest


def test_a_sealed_share_opens_with_its_key_only_and_unchanged():
    key, pair = bytes(range(32)), (b"\x01" * 66, b"\x02" * 66)
    sealed = keys.seal(key, *pair)
    assert len(sealed) == keys.SEALED_BYTES and keys.unseal(key, sealed) == pair
    assert keys.seal(key, *pair) != sealed  # another nonce
    for place in (0, 40, len(sealed) - 1):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(ValueError, match="changed, or sealed with another key"):
            keys.unseal(key, bytes(changed))
    with pytest.raises(ValueError, match="another key"):
        keys.unseal(bytes(32), sealed)
    with pytest.raises(ValueError, match=f"expected {keys.SEALED_BYTES}"):
        keys.unseal(key, sealed[:-1])


def test_a_public_key_of_small_order_gives_no_secret():
    with pytest.raises(ValueError):
        keys.pair_seed(keys.new_secret(), bytes(32), CONTEXT, "C1", "C2")
    with pytest.raises(ValueError):
        keys.pair_seed(keys.new_secret(), bytes(31), CONTEXT, "C1", "C2")

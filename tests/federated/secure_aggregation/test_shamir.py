import itertools

import pytest

from federated.secure_aggregation import shamir
from federated.secure_aggregation.shamir import PRIME


def solved(shares):
    """Returns the constant term by Gaussian elimination, another way than Lagrange's."""
    rows = [
        [pow(place, power, PRIME) for power in range(len(shares))] + [int.from_bytes(share, "big")]
        for place, share in shares.items()
    ]
    for column in range(len(rows)):
        pivot = next(r for r in range(column, len(rows)) if rows[r][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        inverse = pow(rows[column][column], PRIME - 2, PRIME)
        rows[column] = [value * inverse % PRIME for value in rows[column]]
        for r in range(len(rows)):
            if r != column:
                factor = rows[r][column]
                rows[r] = [
                    (a - factor * b) % PRIME for a, b in zip(rows[r], rows[column], strict=True)
                ]
    return rows[0][-1].to_bytes(32, "big")


def test_shares_by_hand():
    coefficients = iter([3, 2])  # 7 + 3 x + 2 x**2
    shares = shamir.split(
        (7).to_bytes(32, "big"), count=4, threshold=3, below=lambda top: next(coefficients)
    )
    assert {place: int.from_bytes(share, "big") for place, share in shares.items()} == {
        1: 12,
        2: 21,
        3: 34,
        4: 51,
    }
    for places in itertools.combinations(shares, 3):
        assert shamir.combine({p: shares[p] for p in places}) == (7).to_bytes(32, "big")


def test_the_prime_is_that_of_the_mersenne_numbers():
    value = 4  # Lucas and Lehmer: 2**p - 1 is prime if and only if this ends with 0
    for _ in range(519):
        value = (value * value - 2) % PRIME
    assert value == 0


@pytest.mark.parametrize(("count", "threshold"), [(3, 2), (5, 3), (8, 5), (128, 65)])
def test_any_threshold_of_shares_gives_the_secret_and_agrees_with_elimination(count, threshold):
    secret = bytes(range(224, 256))
    shares = shamir.split(secret, count=count, threshold=threshold)
    places = sorted(shares)
    for chosen in (places[:threshold], places[-threshold:], places[::2][:threshold]):
        if len(chosen) == threshold:
            some = {place: shares[place] for place in chosen}
            assert shamir.combine(some) == secret
            if threshold < 10:
                assert solved(some) == secret


def test_one_share_fewer_fits_every_secret():
    # Two shares of a threshold of three: for any secret there is a polynomial through both.
    shares = shamir.split(b"\xff" * 32, count=3, threshold=3)
    known = {place: int.from_bytes(shares[place], "big") for place in (1, 2)}
    for other in (bytes(32), b"\x01" * 32):
        secret = int.from_bytes(other, "big")
        first, second = known[1] - secret, known[2] - secret  # a + b, 2 a + 4 b
        b = (second - 2 * first) * pow(2, -1, PRIME) % PRIME
        a = (first - b) % PRIME
        third = (secret + 3 * a + 9 * b) % PRIME
        made_up = {1: shares[1], 2: shares[2], 3: third.to_bytes(66, "big")}
        assert shamir.combine(made_up) == other


def test_shares_of_another_secret_are_found():
    shares = shamir.split(b"\x07" * 32, count=6, threshold=3)
    others = shamir.split(b"\x07" * 32, count=6, threshold=3)
    right = {place: shares[place] for place in (2, 4, 5)}
    assert shamir.differing(right, shares) == []
    given = {**shares, 1: others[1], 6: others[6], 3: b""}
    assert shamir.differing(right, given) == [1, 3, 6]


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="31 bytes; expected 32"):
        shamir.split(bytes(31), count=3, threshold=2)
    with pytest.raises(ValueError, match="threshold is 4; expected 1 to 3"):
        shamir.split(bytes(32), count=3, threshold=4)
    with pytest.raises(ValueError, match="places from 1 on"):
        shamir.combine({})
    with pytest.raises(ValueError, match="places from 1 on"):
        shamir.combine({0: bytes(66)})
    with pytest.raises(ValueError, match="65 bytes"):
        shamir.combine({1: bytes(65)})
    with pytest.raises(ValueError, match="too large"):
        shamir.combine({1: b"\xff" * 66})
    shares = shamir.split(bytes(32), count=4, threshold=3)
    with pytest.raises(ValueError, match="not shares of one secret"):
        shamir.combine({1: shares[1], 2: shares[2], 3: shares[4]})

import numpy as np

from runkit import randomness


def test_numbers_depend_on_the_key_and_not_on_earlier_draws():
    first = randomness.generator(3, "patch", 5, 1).random(4)
    randomness.generator(3, "patch", 5, 0).random(100)
    np.testing.assert_array_equal(first, randomness.generator(3, "patch", 5, 1).random(4))


def test_every_part_of_the_key_matters_and_text_differs_from_numbers():
    keys = [
        (3, "patch", 5, 1),
        (4, "patch", 5, 1),
        (3, "noise", 5, 1),
        (3, "patch", 51),
        (3, "patch", "5", 1),
        (3, "patch", 5, "1"),
    ]
    draws = {tuple(randomness.generator(*key).integers(0, 2**62, 2).tolist()) for key in keys}
    assert len(draws) == len(keys)


def test_draws_are_uniform():
    values = np.array([randomness.generator(1, "u", i).random() for i in range(4000)])
    assert abs(values.mean() - 0.5) < 4 * np.sqrt(1 / 12 / 4000)
    counts = np.histogram(values, bins=10, range=(0, 1))[0]
    assert ((counts - 400) ** 2 / 400).sum() < 33.7  # chi-square, 9 degrees of freedom, p = 0.0001


def test_seed_pair_is_two_int32():
    pair = randomness.seed_pair(1, "latent", 2, 3)
    assert pair.dtype == np.int32 and pair.shape == (2,)
    assert not np.array_equal(pair, randomness.seed_pair(1, "latent", 2, 4))

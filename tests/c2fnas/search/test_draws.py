import numpy as np
import pytest

from c2fnas.search.draws import Draws


def test_the_same_purpose_draws_the_same_numbers_and_another_one_others():
    one = [Draws(1, "path", 2).below(1000) for _ in range(3)]
    assert len(set(one)) == 1
    draws = Draws(1, "path", 2)
    assert [draws.below(1000) for _ in range(5)] != [draws.below(1000) for _ in range(5)]
    assert len({Draws(seed, "path").below(10**9) for seed in range(50)}) == 50


def test_numbers_are_the_raw_output_of_the_generator_scaled():
    from runkit import randomness

    raw = randomness.generator(7, "x").bit_generator.random_raw(20)
    draws = Draws(7, "x")
    assert [draws.below(12) for _ in range(20)] == [int(n) * 12 >> 64 for n in raw]


@pytest.mark.parametrize("probability", [0.0, 0.1, 1.0])
def test_chance_comes_as_often_as_it_says(probability):
    draws = Draws(3, "chance", int(100 * probability))
    count = sum(draws.chance(probability) for _ in range(4000))
    spread = 4 * np.sqrt(4000 * probability * (1 - probability))
    assert abs(count - 4000 * probability) <= spread

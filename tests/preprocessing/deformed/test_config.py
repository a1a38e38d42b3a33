"""Settings of two sites of deformed copies: their counts, and bad ones named."""

import pytest

from preprocessing.deformed.config import SITES, DeformedConfig


def test_counts_are_by_site():
    config = DeformedConfig(split_c1=(4, 2, 1), split_c2=(5, 3, 2))
    assert config.counts == {"C1": (4, 2, 1), "C2": (5, 3, 2)} and tuple(config.counts) == SITES


@pytest.mark.parametrize("counts", [(1, 0, 1), (1, 1), (5, 1, -1)])
@pytest.mark.parametrize("name", ["split_c1", "split_c2"])
def test_bad_counts_are_named(name, counts):
    with pytest.raises(ValueError) as caught:
        DeformedConfig(**{name: counts})
    assert str(caught.value) == (
        f"{name} is {counts}; expected at least one case each for training, validation, test"
    )

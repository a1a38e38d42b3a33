import pytest

from experiments.search.supernet_settings import SupernetSettings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"supernet_steps": 0}, "supernet_steps is 0; expected at least 1"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"most_gmac": -1.0}, "most_gmac is -1.0; expected a finite number above 0, or 0"),
        ({"most_gmac": float("inf")}, "most_gmac is inf"),
    ],
)
def test_a_wrong_setting_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        SupernetSettings(**change)


def test_no_limit_by_default():
    assert SupernetSettings().most_gmac == 0

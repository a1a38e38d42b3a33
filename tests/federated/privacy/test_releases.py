import math

import pytest

from federated.privacy import releases
from federated.privacy.releases import Guarantee, Release

GAUSSIAN, PURE = Release("gaussian", 4.0), Release("pure", 0.5)


def add_counts(multipliers, delta):
    """An accountant whose epsilon reveals its arguments."""
    return sum(1000 * sigma + count for sigma, count in multipliers.items())


def together(*of):
    return releases.together(of, accountant=add_counts, delta=1e-5)


def test_the_accountant_sees_noise_in_units_of_what_a_patient_moves():
    """Replacing a patient moves a clipped change by up to twice the clipping norm.

    Noise of 4 norms is therefore 2 of these units.
    """
    assert together(GAUSSIAN, GAUSSIAN, GAUSSIAN) == Guarantee(2003.0, 1e-5)
    assert together(GAUSSIAN, Release("gaussian", 6.0)) == Guarantee(2001.0 + 3001.0, 1e-5)


def test_pure_epsilons_add_up_and_need_no_delta():
    assert together(PURE, PURE) == Guarantee(1.0, 0.0)
    assert together(PURE, GAUSSIAN) == Guarantee(2001.5, 1e-5)
    assert together() == Guarantee(0.0, 0.0)


def test_one_release_without_a_guarantee_leaves_none():
    assert together(PURE, Release("none"), GAUSSIAN) == Guarantee(None, 0.0)
    assert "none" in str(together(Release("none")))


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [
        (0.0, "0"),
        (0.5, "0.500"),
        (0.00123456, "0.00124"),
        (7.2049, "7.21"),
        (40.01, "40.1"),
        (70333.0, "70,333"),
        (7033301.2, "7,033,302"),
        (1e-6, "0.00000100"),
        (9.9e-7, "below 0.000001"),
        (5e-324, "below 0.000001"),  # a site may tell any number
        (math.inf, "infinite"),
    ],
)
def test_an_epsilon_is_rounded_up_however_absurd_it_is(epsilon, text):
    assert releases.number(epsilon) == text
    assert text in str(Guarantee(epsilon, 1e-6))

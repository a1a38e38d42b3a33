import itertools

import pytest

from federated.errors import PolicyRefused
from federated.secure_aggregation import ring
from federated.site.sums.sum_terms import SumTerms
from federated.wire.messages import SumSettings


def run(threshold, sites):
    return SumSettings(threshold, sites, 64.0, ring.FRACTION_BITS)


@pytest.mark.parametrize(
    ("threshold", "sites", "message"),
    [
        (4, 4, r"is 5, and this run has at most 4 sites; give --min_sum_sites=4 or less"),
        (3, 5, r"opens sums of 3 .*--secure_aggregation_threshold=5, or .*--min_sum_sites=4"),
    ],
)
def test_terms_that_a_run_cannot_keep_are_refused_with_both_remedies(threshold, sites, message):
    with pytest.raises(PolicyRefused, match=message):
        SumTerms(min_sum_sites=5).check(run(threshold, sites))


def test_terms_hold_exactly_where_the_others_cannot_do_without_this_site():
    """By counting: a sum is opened if the threshold of the sites in it agree."""
    for sites in range(3, 9):
        for threshold, least in itertools.product(range(sites // 2 + 1, sites + 1), range(2, 10)):
            others_suffice = any(size - 1 >= threshold for size in range(threshold, least))
            terms = SumTerms(min_sum_sites=least)
            if least > sites or others_suffice:
                with pytest.raises(PolicyRefused):
                    terms.check(run(threshold, sites))
            else:
                terms.check(run(threshold, sites))


def test_the_default_holds_in_every_run():
    for sites in range(3, 65):
        for threshold in range(sites // 2 + 1, sites + 1):
            SumTerms().check(run(threshold, sites))


def test_values_that_mean_nothing_are_named():
    for name, value in (("min_sum_sites", 1), ("repeated_sums", -1)):
        with pytest.raises(ValueError, match=f"{name} is {value}; expected"):
            SumTerms(**{name: value})

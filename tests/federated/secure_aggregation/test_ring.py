import dataclasses
from fractions import Fraction

import numpy as np
import pytest

from federated import errors
from federated.secure_aggregation import ring
from federated.secure_aggregation.ring import Ring
from federated.wire.messages import SumSettings

GOOD = SumSettings(2, 3, 64.0, ring.FRACTION_BITS)


def test_fixed_point_by_hand():
    words = Ring(64.0, 3).words(np.float32([1.5, -0.25]), np.float32([1.0, 0.0]), 3, what="u")
    np.testing.assert_array_equal(words.view(np.int64), [3 * 2**31, -3 * 2**30])
    back = Ring(64.0, 3).mean(words, np.float32([1.0, 0.0]), 3)
    np.testing.assert_array_equal(back, [1.5, -0.25])


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2"])
def test_the_mean_is_within_the_stated_bound_of_the_mean_in_rational_numbers(dtype):
    generator, rule = np.random.default_rng(7), Ring(64.0, 3)
    model = generator.normal(size=400).astype(dtype)
    examples = [30, 7, 5]
    updates = [(model + generator.normal(size=400) / 8).astype(dtype) for _ in examples]
    total = sum(
        rule.words(update, model, n, what="u") for update, n in zip(updates, examples, strict=True)
    )
    found = rule.mean(total, model, sum(examples))
    largest = float(max(np.abs(array).max() for array in (model, *updates)))
    rounding = Fraction(3, sum(examples) * 2 ** (ring.FRACTION_BITS + 1))
    # difference, two products, the conversions, the division and the last sum, in float64
    bound = rounding + Fraction(16 * largest) / 2**53
    for place in range(400):
        exact = sum(Fraction(float(u[place])) * n for u, n in zip(updates, examples, strict=True))
        assert abs(Fraction(float(found[place])) - exact / sum(examples)) <= bound
    assert bound < 1e-11 + 1e-14 * 8


def test_no_sum_of_the_largest_updates_wraps():
    for value_range, sites in ((64.0, 3), (0.37, 5), (2.0**20, 128), (1.1, 71)):
        rule = Ring(value_range, sites)
        most, unit = rule.max_examples, 2**ring.FRACTION_BITS
        largest = sites * (Fraction(value_range) * most * unit + Fraction(1, 2))
        assert largest <= 2**63 - 1
        one_more = sites * (Fraction(value_range) * (most + 1) * unit + 2**10)
        assert one_more > 2**63 - 1, "more cases would fit"
        rule.check_examples("C1", most)
        with pytest.raises(errors.UpdateRefused, match=rf"'C1' has {most + 1} .* at most {most}"):
            rule.check_examples("C1", most + 1)


@pytest.mark.parametrize(("largest", "sites"), [(64.0, 3), (0.37, 5), (1.1, 71), (np.pi, 128)])
def test_the_ends_of_the_range_come_back_as_they_were(largest, sites):
    rule = Ring(largest, sites)
    most = rule.max_examples
    for change in (largest, -largest):
        words = rule.words(np.array([change]), np.zeros(1), most, what="u")
        total = sum((words.copy() for _ in range(sites - 1)), words)
        exact = sites * int(words.view(np.int64)[0])
        assert abs(exact) < 2**63 and int(total.view(np.int64)[0]) == exact
        np.testing.assert_allclose(
            rule.mean(total, np.zeros(1), sites * most), [change], rtol=1e-15
        )


@pytest.mark.parametrize(
    ("value", "shown"), [(64.1, "64.1"), (np.nan, "not finite"), (-np.inf, "not finite")]
)
def test_a_value_outside_the_range_is_one_clear_error(value, shown):
    with pytest.raises(errors.UpdateRefused, match=f"update of round 3: .* {shown}; .*64 at most"):
        Ring(64.0, 3).words(np.array([0.0, value]), np.zeros(2), 5, what="update of round 3")


def test_a_range_that_holds_no_case_is_refused():
    with pytest.raises(ValueError, match=r"1.67772e\+07 by each of 128 sites does not fit"):
        Ring(2.0**24, 128)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_sites": 2}, "3 to 128 sites, not for 2"),
        ({"max_sites": 129, "threshold": 65}, "not for 129"),
        ({"threshold": 1}, "threshold of secure aggregation is 1; of 3"),
        ({"max_sites": 4}, "threshold of secure aggregation is 2; of 4 .* more than half"),
        ({"threshold": 4}, "is 4; of 3"),
        ({"fraction_bits": 31}, r"2\*\*-31, this release in 2\*\*-32"),
        ({"value_range": 0.0}, "range of secure aggregation is 0"),
        ({"value_range": float("nan")}, "is nan"),
        ({"value_range": 2.0**25}, "range of secure"),
    ],
)
def test_settings_that_protect_nothing_are_refused(change, message):
    ring.check_settings(GOOD)
    with pytest.raises(ValueError, match=message):
        ring.check_settings(dataclasses.replace(GOOD, **change))

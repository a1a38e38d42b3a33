import pytest

from runkit import byte_counts


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (12_300_000, "12.3 MB"),
        (2_500_000_000, "2.5 GB"),
        (7.4e12, "7400.0 GB"),
        (-1500, "-1.5 kB"),
    ],
)
def test_a_number_of_bytes_is_in_its_unit(nbytes, text):
    assert byte_counts.text(nbytes) == text

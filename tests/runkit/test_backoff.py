import itertools

from runkit import backoff


def test_pauses_double_up_to_the_longest():
    pauses = backoff.pauses(first_s=0.5, longest_s=3.0)
    assert list(itertools.islice(pauses, 5)) == [0.5, 1.0, 2.0, 3.0, 3.0]

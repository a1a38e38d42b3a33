"""How often a site may log in, against arithmetic by hand."""

from __future__ import annotations

import pytest

from federated.connections.login_pace import LoginPace
from federated.errors import TooManyCalls


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_few_logins_in_a_row_need_not_wait_and_the_next_come_once_per_second():
    pace = LoginPace(at_once=3, every_s=1.0, clock=Clock())
    assert [pace.reserve("C1") for _ in range(6)] == [0.0, 0.0, 0.0, 1.0, 2.0, 3.0]
    assert pace.reserve("C2") == 0.0  # another site has a pace of its own


def test_a_pause_earns_logins_for_its_length_up_to_the_first_few():
    clock = Clock()
    pace = LoginPace(at_once=3, every_s=1.0, clock=clock)
    for _ in range(5):
        pace.reserve("C1")
    clock.now += 2.5  # the fifth login waited until 1002.0
    assert pace.reserve("C1") == pytest.approx(0.5)
    clock.now += 3600.0
    assert [pace.reserve("C1") for _ in range(4)] == [0.0, 0.0, 0.0, 1.0]


def test_a_login_that_would_wait_for_more_than_ten_seconds_is_refused_and_takes_no_place():
    clock = Clock()
    pace = LoginPace(at_once=2, every_s=4.0, clock=clock)
    assert [pace.reserve("C1") for _ in range(4)] == [0.0, 0.0, 4.0, 8.0]
    for _ in range(50):
        with pytest.raises(TooManyCalls, match="'C1' logs in too often"):
            pace.reserve("C1")
    clock.now += 4.0
    assert pace.reserve("C1") == 8.0

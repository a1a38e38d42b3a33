import pytest

from tests.soak import cost


@pytest.mark.parametrize(("seconds", "told"), [(45.4, "45 s"), (300, "5 min"), (7260, "121 min")])
def test_a_cost_is_told_in_seconds_or_minutes(capsys, seconds, told):
    cost.tell("100 kills", seconds)
    assert capsys.readouterr().out == f"100 kills: about {told} on one core\n"

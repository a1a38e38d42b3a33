import dataclasses
import json

import pytest

from federated.server import config as server_config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_num_clients": 3, "max_num_clients": 2}, "min_num_clients is 3"),
        ({"port": 70000}, "port is 70000; expected 1 to 65535, or 0 for any free one"),
        ({"local_epochs": 0}, "local_epochs is 0; expected at least 1"),
        ({"token_lifetime_s": 0.0}, "token_lifetime_s is 0.0; expected seconds, more than 0"),
        ({"poll_s": 0.0}, "poll_s is 0.0; expected seconds, more than 0"),
        ({"transport": "zip"}, "transport is 'zip'; expected 'raw', 'deflate' or 'half'"),
        ({"late_updates": "drop"}, "late_updates is 'drop'; expected 'discard' or 'keep'"),
        ({"max_change_ratio": 1.0}, "max_change_ratio is 1.0; expected more than 1, or 0"),
        ({"max_change_ratio": float("nan")}, "max_change_ratio is nan; expected more than 1"),
        ({"patience_rounds": -1}, "patience_rounds is -1; expected at least 0"),
        ({"min_improvement": -0.1}, "min_improvement is -0.1; expected at least 0"),
        ({"transfers_at_once": 0}, "transfers_at_once is 0; expected at least 1"),
        ({"keep_updates": -1}, "keep_updates is -1; expected at least 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        server_config.ServerConfig(**{"num_rounds": 1, **settings})


def test_settings_are_written_as_json_with_the_rule_spelled_out():
    config = server_config.ServerConfig(
        num_rounds=3, round_deadline_s=float("inf"), aggregation="fedavgm:momentum=0.5"
    )
    written = json.loads(json.dumps(config.to_json(), allow_nan=False))
    assert written["num_rounds"] == 3 and written["round_deadline_s"] == "inf"
    assert written["aggregation"] == "fedavgm:momentum=0.5,learning_rate=1.0"
    assert written.keys() == {field.name for field in dataclasses.fields(config)}


@pytest.mark.parametrize(("timeout_s", "expected"), [(600.0, 60.0), (240.0, 60.0), (100.0, 25.0)])
def test_a_site_is_heard_four_times_before_it_counts_as_silent(timeout_s, expected):
    """But at least once a minute."""
    config = server_config.ServerConfig(num_rounds=1, heart_beat_timeout_s=timeout_s)
    assert config.heart_beat_s == expected

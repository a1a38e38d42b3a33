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
    every = {field.name for field in dataclasses.fields(config)}
    secure = {name for name in every if name.startswith("secure_aggregation")}
    # Off, it leaves no trace in the log: what a run writes is as in earlier releases.
    assert written.keys() == every - secure and len(secure) == 4
    assert server_config.ServerConfig(**SECURE).to_json().keys() == every


SECURE = {
    "num_rounds": 2,
    "secure_aggregation": True,
    "min_num_clients": 3,
    "max_num_clients": 4,
    "max_change_ratio": 0.0,
    "keep_updates": 0,
}


def test_the_threshold_is_the_smallest_majority_unless_it_is_given():
    for most, given, expected in ((3, 0, 2), (4, 0, 3), (5, 0, 3), (8, 0, 5), (8, 7, 7)):
        config = server_config.ServerConfig(
            **{
                **SECURE,
                "min_num_clients": most,
                "max_num_clients": most,
                "secure_aggregation_threshold": given,
            }
        )
        assert config.sums.threshold == config.sum_policy.threshold == expected
        assert (config.sums.max_sites, config.sums.value_range) == (most, 64.0)
    assert server_config.ServerConfig(num_rounds=1).sums is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_rounds": 0}, "num_rounds 0: .* omit --secure_aggregation"),
        ({"min_num_clients": 2}, "min_num_clients 2: of two sites, each can subtract"),
        (
            {"max_num_clients": 7},
            "min_num_clients 3 below the threshold 4: .* --min_num_clients=4",
        ),
        ({"max_change_ratio": 10.0}, "max_change_ratio 10: .* give --max_change_ratio=0"),
        ({"aggregation": "median"}, "aggregation median: .* --aggregation=fedavg"),
        ({"aggregation": "trimmed_mean"}, "aggregation trimmed_mean"),
        ({"keep_updates": 1}, "keep_updates 1: .* the audit .* give --keep_updates=0"),
        ({"late_updates": "keep"}, "late_updates keep: .* --late_updates=discard"),
        ({"secure_aggregation_threshold": 5}, "below the threshold 5"),
        ({"secure_aggregation_threshold": 2}, "threshold of secure aggregation is 2; of 4"),
        ({"secure_aggregation_threshold": -1}, "secure_aggregation_threshold is -1"),
        ({"secure_aggregation_range": 0.0}, "secure_aggregation_range is 0.0"),
        ({"secure_aggregation_range": 2.0**25}, "range of secure aggregation is 3.35544e\\+07"),
        ({"secure_aggregation_deadline_s": 0.0}, "secure_aggregation_deadline"),
    ],
)
def test_what_secure_aggregation_excludes_is_refused_with_reason_and_remedy(change, message):
    with pytest.raises(ValueError, match=message):
        server_config.ServerConfig(**{**SECURE, **change})


def test_everything_that_is_excluded_is_named_at_once():
    with pytest.raises(ValueError) as caught:
        server_config.ServerConfig(num_rounds=1, secure_aggregation=True)
    for word in ("min_num_clients", "--max_change_ratio=0", "--keep_updates=0"):
        assert word in str(caught.value)


@pytest.mark.parametrize(("timeout_s", "expected"), [(600.0, 60.0), (240.0, 60.0), (100.0, 25.0)])
def test_a_site_is_heard_four_times_before_it_counts_as_silent(timeout_s, expected):
    """But at least once a minute."""
    config = server_config.ServerConfig(num_rounds=1, heart_beat_timeout_s=timeout_s)
    assert config.heart_beat_s == expected

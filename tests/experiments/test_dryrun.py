"""The program that tries a profile out: what it refuses before it builds anything."""

import pytest

from tests.experiments.programs import refused


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--devices=0", "--devices is 0; expected at least 1"),
        ("--gpu_memory_mib=-5", "--gpu_memory_mib is -5; expected at least 0"),
        ("--num_rounds=-1", "--num_rounds is -1; expected at least 0"),
    ],
)
def test_a_wrong_setting_is_named(flag, words):
    assert refused("dryrun", "--filters=2", flag) == words

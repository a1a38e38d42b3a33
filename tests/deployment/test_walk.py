import re

import pytest

from tests.deployment import guide, network, walk


def test_the_walk_takes_every_command_of_the_guides(tmp_path):
    """A step of a guide that the walk leaves out would be a command that is never tested."""
    source = (guide.DOCS.parent / "tests" / "deployment" / "walk.py").read_text()
    named = set(re.findall(r'"((?:hospital|operator|server) [a-z]+)"', source))
    assert named == set(guide.steps())


def test_a_deployment_from_the_first_key_to_the_audit(tmp_path):
    reason = network.why_not()
    if reason:
        pytest.skip(reason)
    said = []
    done = walk.Walk(tmp_path / "walk", toys=True, say=said.append)
    done.run()
    assert done.used == set(guide.steps())

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.skipif(
    not hasattr(os, "fork"), reason="kills forked children; this system cannot fork"
)
def test_killed_anywhere_and_run_again_gives_the_same_store(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.preprocessing.crash_program", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["problems"] == []
    assert found["points"] > 40 and found["attempts"] > found["points"]

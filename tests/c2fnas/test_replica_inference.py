"""Windows shared over replicas."""

import json

from tests import forked


def test_windows_shared_over_replicas_give_the_logits_of_one_device():
    done = forked.run("tests.c2fnas.replica_inference_program")
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["largest"] > 1
    assert result["2"] < 1e-5 and result["4"] < 1e-5
    assert result["error"].startswith("6 windows for 4 replicas")

"""Claims of trainings between processes; a claim ends with its process."""

import subprocess
import sys

from experiments.search.shared_work import SharedWork

CLAIMS = (
    "import sys; from experiments.search.shared_work import SharedWork; "
    "shared = SharedWork(sys.argv[1])\n"
    "with shared.alone(): claim = shared.claim('one')\n"
    "print(claim is not None, flush=True); sys.stdin.read()"
)


def test_a_training_is_claimed_once_until_its_process_ends(tmp_path):
    shared = SharedWork(tmp_path)
    other = subprocess.Popen(
        [sys.executable, "-c", CLAIMS, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        assert other.stdout.readline() == "True\n"
        with shared.alone():
            assert shared.claim("one") is None
            assert shared.claim("two") is not None
        other.kill()
        other.wait()
        with shared.alone():
            assert shared.claim("one") is not None


def test_a_claim_that_is_given_up_is_free_and_one_that_is_done_leaves_nothing(tmp_path):
    shared = SharedWork(tmp_path)
    with shared.alone(), shared.claim("one"):
        assert shared.claim("one") is None
    with shared.alone():
        again = shared.claim("one")
        again.done()
    assert list((tmp_path / "claims").iterdir()) == []

import subprocess
import sys
import textwrap

import pytest

from c2fnas.threads import set_up
from tests import forked


def test_set_up_fixes_threads_and_says_when_it_is_too_late():
    code = """
    import os
    from c2fnas import threads
    import tensorflow as tf
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "1"
    threads.set_up(3, threads=1)
    assert tf.config.threading.get_intra_op_parallelism_threads() == 1
    tf.zeros(1) + 1
    threads.set_up(3, threads=1)
    try:
        threads.set_up(3, threads=2)
    except RuntimeError as error:
        assert "before anything else" in str(error) and "not with (2, 2)" in str(error), error
    else:
        raise SystemExit("no error")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("threads", "samples", "within", "at_once"),
    [(2, 1, 2, 1), (2, 8, 1, 2), (8, 2, 4, 2), (5, 2, 2, 2), (1, 4, 1, 1)],
)
def test_threads_are_shared_among_the_samples(threads, samples, within, at_once):
    done = forked.run("tests.c2fnas.threads_program", threads, samples)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{within} {threads} {at_once}\n"


def test_threads_below_one_are_refused():
    with pytest.raises(ValueError, match="threads is 0"):
        set_up(1, threads=0)

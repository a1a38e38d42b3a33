"""Settings that apply to every test."""

import gc
import os

import pytest
from absl import logging

# `subprocess` forks for a `preexec_fn`. In that child, whose next step is to start another program,
# gRPC would otherwise tidy up after the servers of earlier tests, and at times end the child.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


@pytest.fixture(autouse=True)
def _logs_as_programs_do():
    """Gives absl the programs' log level, whatever an earlier test has set."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.INFO)
    yield
    logging.set_verbosity(before)


def pytest_collection_finish():
    gc.freeze()  # modules and tests stay to the end: the garbage collector need not look at them


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not _finds_a_gpu():
        pytest.skip("TensorFlow finds no GPU here")


def _finds_a_gpu():
    import tensorflow as tf  # here, because most tests do not need it

    return bool(tf.config.list_physical_devices("GPU"))

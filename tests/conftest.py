"""What holds for every test."""

import os

import pytest
from absl import logging

# `subprocess` forks for a `preexec_fn`. In that child, whose next step is to start another program,
# gRPC would otherwise tidy up after the servers of earlier tests, and at times end the child.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


@pytest.fixture(autouse=True)
def _logs_as_programs_do():
    """absl's own level is that of the programs, whatever a test before this one has made of it."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.INFO)
    yield
    logging.set_verbosity(before)

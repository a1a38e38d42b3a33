"""What holds for every test."""

import pytest
from absl import logging


@pytest.fixture(autouse=True)
def _logs_as_programs_do():
    """absl's own level is that of the programs, whatever a test before this one has made of it."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.INFO)
    yield
    logging.set_verbosity(before)

import shutil

import pytest


@pytest.fixture
def kit(kits, tmp_path):
    """A copy of C1's kit in which a test may plant a fault."""
    shutil.copytree(kits / "C1", tmp_path / "kit")
    return tmp_path / "kit"

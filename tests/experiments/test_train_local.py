"""The program that trains at one site: what it refuses before it computes anything."""

import pytest

from tests.experiments.models.test_prepared_cases import SAME, make_store
from tests.experiments.programs import refused

FLAGS = ("--spacing_mm=3,3,3", "--seed=5")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--initial_model"),
        (["--initial_model=absent.safetensors"], "absent.safetensors"),
        (["--fine_tune=absent"], "absent"),
    ],
)
def test_weights_to_start_from_must_exist(flags, words, tmp_path):
    make_store(tmp_path / "cases", SAME)
    error = refused("train_local", *FLAGS, f"--site_folder={tmp_path}", *flags, folder=tmp_path)
    assert words in error
    assert [path.name for path in tmp_path.iterdir()] == ["cases"]

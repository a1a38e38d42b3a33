"""The program that runs a server."""

import subprocess
import sys

from tests import forked
from tests.experiments.programs import refused


def test_server_starts_without_tensorflow():
    program = (
        "import sys\nsys.modules['tensorflow'] = None\nfrom experiments import serve\nfrom absl import flags\n"
        "print('loaded', 'tensorflow_addons' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=forked.ROOT
    )
    assert done.stdout.strip() == "loaded False", done.stderr


def test_what_secure_aggregation_excludes_is_named_before_anything_is_opened(tmp_path):
    flags = ("--profile=test", "--store=store", "--kit=kit", "--secure_aggregation")
    error = refused("serve", *flags, folder=tmp_path)
    for remedy in ("--min_num_clients=3", "--max_change_ratio=0", "--keep_updates=0"):
        assert remedy in error
    assert not list(tmp_path.iterdir())


def test_a_model_and_a_kit_that_are_not_there_are_named(tmp_path):
    flags = ("--profile=test", "--store=store", "--kit=kit")
    error = refused("serve", *flags, folder=tmp_path)
    assert error.startswith("--initial_model is missing: the initial model")
    error = refused("serve", *flags, "--initial_model=absent.safetensors", folder=tmp_path)
    assert "absent.safetensors" in error
    assert not list(tmp_path.iterdir())

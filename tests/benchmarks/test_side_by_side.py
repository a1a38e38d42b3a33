import os
import re
import subprocess
import sys

from tests.benchmarks import machine, side_by_side


def nothing():
    return {}


def test_a_candidates_peak_is_its_own_and_not_that_of_the_process_that_started_it():
    block = bytearray(b"x") * (600 * 2**20)
    figures = side_by_side._once(side_by_side.Candidate("nothing", f"{__name__}:nothing"))
    assert len(block) == 600 * 2**20 and 1 < figures["peak_mib"] < 300


def test_every_benchmark_says_on_which_processor_it_ran(capsys):
    side_by_side.measure(
        [side_by_side.Candidate("nothing", f"{__name__}:nothing")], repetitions=1, warm_up=0
    )
    assert re.fullmatch(
        r"processor: .+, \d+ cores for this process, "
        r"(AVX-512|AVX2, no AVX-512|no AVX2 found); load .+\n",
        capsys.readouterr().out,
    )
    assert machine.describe().startswith("processor: ")


def test_benchmarks_use_onednn_as_the_programs_do():
    environment = {name: value for name, value in os.environ.items() if "ONEDNN" not in name}
    code = "import os, tests.benchmarks; print(os.environ['TF_ENABLE_ONEDNN_OPTS'])"
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "1"

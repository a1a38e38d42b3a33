import re

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

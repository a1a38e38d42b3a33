import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def test_the_peak_does_not_include_the_parent_process():
    block = bytearray(b"x") * (400 * 2**20)
    program = (
        "from runkit import process_memory as memory\nfirst = memory.peak_bytes()\n"
        "block = bytearray(b'x') * (100 << 20)\ndel block\nprint(first, memory.peak_bytes())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    first, last = map(int, done.stdout.split())
    assert len(block) == 400 * 2**20 and first < 100 * 2**20
    assert 95 * 2**20 < last - first < 150 * 2**20

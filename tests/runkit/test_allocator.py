import platform
import subprocess
import sys

import pytest

# Sixteen threads that each hold a block of a growing size now and then, all at once; prints MiB that stay after they let go.
_PROGRAM = """
import sys, threading
from runkit import allocator
if sys.argv[1] == "yes":
    assert allocator.return_large_blocks()
def resident():
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) / 256
together = threading.Barrier(16)
small = [[] for _ in range(16)]
def hold(own):
    for size in (2**18, 2**19, 2**20, 2**20, 2**20):
        blocks = [bytearray(size) for _ in range(4)]
        own.append(bytes(70_000))  # stays, above what came and went
        together.wait()
        del blocks
        together.wait()
before = resident()
threads = [threading.Thread(target=hold, args=(own,)) for own in small]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_blocks_that_threads_let_go_leave_the_process():
    def kept(wanted):
        done = subprocess.run([sys.executable, "-c", _PROGRAM, wanted], capture_output=True, text=True, check=True)
        return float(done.stdout)

    stays = 16 * 5 * 70_000 / 2**20
    assert kept("yes") < stays + 6
    assert kept("no") > stays + 12  # what the call is for

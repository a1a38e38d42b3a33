import platform
import subprocess
import sys

import pytest

# Sixteen threads hold three megabytes each, one thread after the other; prints the MiB that stay after all have let go.
_PROGRAM = """
import sys, threading
from runkit import allocator
if sys.argv[1] == "yes":
    assert allocator.share_arenas()
def resident():
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) / 256
turn, over = threading.Lock(), threading.Barrier(17)
def hold():
    with turn:
        del [bytearray(100_000) for _ in range(30)][:]
    over.wait()
before = resident()
threads = [threading.Thread(target=hold) for _ in range(16)]
for thread in threads:
    thread.start()
over.wait()
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_threads_use_again_what_others_let_go():
    def kept(wanted):
        done = subprocess.run([sys.executable, "-c", _PROGRAM, wanted], capture_output=True, text=True, check=True)
        return float(done.stdout)

    shared, apart = kept("yes"), kept("no")
    assert 2 * shared < apart


# Page faults of a loop that needs a buffer of a megabyte at a time, beside a larger one that comes and goes.
_BUFFERS = """
import resource, sys
from runkit import allocator
if sys.argv[1] == "yes":
    assert allocator.keep_buffers()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for _ in range(200):
    first, second, third = bytes(2**20), bytes(2**20), bytes(2**20)
    del first, second, third
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_a_buffer_that_was_let_go_is_used_again():
    def faults(wanted):
        done = subprocess.run([sys.executable, "-c", _BUFFERS, wanted], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert 10 * faults("yes") < faults("no")

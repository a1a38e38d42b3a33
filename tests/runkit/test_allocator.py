import platform
import subprocess
import sys

import pytest

from tests import unmeasured

# Sixteen threads hold memory while the others allocate; prints how many pools the C library has
# created for them. The resident memory would not do: it also shrinks when the system pages out.
_POOLS = """
import ctypes, re, sys, tempfile, threading
from runkit import allocator
if sys.argv[1] == "yes":
    assert allocator.share_arenas()
over = threading.Barrier(17)
def hold():
    held = [bytearray(100_000) for _ in range(30)]
    over.wait()
threads = [threading.Thread(target=hold) for _ in range(16)]
for thread in threads:
    thread.start()
over.wait()
c = ctypes.CDLL(None)
c.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile("r") as report:
    stream = ctypes.c_void_p(c.fopen(report.name.encode(), b"w"))
    assert c.malloc_info(0, stream) == 0 and c.fclose(stream) == 0
    print(len(re.findall("<heap nr=", report.read())))
"""


# Prints the page faults of a loop that repeatedly allocates and frees three buffers of 1 MiB.
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


pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="another C library than glibc"
)


def _printed(program, wanted):
    return float(
        subprocess.run(
            [sys.executable, "-c", program, wanted],
            capture_output=True,
            text=True,
            check=True,
            env=unmeasured.environment(),
        ).stdout
    )


def test_threads_share_two_memory_pools_instead_of_one_each():
    assert _printed(_POOLS, "yes") <= 2 < _printed(_POOLS, "no")


def test_a_freed_buffer_is_reused():
    assert 10 * _printed(_BUFFERS, "yes") < _printed(_BUFFERS, "no")

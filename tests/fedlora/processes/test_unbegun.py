"""A thread that finds no memory to begin with: its starter would wait for ever."""

from __future__ import annotations

import subprocess
import sys

import pytest

SHORT_OF_MEMORY = """
import os, resource, sys, threading, time
from fedlora.processes.unbegun import end_where_a_thread_cannot_begin

end_where_a_thread_cannot_begin(look_s=0.1, looks=10)
full, held = threading.Event(), []

def give_back():
    full.wait()
    time.sleep(2)
    resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    held.clear()
    time.sleep(20)
    os._exit(3)

threading.Thread(target=give_back, daemon=True).start()
before = [threading.Thread(target=time.sleep, args=(0.1,)) for _ in range(8)]
for thread in before:
    thread.start()
for thread in before:
    thread.join()
while len(os.listdir("/proc/self/task")) > 3:
    time.sleep(0.01)  # they are gone for the kernel too: a stack is kept for those that follow once its thread is
# A thread that follows is made, on such a stack, and has no room for its first frame.
new = [threading.Thread(target=time.sleep, args=(0.1,)) for _ in range(8)]
lines = open("/proc/self/status").read().splitlines()
taken = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (taken, resource.RLIM_INFINITY))
try:
    while True:
        held.append(bytearray(3000))
except MemoryError:
    pass
del held[-20:]
full.set()
for thread in new:
    thread.start()
os._exit(4)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts all memory on Linux")
def test_a_process_in_which_a_thread_could_not_begin_ends():
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Exception ignored in thread started by" in done.stderr  # all that CPython says
    assert done.returncode == 70
    assert done.stderr.endswith("this process ends\n")


def test_threads_that_begin_are_left_alone():
    script = (
        "import threading, time; from fedlora.processes.unbegun import end_where_a_thread_cannot_begin as guard\n"
        "guard(look_s=0.02, looks=200)\n"
        "for _ in range(300): thread = threading.Thread(target=time.sleep, args=(0.005,)); thread.start()\n"
        "thread.join(); print('well')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "well\n"

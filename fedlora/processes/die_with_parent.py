"""`python -m fedlora.processes.die_with_parent PARENT COMMAND...`: become COMMAND; end with the parent, by kill -9 too.

Without it a supervisor that is killed leaves its children behind: the next one finds their ports taken.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit("the supervisor died before its child had started")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()

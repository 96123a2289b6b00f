"""Starts a command that ends with the process that started it, on processor cores of its own.

Run by its path, not imported: ``python leash.py PARENT CORES ARGUMENT...`` becomes ``python ARGUMENT...``. PARENT is
the process id of the starter, CORES are numbers with commas, or empty. Imports nothing of the project, so that it
costs no time.

A starter that is killed cannot tell its children; where the system can (Linux), it kills them then. Elsewhere the lock
of a training's folder keeps a second training out. The setting is made here, in the child, and survives exec: made
between fork and exec of the starter, it could deadlock there.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(parent: int, cores: str, arguments: list[str]) -> None:
    """Becomes the command; returns only by an exception."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the setting was made
        sys.exit(f"process {parent}, which started this one, has ended")
    if cores:  # here and not from outside: XLA counts its cores when it starts
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    os.execv(sys.executable, [sys.executable, *arguments])


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])

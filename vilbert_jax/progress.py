"""How often progress bars are drawn, the same everywhere."""

import sys


def bar_interval() -> float:
    """Seconds between two states of a progress bar: a log file wants few lines."""
    return 0.2 if sys.stderr.isatty() else 20

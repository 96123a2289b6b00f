"""What a compiled program needs of each device, and what the device has."""

import os
import pathlib
from typing import Any, NamedTuple

import jax

Device = Any  # a jax.Device, which is no class to type checkers


class Need(NamedTuple):
    """Bytes on each device while the program runs, from XLA's own analysis.

    Attributes:
        arguments: the state and the batch.
        aliased: of the outputs, what takes the place of arguments.
        outputs: all outputs.
        temporaries: what lives inside the program only.
    """

    arguments: int
    aliased: int
    outputs: int
    temporaries: int

    @property
    def peak(self) -> int:
        """Everything that is there at once."""
        return self.arguments + self.outputs - self.aliased + self.temporaries


def need_of(compiled: jax.stages.Compiled) -> Need:
    """Reads XLA's analysis of a compiled program."""
    found: Any = compiled.memory_analysis()
    sizes = [getattr(found, f"{kind}_size_in_bytes") for kind in ("argument", "alias", "output", "temp")]
    return Need(*sizes)


def capacity(device: Device) -> int | None:
    """Bytes that a device lets a program have; None where it does not say.

    A processor has what the machine has, or what the control group of the process is limited to.
    """
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [
        int(text)
        for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
        if (file := pathlib.Path(name)).is_file() and (text := file.read_text().strip()).isdigit()
    ]
    return min([machine, *limits])


def resident() -> int:
    """Bytes that this process has in memory now."""
    status = pathlib.Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if status.is_file() else 0

"""What a measurement was made on, in a line, and which accelerators JAX would take. Asks no JAX backend."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess

_PCI = pathlib.Path("/sys/bus/pci/devices")
# Vendor and devices as in jax/_src/hardware_utils.py: TPU v2 and v3, v4, v5p, v5e, v6e, 7x.
_GOOGLE, _TPUS = "0x1ae0", ("0x0027", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076")


def describe_machine() -> str:
    """Processor, cores that may be used, accelerators that JAX would take, versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [f"{_processor()}, {cores} cores"]
    if names := gpu_names():
        parts.append(", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)))
    if num_chips := num_tpu_chips():
        parts.append(f"{num_chips} TPU chips")
    return "; ".join([*parts, f"Python {platform.python_version()}, jax {importlib.metadata.version('jax')}"])


def _processor() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def gpu_names() -> list[str]:
    """The GPUs that nvidia-smi finds; none where JAX is told to use the processor alone."""
    if _processor_alone():
        return []
    try:
        found = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return found.stdout.split("\n")[:-1]


def num_tpu_chips() -> int:
    """The TPU chips of this host; none where JAX is told to use the processor alone."""
    if _processor_alone():
        return 0
    vendors = [path for path in _PCI.glob("*/vendor") if path.read_text().strip() == _GOOGLE]
    return sum(path.with_name("device").read_text().strip() in _TPUS for path in vendors)


def _processor_alone() -> bool:
    return os.environ.get("JAX_PLATFORMS") == "cpu"

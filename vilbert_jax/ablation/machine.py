"""What a measurement was made on, in a line."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess


def describe_machine(*, gpus: bool) -> str:
    """Processor, cores that may be used, GPUs, versions. Asks no JAX backend, which would take the GPUs' memory.

    Args:
        gpus: name those that nvidia-smi finds.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [f"{_processor()}, {cores} cores"]
    if gpus and (names := gpu_names()):
        parts.append(", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)))
    return "; ".join([*parts, f"Python {platform.python_version()}, jax {importlib.metadata.version('jax')}"])


def _processor() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def gpu_names() -> list[str]:
    """The GPUs that nvidia-smi finds."""
    try:
        found = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return found.stdout.split("\n")[:-1]

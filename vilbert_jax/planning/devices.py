"""Devices for a plan: those that are here or, for a larger mesh, as many pretended ones."""

import math
from collections.abc import Mapping

import jax

from vilbert_jax.ablation.machine import gpu_names, num_tpu_chips


def prepare_devices(mesh: Mapping[str, int]) -> None:
    """Lets JAX have as many devices as a mesh asks for: parts of the processor, where there are too few others.

    Such devices hold nothing and run nothing here; a program that is compiled for them shows what would be in memory
    and what would be sent. To be called before anything touches a device, since their number is fixed by then; later it
    does nothing, and a mesh that is too large is refused as it is in training.

    Args:
        mesh: devices along each axis; -1 takes what is here.
    """
    wanted = math.prod(size for size in mesh.values() if size > 0)
    if wanted <= max(len(gpu_names()), num_tpu_chips(), 1):
        return
    try:
        jax.config.update("jax_num_cpu_devices", wanted)
    except RuntimeError:  # devices are in use already
        return
    jax.config.update("jax_platforms", "cpu")

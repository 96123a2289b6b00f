"""The roof of a roofline: the best large matrix product of the device, in turns with what is held against it."""

import argparse
import time
from collections.abc import Mapping
from typing import Any

import jax
from turns import Work

HOST_SIZE, ACCELERATOR_SIZE = 4096, 16384


def product_side(asked: argparse.Namespace) -> tuple[Mapping[str, Any], Work]:
    """A square product in the precision asked for, the best of three each turn."""
    size = HOST_SIZE if jax.devices()[0].platform == "cpu" else ACCELERATOR_SIZE
    matrix = jax.random.normal(jax.random.key(0), (size, size), getattr(asked, "dtype", "float32"))
    multiply = jax.jit(lambda x: x @ x)

    def work() -> Mapping[str, Any]:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            multiply(matrix).block_until_ready()
            times.append(time.perf_counter() - start)
        return {"flops_a_second": 2 * size**3 / min(times)}

    work()
    return {"device": jax.devices()[0].device_kind, "size": size}, work

"""How fast a device is: measured in seconds on the one that is here, or stated for one that is not."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vilbert_jax.errors import InputError
from vilbert_jax.planning.collectives import ring_share
from vilbert_jax.planning.memory import Device

_SWEEP_BYTES = 2**28
_LINK_BYTES = 2**26
_NAMES = ("flops", "memory_rate", "link_rate", "memory")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """What one device does a second, and holds. None is not known.

    Attributes:
        flops: floating-point operations of the model's matrix products, a second.
        memory_rate: bytes a second between its memory and its processors.
        link_rate: bytes a second that it sends to other devices.
        memory: bytes that a program may use.
    """

    flops: float | None = None
    memory_rate: float | None = None
    link_rate: float | None = None
    memory: float | None = None


class Probe(NamedTuple):
    """One measured quantity: seconds of a run that does a known amount of work."""

    seconds: float
    amount: float

    @property
    def rate(self) -> float:
        """Amount a second."""
        return self.amount / self.seconds


def parse_rates(text: str) -> Rates:
    """Reads ``flops=4e14,memory_rate=3.3e12,link_rate=5e10,memory=80e9``, any part of it; empty states nothing.

    Raises:
        InputError: another name, or a value that is no positive number.
    """
    stated = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if name not in _NAMES or not 0 < number < float("inf"):
            raise InputError(
                f"--rates={text}: {part!r} is not understood. Write name=number, separated by commas, with the names "
                f"{', '.join(_NAMES)}: operations and bytes a second of one device, and bytes of its memory"
            )
        stated[name] = number
    return Rates(**stated)


def measure_product(rows: int, width: int, columns: int, dtype: str, device: Device) -> Probe:
    """Times ``[rows, width] @ [width, columns]``, the kind of product that a model spends its time in."""
    with jax.default_device(device):
        x, kernel = jnp.ones((rows, width), dtype), jnp.ones((width, columns), dtype)
        product = jax.jit(lambda x, kernel: x @ kernel)
        return Probe(seconds(lambda: product(x, kernel)), 2.0 * rows * width * columns)


def measure_memory(device: Device) -> Probe:
    """Times ``a * x + y`` over arrays that no cache holds: two reads and a write."""
    with jax.default_device(device):
        x, y = (jnp.ones(_SWEEP_BYTES // 4, jnp.float32) for _ in range(2))
        sweep = jax.jit(lambda x, y: 0.5 * x + y, donate_argnums=1)

        def run() -> Any:
            nonlocal y
            y = sweep(x, y)
            return y

        return Probe(seconds(run), 3.0 * _SWEEP_BYTES)


def measure_link(devices: Sequence[Device]) -> Probe:
    """Times the sum of an array over all devices; the amount is what a ring makes each of them send."""
    mesh = jax.make_mesh((len(devices),), ("all",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices)
    parts = jax.device_put(jnp.ones((len(devices), _LINK_BYTES // 4)), jax.NamedSharding(mesh, jax.P("all")))
    add = jax.jit(jax.shard_map(lambda x: jax.lax.psum(x, "all"), mesh=mesh, in_specs=jax.P("all"), out_specs=jax.P()))
    return Probe(seconds(lambda: add(parts)), _LINK_BYTES * ring_share("all-reduce", len(devices)))


def seconds(run: Callable[[], Any], *, least: float = 0.2, rounds: int = 3) -> float:
    """Shortest of several timings of ``run``, each of as many calls as ``least`` seconds take; after one warm-up."""
    jax.block_until_ready(run())
    best, calls = float("inf"), 1
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready([run() for _ in range(calls)][-1])
        taken = time.perf_counter() - start
        best = min(best, taken / calls)
        calls = max(calls, round(least / best))
    return best

"""What more devices bring, on paper: collectives of a compiled step over links of stated speed.

Weak scaling: every device keeps its number of examples, so its work stays and what is sent is all that is added.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from vilbert_jax.planning.collectives import Traffic

_BACKWARD = 2 / 3  # share of a step's products in the backward pass, behind which gradients can be sent


class Level(NamedTuple):
    """Devices that are joined by one kind of link.

    Attributes:
        size: most devices at this level; the next level joins groups of so many.
        bandwidth: bytes a second that one device sends, one way.
        latency: seconds that a message takes to a neighbour.
        axes: dimensions of the torus whose rings are used at once; 1 is a single ring.
    """

    size: int
    bandwidth: float
    latency: float
    axes: int = 1


class Machine(NamedTuple):
    """A kind of device and its links, innermost level first.

    Attributes:
        name: for tables.
        flops: peak operations a second of products in bfloat16.
        memory_rate: bytes a second of its memory.
        levels: see ``Level``.
    """

    name: str
    flops: float
    memory_rate: float
    levels: tuple[Level, ...]


class Prediction(NamedTuple):
    """One line of a table.

    Attributes:
        num_devices: of the run.
        compute: seconds of a step's products.
        update: seconds of the optimizer.
        communication: seconds of all collectives.
        exposed: efficiency if nothing is sent while something is computed, 0..1.
        overlapped: efficiency if sending hides behind the backward pass as far as that is long.
    """

    num_devices: int
    compute: float
    update: float
    communication: float
    exposed: float
    overlapped: float


def predict(
    machine: Machine, num_devices: int, traffic: Iterable[Traffic], *, flops: float, update_bytes: float, reached: float
) -> Prediction:
    """Time and efficiency of a step on ``num_devices``, against one device that sends nothing.

    Args:
        machine: the devices.
        num_devices: that share the batch.
        traffic: of the step compiled for any number of devices; the payload of gradients and parameters is the same
            for every number.
        flops: of a step on one device.
        update_bytes: what the optimizer moves through memory.
        reached: share of the peak that products reach.
    """
    compute, update = flops / (machine.flops * reached), update_bytes / machine.memory_rate
    sending = math.fsum(collective_seconds(machine, num_devices, one) for one in traffic)
    alone = compute + update
    late = max(0.0, sending - _BACKWARD * compute)
    return Prediction(num_devices, compute, update, sending, alone / (alone + sending), alone / (alone + late))


def collective_seconds(machine: Machine, num_devices: int, traffic: Traffic) -> float:
    """Seconds of collectives over all devices, level by level.

    On g devices a ring sends (g - 1) / g of the payload in g - 1 messages, an all-reduce twice that. An outer level has
    only 1 / g of the payload left to send for each device, since the inner one has split it.
    """
    seconds, payload, left = 0.0, float(traffic.payload), num_devices
    passes = 2 if traffic.kind == "all-reduce" else 1
    for level in machine.levels:
        group = min(level.size, left)
        if group > 1:
            hops = level.axes * (round(group ** (1 / level.axes)) - 1)
            seconds += passes * (group - 1) / group * payload / level.bandwidth
            seconds += passes * traffic.number * hops * level.latency
        if traffic.kind in ("all-reduce", "all-gather", "reduce-scatter"):
            payload /= group
        left = math.ceil(left / group)
    return seconds

"""What a compiled program sends between devices, read from its HLO text.

Only what every XLA backend prints is used: shapes, groups of devices, which computation calls which, how often a loop
runs.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+)(?: \(.*)?\{$")  # a computation's first line; its end is "}"
_OPERATION = re.compile(rf" = (.*?) ({'|'.join(KINDS)})(-start)?\(")
_SHAPE = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:body|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class Traffic(NamedTuple):
    """Collectives of one kind over the same mesh axes, of one run of the program.

    Attributes:
        kind: one of ``KINDS``.
        axes: mesh axes along which the devices of a group differ, such as ``("data",)``.
        group_size: devices in a group.
        number: operations.
        payload: bytes of the whole array in a group: what is reduced, what is gathered, what is exchanged.
        sent: bytes that one device sends, with the ring algorithm of the kind.
    """

    kind: str
    axes: tuple[str, ...]
    group_size: int
    number: int
    payload: int
    sent: float


def traffic_of(hlo: str, mesh_shape: Mapping[str, int]) -> list[Traffic]:
    """The traffic of one run of a compiled program, most bytes first.

    Args:
        hlo: ``compiled.as_text()`` of a program for the devices of the mesh.
        mesh_shape: devices along each axis, in the order of the mesh.
    """
    totals: dict[tuple[str, tuple[str, ...], int], list[float]] = defaultdict(lambda: [0, 0, 0.0])
    computations, entry = _computations(hlo)
    runs = _runs(computations, entry)
    for name, lines in computations.items():
        for line in lines if runs[name] else ():
            found = _OPERATION.search(line)
            if found is None:
                continue
            kind, group = found[2], _group(line, math.prod(mesh_shape.values()))
            if len(group) < 2:
                continue
            payload = _payload(kind, found[1], len(group), is_start=bool(found[3]))
            total = totals[kind, _axes(group, mesh_shape), len(group)]
            total[0] += runs[name]
            total[1] += runs[name] * payload
            total[2] += runs[name] * payload * ring_share(kind, len(group))
    traffic = [Traffic(*key, int(count), int(payload), sent) for key, (count, payload, sent) in totals.items()]
    return sorted(traffic, key=lambda one: -one.sent)


def ring_share(kind: str, group_size: int) -> float:
    """Bytes that one device sends, as a share of the payload, when its group forms a ring."""
    if kind == "collective-permute":
        return 1.0
    share = (group_size - 1) / group_size
    match kind:
        case "all-reduce":  # a reduce-scatter and an all-gather
            return 2 * share
        case "all-to-all":  # the payload is that of one device
            return share
        case _:
            return share


def _payload(kind: str, result: str, group_size: int, *, is_start: bool) -> int:
    sizes = [_num_bytes(*shape) for shape in _SHAPE.findall(result)]
    if is_start and kind in ("all-gather", "collective-permute"):
        return max(sizes)  # these give (operand, result, ...)
    return sum(sizes) * (group_size if kind == "reduce-scatter" else 1)


def _num_bytes(dtype: str, dimensions: str) -> int:
    bits = re.search(r"\d+", dtype)
    width = _BITS.get(dtype) or (int(bits[0]) if bits else 0)  # f32, s8, f8e4m3fn; tokens have none
    return math.prod(int(size) for size in dimensions.split(",") if size) * width // 8


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    """Lines by computation, and the name of the one that is run."""
    lines_of: dict[str, list[str]] = {}
    entry, current = "", []
    for line in hlo.splitlines():
        if line[:1] not in (" ", "}", "") and (start := _COMPUTATION.match(line)):
            current = lines_of.setdefault(start[2], [])
            entry = start[2] if start[1] else entry
        elif line[:1] == " ":
            current.append(line)
    return lines_of, entry


def _runs(computations: Mapping[str, Sequence[str]], entry: str) -> dict[str, int]:
    """How often each computation runs; a loop whose number of rounds is not known counts once."""
    calls = {name: [*_calls(lines)] for name, lines in computations.items()}
    runs = dict.fromkeys(computations, 0)

    def visit(name: str, times: int) -> None:
        runs[name] += times
        for called, trips in calls[name]:
            if called in calls:
                visit(called, times * trips)

    visit(entry, 1)
    return runs


def _calls(lines: Sequence[str]) -> Iterator[tuple[str, int]]:
    for line in lines:
        if "fusion(" in line or ("=%" not in line and "_computations" not in line):
            continue  # fusions, nearly all lines that call something, hold no collectives
        trips = _TRIPS.search(line)
        times = int(trips[1]) if trips and " while(" in line else 1
        branches = _BRANCHES.search(line)
        names = _CALLED.findall(line) + ([name.strip(" %") for name in branches[1].split(",")] if branches else [])
        yield from ((name, times) for name in names)


def _group(line: str, num_devices: int) -> list[int]:
    """Devices of the first group, as places in the mesh; XLA prints groups in four ways."""
    if pairs := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", line):
        return [int(pairs[1]), int(pairs[2])]
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return [int(number) for number in listed[1].split(",") if number]
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
        ids = _iota(iota[2])
        order = [int(axis) for axis in iota[3].split(",")] if iota[3] else range(ids.ndim)
        return ids.transpose(order).reshape(-1, int(iota[1]))[0].tolist()
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^)]*)\))? \{([^}]*)\}", line):
        return _mesh_group(named[1], named[2] or "", named[3])
    return [*range(num_devices)]  # no groups are written where all devices form one


def _mesh_group(axes: str, device_ids: str, along: str) -> list[int]:
    """``mesh['a'=2,'b'=4] {'b'}``, or ``{'b':(1)2}`` for a part of an axis: (product of the parts before it)size."""
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
    total = math.prod(sizes.values())
    ids = _iota(str(total))
    if iota := re.search(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", device_ids):
        ids = _iota(iota[1])
        ids = ids.transpose([int(axis) for axis in iota[2].split(",")]) if iota[2] else ids
    elif device_ids:
        ids = np.array([int(number) for number in re.findall(r"\d+", device_ids)])
    ids = ids.reshape([*sizes.values()])
    chosen: list[Any] = [[0]] * ids.ndim
    for name, before, part in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", along):
        size = sizes[name]
        before, part = (int(before), int(part)) if part else (1, size)
        step = size // (before * part)
        chosen[[*sizes].index(name)] = [step * place for place in range(part)]
    return ids[np.ix_(*chosen)].ravel().tolist()


def _iota(shape: str) -> np.ndarray:
    sizes = [int(size) for size in shape.split(",")]
    return np.arange(math.prod(sizes)).reshape(sizes)


def _axes(group: Sequence[int], mesh_shape: Mapping[str, int]) -> tuple[str, ...]:
    coordinates = np.unravel_index(np.array(group), [*mesh_shape.values()])
    return tuple(axis for axis, along in zip(mesh_shape, coordinates, strict=True) if len(set(along.tolist())) > 1)

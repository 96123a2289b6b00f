"""Where the time of a compiled function goes, by kind of operation, from JAX's own profiler.

Names are those that XLA gives its kernels: on a GPU every kernel of every stream, on a CPU every operation of every
thread. Kinds are told by name, in the order of ``KINDS``; the first that fits counts.
"""

import collections
import glob
import re
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.profiler import ProfileData

KINDS = {
    "matrix products": r"gemm|cutlass|cublas|nvjet|matmul|ynn_|^dot|_dot_|xmma|triton_softmax_dot",
    "attention kernels": r"fmha|flash|cudnn.*attention|sdpa",
    "copies and transposes": r"memcpy|memset|copy|transpose",
    "communication": r"all-reduce|all_reduce|all-gather|reduce-scatter|nccl|collective",
    "gathers and scatters": r"gather|scatter|dynamic-slice|dynamic_slice|dynamic-update",
    "reductions": r"reduce|softmax",
    "elementwise": r"fusion|wrapped|add|multiply|select|convert|broadcast|loop_",
}
_FRAMES = re.compile(r"ThunkExecutor|Execute|Await|^\$|^end:|ThreadpoolListener|^Thread")  # hold other events


def seconds_by_kind(work: Callable[[], Any]) -> dict[str, float]:
    """Busy seconds of all streams or threads while ``work`` runs once, largest first."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(work())
        (path,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        planes = list(ProfileData.from_file(path).planes)
        devices = [plane for plane in planes if plane.name.startswith("/device:")] or planes
        return by_kind(
            (event.name, event.duration_ns / 1e9)
            for plane in devices
            for line in plane.lines
            if line.name.startswith(("Stream", "tf_XLA"))
            for event in line.events
        )


def by_kind(events: Any) -> dict[str, float]:
    """Sums (name, seconds) by kind; what only holds other events is left out."""
    total: collections.Counter[str] = collections.Counter()
    for name, seconds in events:
        if not _FRAMES.search(name):
            total[kind_of(name)] += seconds
    return dict(total.most_common())


def kind_of(name: str) -> str:
    """Of one kernel."""
    lowered = name.lower()
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, lowered)), "other")


def shares(seconds: Mapping[str, float]) -> list[list[str]]:
    """Rows of a table."""
    whole = sum(seconds.values()) or 1.0
    return [[kind, f"{1000 * value:.2f}", f"{value / whole:.0%}"] for kind, value in seconds.items()]

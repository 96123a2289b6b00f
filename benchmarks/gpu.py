"""What a GPU makes of it: a bfloat16 step of the base model against compiled PyTorch, attention kernels, a profile.

python benchmarks/gpu.py [--batch_size=512] [--parts=step,attention,profile] [--peak_tflops=989] [--repeats=10]

``step``       train_step.py at real and at full lengths, PyTorch under autocast and torch.compile; memory; model FLOP
               utilisation: operations of real words and regions over what the data sheet promises (--peak_tflops).
``attention``  forward and backward of this model's ``attend``, and of ``jax.nn.dot_product_attention`` on XLA and on
               cuDNN, at the shapes of the three kinds of layers, packed rows and single pairs.
``profile``    one step, by kind of kernel.

Without a GPU it says so and ends; ``--any_device`` goes on all the same.
"""

import argparse
import functools
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import train_step
from profile_step import seconds_by_kind, shares
from turns import machine, spread, table, take_turns

from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.nn.attention import attend

FOLDER = pathlib.Path(__file__).resolve().parent
PARTS = ("step", "attention", "profile")
PEAK_TFLOPS = {"H100": 989, "H200": 989, "A100": 312, "L4": 121}  # bfloat16, dense, of the data sheets


class Shape(NamedTuple):
    """Of one attention: queries and keys are as long as each other."""

    name: str
    rows: int
    length: int
    num_heads: int
    head_size: int


def attention_shapes(config: ViLBERTConfig, batch_size: int, pairs_per_row: int) -> list[Shape]:
    """Self-attention of both streams and co-attention, each pair in a row of its own and several to a row."""
    kinds = [
        ("text", config.text.num_heads, config.text.width),
        ("regions", config.regions.num_heads, config.regions.width),
        ("co-attention", config.co_num_heads, config.co_width),
    ]
    lengths = [("padded pairs", batch_size, 40), ("packed rows", batch_size // pairs_per_row, 32 * pairs_per_row)]
    return [
        Shape(f"{kind}, {what}", rows, length, heads, width // heads)
        for kind, heads, width in kinds
        for what, rows, length in lengths
    ]


def kernels(on_gpu: bool) -> dict[str, Callable[..., jax.Array]]:
    """By name; each maps query, key, value [B,L,N,H] and a mask [B,1,L,L] to the context."""

    def own(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array) -> jax.Array:
        return attend(query, key, value, mask[:, 0], lambda probs: probs)[0]

    def library(implementation: Any) -> Callable[..., jax.Array]:
        def run(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array) -> jax.Array:
            return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation=implementation)

        return run

    found = {"attend": own, "jax.nn, XLA": library("xla")}
    return found | ({"jax.nn, cuDNN": library("cudnn")} if on_gpu else {})


def attention_rows(shapes: list[Shape], dtype: str, repeats: int) -> Iterator[list[str]]:
    """Milliseconds of forward and backward of every kernel, in turns."""
    on_gpu = jax.devices()[0].platform == "gpu"
    for shape in shapes:
        keys = jax.random.split(jax.random.key(0), 3)
        full = (shape.rows, shape.length, shape.num_heads, shape.head_size)
        arrays = [jax.random.normal(key, full, dtype) for key in keys]
        mask = jnp.ones((shape.rows, 1, shape.length, shape.length), bool)
        compiled, times = {}, {}
        for name, kernel in kernels(on_gpu).items():
            gradient = jax.grad(functools.partial(_sum, kernel), argnums=(0, 1, 2))
            compiled[name], times[name] = jax.jit(gradient), []
            jax.block_until_ready(compiled[name](*arrays, mask))
        for _ in range(repeats):
            for name, run in compiled.items():
                start = time.perf_counter()
                jax.block_until_ready(run(*arrays, mask))
                times[name].append(1000 * (time.perf_counter() - start))
        yield [shape.name, *(spread(milliseconds) for milliseconds in times.values())]


def _sum(kernel: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    return kernel(*arrays).astype(jnp.float32).sum()


def peak_flops(device_kind: str, stated: float) -> float:
    """Operations a second that the data sheet promises; 0 where it is not known."""
    known = next((value for name, value in PEAK_TFLOPS.items() if name in device_kind), 0)
    return 1e12 * (stated or known)


def print_step(asked: argparse.Namespace) -> None:
    """Both lengths, PyTorch in turns where it is there."""
    for lengths in ("real", "full"):
        flags = [
            f"--lengths={lengths}", f"--size={asked.size}", f"--dtype={asked.dtype}", f"--batch_size={asked.batch_size}"
        ]  # fmt: skip
        script = str(FOLDER / "train_step.py")
        timed = take_turns(script, train_step.SIDES, flags, asked.repeats)
        print(train_step.report(timed, train_step.arguments().parse_args(flags)), flush=True)
        ours = timed["jax"]
        if peak := peak_flops(ours.facts["device"], asked.peak_tflops):
            print(
                f"model FLOP utilisation {ours.facts['real_flops'] / statistics.median(ours.seconds) / peak:.1%} of "
                f"{peak / 1e12:.0f} TFLOP/s\n",
                flush=True,
            )


def main() -> None:
    """Prints the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("base", "tiny"), default="base")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--batch_size", type=int, default=512)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument(
        "--peak_tflops", type=float, default=0, help="of the data sheet; 0: what is known of the device"
    )
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--any_device", action="store_true", help="go on without a GPU")
    asked = parser.parse_args()
    if jax.default_backend() != "gpu" and not asked.any_device:
        print(f"No GPU here (JAX sees {jax.devices()[0].platform}); nothing was measured. On a GPU it would do this:\n")
        print(__doc__)
        return
    print(machine(), jax.devices()[0].device_kind, flush=True)
    parts = asked.parts.split(",")
    if "step" in parts:
        print_step(asked)
    if "attention" in parts:
        config = ViLBERTConfig.base() if asked.size == "base" else ViLBERTConfig.tiny()
        shapes = attention_shapes(config, asked.batch_size, train_step.PAIRS_PER_ROW["real"])
        header = ["ms, forward and backward (range)", *kernels(jax.default_backend() == "gpu")]
        print(table(header, list(attention_rows(shapes, asked.dtype, asked.repeats))), flush=True)
    if "profile" in parts:
        flags = [f"--size={asked.size}", f"--dtype={asked.dtype}", f"--batch_size={asked.batch_size}"]
        _, work = train_step.jax_side(train_step.arguments().parse_args(flags))
        print(table(["kind", "busy ms", "share"], shares(seconds_by_kind(work))))


if __name__ == "__main__":
    main()

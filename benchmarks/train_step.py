"""Times a pre-training step, JAX and PyTorch in turns, beside the best matrix product of the device.

python benchmarks/train_step.py [--lengths=real|full] [--size=base|tiny] [--batch_size=32] [--repeats=5]

One made-up batch, forward, backward and AdamW. PyTorch pads every row to 36 words and 37 regions and computes all
logits, as the released code does; JAX gets the pairs as training would. ``lengths.py`` says how long they are. Decoding
of stored features is part of the step in JAX and done before in PyTorch, whose data loader would do it. Compilation is
timed by itself. Rooflines count what real words and regions cost (``flops.py``), and then all that is computed.

On a GPU add ``--dtype=bfloat16 --batch_size=512``: PyTorch then runs compiled, under autocast.
"""

# torch is optional, and types are checked without it.
# pyright: reportMissingImports=false

import argparse
import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import lengths
from flops import padded_training_flops, training_flops
from made_up import padded_batch, pairs, training_batch
from product import product_side
from turns import Side, Timed, Work, compare, spread, table

from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.model import ViLBERTForPretraining, init_params
from vilbert_jax.tasks import pretraining
from vilbert_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from vilbert_jax.training.state import TrainState
from vilbert_jax.training.step import make_train_step

LOSS_WEIGHTS = {"token_loss": 1.0, "region_loss": 1.0, "alignment_loss": 1.0}
PAIRS_PER_ROW = {"real": 8, "full": 1}  # what is full already gains nothing from sharing rows
SIDES = (Side("jax"), Side("torch", needs="torch"), Side("product"))


def jax_side(asked: argparse.Namespace) -> tuple[Mapping[str, Any], Work]:
    """Compiles the step as ``training.loop`` does."""
    config = model_config(asked)
    source = pairs(getattr(lengths, asked.lengths)(asked.batch_size), config, asked.batch_size)
    model, optimizer = ViLBERTForPretraining(config), OptimizerConfig()
    tx = make_optimizer(optimizer, 1000)
    train_step = make_train_step(
        pretraining.make_loss_fn(model, "all"), tx, jax.random.key(1), loss_weights=LOSS_WEIGHTS,
        learning_rate=make_schedule(optimizer, 1000),
    )  # fmt: skip

    def init_state(key: jax.Array) -> TrainState:
        params = init_params(model, key)
        return TrainState(jnp.zeros([], jnp.int32), params, tx.init(params))

    state = jax.jit(init_state)(jax.random.key(0))
    batch = jax.device_put(
        training_batch(source, asked.batch_size, asked.pairs_per_row or PAIRS_PER_ROW[asked.lengths])
    )
    start = time.perf_counter()
    compiled = jax.jit(train_step, donate_argnums=0).lower(state, batch).compile()
    seconds = time.perf_counter() - start

    def work() -> Mapping[str, Any]:
        nonlocal state
        state, metrics = compiled(state, batch)
        jax.block_until_ready((state, metrics))
        return {"loss": float(metrics["loss"]), **device_memory()}

    work()
    unpacked = padded_batch(source, asked.batch_size)
    facts = {
        "device": jax.devices()[0].device_kind,
        "compile_seconds": seconds,
        "real_flops": training_flops(config, unpacked),
        "padded_flops": padded_training_flops(config, unpacked),
        "mean_tokens": float(unpacked["text_mask"].sum(axis=1).mean()),
        "mean_slots": float(unpacked["region_mask"].sum(axis=1).mean()),
        "computed_share": computed_share(unpacked, batch),
    }
    return facts, work


def torch_side(asked: argparse.Namespace) -> tuple[Mapping[str, Any], Work]:
    """The model that pads; on a GPU compiled and under autocast."""
    import torch
    import torch_pretraining
    from torch_vilbert import TorchViLBERT

    config = dataclasses.replace(model_config(asked), dtype="float32")
    source = pairs(getattr(lengths, asked.lengths)(asked.batch_size), config, asked.batch_size)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = TorchViLBERT(config).to(device).train()
    optimizer = torch_pretraining.make_optimizer(model)
    raw = torch_pretraining.prepare(padded_batch(source, asked.batch_size), config, "all")
    batch = type(raw)(*(array.to(device) for array in raw))
    loss = torch_pretraining.pretraining_loss
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        loss = torch.compile(loss)

    def work() -> Mapping[str, Any]:
        with torch.autocast(device.type, torch.bfloat16, enabled=asked.dtype == "bfloat16"):
            losses = torch_pretraining.train_step(model, optimizer, batch, loss)
        peak = {"device_bytes": torch.cuda.max_memory_allocated()} if device.type == "cuda" else {}
        return {"loss": float(sum(losses.values())), **peak}  # fetching it waits for the device

    work()
    return {"device": str(device)}, work


def model_config(asked: argparse.Namespace) -> ViLBERTConfig:
    """The model asked for."""
    config = ViLBERTConfig.base() if asked.size == "base" else ViLBERTConfig.tiny()
    return dataclasses.replace(config, dtype=asked.dtype)


def computed_share(unpacked: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, float]:
    """Positions computed for each real one, of both streams."""
    computed = [batch[name].size for name in ("text_places", "region_places") if name in batch]
    masks = unpacked["text_mask"], unpacked["region_mask"]
    sizes = computed or [mask.size for mask in masks]
    return {name: size / int(mask.sum()) for name, size, mask in zip(("text", "regions"), sizes, masks, strict=True)}


def device_memory() -> dict[str, int]:
    """Most memory of the accelerator in use, where it says so."""
    stats = jax.devices()[0].memory_stats() or {}
    return {"device_bytes": stats["peak_bytes_in_use"]} if "peak_bytes_in_use" in stats else {}


def report(timed: Mapping[str, Timed], asked: argparse.Namespace) -> str:
    """Both times, their ratio, memory, and the share of the roofline."""
    ours, rows, facts = timed["jax"], asked.batch_size, timed["jax"].facts
    roof = max(result["flops_a_second"] for result in timed["product"].results)
    lines = [
        [name, spread(side.seconds), f"{rows / side.median:.3g}", f"{memory(side) / 1e9:.2f}",
         f"{side.median / ours.median:.2f}"]
        for name, side in timed.items() if name != "product"
    ]  # fmt: skip
    share = facts["computed_share"]
    return "\n".join([
        f"pre-training step, {asked.size}, {asked.dtype}, batch {rows}, {asked.lengths} lengths: "
        f"{facts['mean_tokens']:.1f} of 36 tokens, {facts['mean_slots']:.1f} of 37 region slots on average; "
        f"{facts['device']}",
        table(["", "s a step (range)", "examples/s", "peak GB", "JAX is faster by"], lines),
        f"compiled in {facts['compile_seconds']:.1f} s; computed positions for a real one: text {share['text']:.2f}, "
        f"regions {share['regions']:.2f}",
        f"largest product {roof / 1e9:.0f} GFLOP/s; JAX's step on real words and regions "
        f"{facts['real_flops'] / ours.median / 1e9:.0f} GFLOP/s, {facts['real_flops'] / ours.median / roof:.0%} of it",
    ])  # fmt: skip


def memory(side: Timed) -> int:
    """Most of the accelerator's where it says so, else of the process."""
    return max((result.get("device_bytes", 0) for result in side.results), default=0) or side.peak_bytes


def arguments() -> argparse.ArgumentParser:
    """What can be asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", choices=("real", "full"), default="real")
    parser.add_argument("--size", choices=("base", "tiny"), default="base")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--pairs_per_row", type=int, default=0, help="of JAX's batches; 0: what suits the lengths")
    parser.add_argument("--repeats", type=int, default=5)
    return parser


PREPARE = {"jax": jax_side, "torch": torch_side, "product": product_side}


def main() -> None:
    """Times the sides, or is one of them."""
    compare(__file__, arguments(), lambda asked: SIDES, PREPARE, report)


if __name__ == "__main__":
    main()

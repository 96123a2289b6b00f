"""Times how long saving a checkpoint holds training up, and how long until it is on disk.

python benchmarks/checkpoint_stall.py [--size=base|tiny] [--repeats=3] [--folder=DIR]

The state of a run, parameters and both moments, saved as ``training.loop`` saves it. ``save`` returns when training may
go on; files are written meanwhile. The disk is that of ``--folder`` (a temporary one where none is given).
"""

import argparse
import tempfile
import time

import jax
import jax.numpy as jnp
from turns import machine, peak_bytes, spread, table

from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.model import ViLBERTForPretraining, init_params
from vilbert_jax.training.checkpointing import Checkpoints
from vilbert_jax.training.optimizer import OptimizerConfig, make_optimizer
from vilbert_jax.training.state import TrainState


def make_state(config: ViLBERTConfig) -> TrainState:
    """As after no steps."""
    model, tx = ViLBERTForPretraining(config), make_optimizer(OptimizerConfig(), 1000)

    def init(key: jax.Array) -> TrainState:
        params = init_params(model, key)
        return TrainState(jnp.zeros([], jnp.int32), params, tx.init(params))

    return jax.block_until_ready(jax.jit(init)(jax.random.key(0)))


def stalls(state: TrainState, folder: str, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds until ``save`` returned, and until the checkpoint was complete, of each repeat."""
    blocked, written = [], []
    for repeat in range(repeats):
        start = time.perf_counter()
        with Checkpoints(f"{folder}/{repeat}", keep=1, identity={}) as checkpoints:
            opened = time.perf_counter()
            checkpoints.save(1, state)
            blocked.append(time.perf_counter() - opened)
        written.append(time.perf_counter() - start)
    return blocked, written


def main() -> None:
    """Prints medians and ranges."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("base", "tiny"), default="base")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", default="", help="where to write")
    asked = parser.parse_args()
    config = ViLBERTConfig.base() if asked.size == "base" else ViLBERTConfig.tiny()
    state = make_state(config)
    size = sum(array.nbytes for array in jax.tree.leaves(state))
    with tempfile.TemporaryDirectory(dir=asked.folder or None) as folder:
        blocked, written = stalls(state, folder, asked.repeats)
    print(machine())
    print(f"checkpoint of {asked.size}, {size / 1e9:.2f} GB; peak memory {peak_bytes() / 1e9:.2f} GB")
    print(table(["", "s (range)"], [["save() returns", spread(blocked)], ["on disk", spread(written)]]))


if __name__ == "__main__":
    main()

"""Times one pre-training step of the base model: logits at masked positions only, against logits everywhere.

python benchmarks/train_step.py [--batch_size=8] [--steps=5]

Both variants run in one process on the same batch; the ratio is what counts. Compilation is not timed.
"""

import argparse
import functools
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import vilbert_jax as vj
from vilbert_jax import losses
from vilbert_jax.model import init_params
from vilbert_jax.tasks import pretraining
from vilbert_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from vilbert_jax.training.state import TrainState
from vilbert_jax.training.step import make_train_step

TEXT_LENGTH, NUM_REGIONS, MAX_MASKED = 36, 36, 16
LOSS_WEIGHTS = {"token_loss": 1.0, "region_loss": 1.0, "alignment_loss": 1.0}


def make_batch(config: vj.ViLBERTConfig, rows: int) -> dict[str, np.ndarray]:
    """Full-length random rows; what is in them does not change the time."""
    rng = np.random.default_rng(0)
    slots = NUM_REGIONS + 1
    return {
        "token_ids": rng.integers(1, config.vocab_size, (rows, TEXT_LENGTH)).astype(np.int32),
        "token_types": np.zeros((rows, TEXT_LENGTH), np.int32),
        "text_mask": np.ones((rows, TEXT_LENGTH), bool),
        "stored_features": rng.integers(0, 128, (rows, NUM_REGIONS, config.region_feature_dim), np.int8),
        "feature_scales": np.full((rows, NUM_REGIONS), 0.1, np.float32),
        "region_visible": rng.random((rows, NUM_REGIONS)) > 0.15,
        "num_pooled": np.full(rows, NUM_REGIONS, np.int32),
        "region_boxes": rng.random((rows, slots, 5), np.float32),
        "region_mask": np.ones((rows, slots), bool),
        "masked_positions": np.tile(np.arange(1, MAX_MASKED + 1, dtype=np.int32), (rows, 1)),
        "token_labels": rng.integers(1, config.vocab_size, (rows, MAX_MASKED)).astype(np.int32),
        "token_label_mask": np.tile(np.arange(MAX_MASKED) < 5, (rows, 1)),
        "target_probs": rng.dirichlet(np.ones(config.region_target_dim), (rows, NUM_REGIONS)).astype(np.float32),
        "region_label_mask": rng.random((rows, NUM_REGIONS)) < 0.15,
        "alignment_labels": rng.integers(0, 2, rows).astype(np.int32),
        "example_mask": np.ones(rows, bool),
        "example_index": np.arange(rows, dtype=np.int32),
    }


def logits_everywhere(loss_fn: Any) -> Any:
    """The same losses computed as the released code does: vocabulary logits for all T positions, most then ignored."""

    def wrapped(params: Any, batch: dict[str, Any], key: jax.Array) -> dict[str, losses.WeightedSum]:
        rows = jnp.arange(batch["token_ids"].shape[0])[:, None]
        shape = batch["token_ids"].shape
        labels = jnp.zeros(shape, jnp.int32).at[rows, batch["masked_positions"]].set(batch["token_labels"])
        mask = jnp.zeros(shape, bool).at[rows, batch["masked_positions"]].set(batch["token_label_mask"])
        positions = jnp.broadcast_to(jnp.arange(shape[1]), shape)
        everywhere = {"masked_positions": positions, "token_labels": labels, "token_label_mask": mask}
        return loss_fn(params, {**batch, **everywhere}, key)

    return wrapped


def seconds_a_step(loss_fn: Any, init: Callable[[jax.Array], Any], batch: dict[str, np.ndarray], steps: int) -> float:
    """Median time of a whole step: forward, backward, optimiser."""
    optimizer = OptimizerConfig()
    tx, schedule = make_optimizer(optimizer, 1000), make_schedule(optimizer, 1000)
    step = make_train_step(loss_fn, tx, jax.random.key(1), loss_weights=LOSS_WEIGHTS, learning_rate=schedule)
    step = jax.jit(step, donate_argnums=0)
    params = jax.jit(init)(jax.random.key(0))
    state = TrainState(jnp.zeros([], jnp.int32), params, jax.jit(tx.init)(params))
    placed = jax.device_put(batch)
    times = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        state, metrics = step(state, placed)
        jax.block_until_ready((state, metrics))
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    """Prints both times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    asked = parser.parse_args()
    config = vj.ViLBERTConfig.base()
    model = vj.ViLBERTForPretraining(config)
    loss_fn, init = pretraining.make_loss_fn(model, "all"), functools.partial(init_params, model)
    batch = make_batch(config, asked.batch_size)
    device = jax.devices()[0]
    print(f"{device.device_kind}, {platform.machine()}, jax {jax.__version__}, batch {asked.batch_size}, float32")
    everywhere = seconds_a_step(logits_everywhere(loss_fn), init, batch, asked.steps)
    masked = seconds_a_step(loss_fn, init, batch, asked.steps)
    print(f"logits everywhere       {everywhere:8.3f} s/step {asked.batch_size / everywhere:8.2f} examples/s")
    print(f"logits where masked     {masked:8.3f} s/step {asked.batch_size / masked:8.2f} examples/s")
    print(f"ratio                   {everywhere / masked:8.2f}")


if __name__ == "__main__":
    main()

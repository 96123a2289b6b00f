"""A model small enough to train in milliseconds, with the parameter names that the sharding table knows.

Run as a script, it trains in a process of its own: ``toy_training.py WORKDIR [KILL_AT]``. With KILL_AT it is killed
while it prepares the batch of that step, which nothing in the process can catch.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vilbert_jax.losses import WeightedSum
from vilbert_jax.nn.dropout import Dropout
from vilbert_jax.sharding import MeshConfig
from vilbert_jax.training.config import TrainingConfig
from vilbert_jax.training.evaluation import MeanEvaluation
from vilbert_jax.training.logging import read_metrics
from vilbert_jax.training.loop import TrainResult, train
from vilbert_jax.training.optimizer import OptimizerConfig

VOCAB, WIDTH, CLASSES = 16, 8, 6
LOSS_WEIGHTS = {"fit_loss": 1.0, "sign_loss": 0.5}
IDENTITY = {"model": {"width": WIDTH, "layers": (1, 2)}, "vocabulary": "abc"}
CONFIG = TrainingConfig(
    total_steps=12, batch_size=16, seed=3, log_every=1, eval_every=4, checkpoint_every=5, keep_checkpoints=2
)


def init_params(key: jax.Array) -> dict[str, Any]:
    table, kernel = jax.random.split(key)
    return {
        "trunk": {
            "text_embeddings": {"word_embeddings": {"embedding": jax.random.normal(table, (VOCAB, WIDTH)) * 0.1}},
            "text_pooler": {"kernel": jax.random.normal(kernel, (WIDTH, WIDTH)) * 0.3, "bias": jnp.zeros(WIDTH)},
        },
        "alignment_head": {"kernel": jnp.zeros((WIDTH, CLASSES)), "bias": jnp.zeros(CLASSES)},
    }


def forward(params: dict[str, Any], batch: Any, key: jax.Array | None = None) -> jax.Array:
    x = params["trunk"]["text_embeddings"]["word_embeddings"]["embedding"][batch["ids"]]
    x = jnp.tanh(x @ params["trunk"]["text_pooler"]["kernel"] + params["trunk"]["text_pooler"]["bias"][None])
    if key is not None:
        x = Dropout(0.1).apply({}, x, deterministic=False, rngs={"dropout": key})
    return x @ params["alignment_head"]["kernel"] + params["alignment_head"]["bias"][None]


def sums(params: dict[str, Any], batch: Any, key: jax.Array | None = None) -> dict[str, WeightedSum]:
    """Two losses with different weights, and a score that is only reported."""
    error = forward(params, batch, key) - batch["targets"]
    counted, some = batch["example_mask"], batch["example_mask"] & (batch["ids"] % 3 == 0)
    return {
        "fit_loss": WeightedSum(jnp.where(counted, (error**2).sum(-1), 0).sum(), counted.sum(dtype=jnp.float32)),
        "sign_loss": WeightedSum(jnp.where(some, jnp.abs(error).sum(-1), 0).sum(), some.sum(dtype=jnp.float32)),
        "close_accuracy": WeightedSum(
            jnp.where(counted, (jnp.abs(error) < 0.5).mean(-1), 0).sum(), counted.sum(dtype=jnp.float32)
        ),
    }


def loss_fn(params: dict[str, Any], batch: Any, key: jax.Array) -> dict[str, WeightedSum]:
    return sums(params, batch, key)


def metric_fn(params: dict[str, Any], batch: Any) -> dict[str, WeightedSum]:
    return sums(params, batch)


def make_batch(seed: int, rows: int = CONFIG.batch_size, real: int | None = None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, VOCAB, rows, np.int32)
    targets = np.sin(ids[:, None] * np.arange(1, CLASSES + 1)).astype(np.float32)
    return {"ids": ids, "targets": targets, "example_mask": np.arange(rows) < (rows if real is None else real)}


class Batches:
    """Endless batches by step; ``before`` is called with the number (from 1) of the step that a batch is for."""

    def __init__(self, before: Callable[[int], None] = lambda step: None, poison_at: int | None = None):
        self.before = before
        self.poison_at = poison_at

    def iterate(self, first_step: int, *, workers: int = 0) -> Iterator[dict[str, np.ndarray]]:
        del workers
        step = first_step
        while True:
            self.before(step + 1)
            batch = make_batch(step)
            if step + 1 == self.poison_at:
                batch["targets"][0, 0] = np.nan
            yield batch
            step += 1


class Examples:
    """Held-out batches; the last one is half filled."""

    def iterate(self, first_step: int, *, workers: int = 0) -> Iterator[dict[str, np.ndarray]]:
        del workers
        yield from [make_batch(1000), make_batch(1001), make_batch(1002, real=8)][first_step:]


def run(workdir: str | Path, config: TrainingConfig = CONFIG, **changes: Any) -> TrainResult:
    arguments: dict[str, Any] = {
        "init_params": init_params,
        "loss_fn": loss_fn,
        "loss_weights": LOSS_WEIGHTS,
        "dataset": Batches(),
        "evaluations": {"validation": MeanEvaluation(metric_fn, Examples())},
        "identity": IDENTITY,
        "optimizer": OptimizerConfig(learning_rate=0.05),
        "mesh": MeshConfig(data=2, fsdp=2, tensor=2),
    }
    return train(config, workdir=workdir, **(arguments | changes))


def logged(workdir: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics.jsonl."""
    return read_metrics(workdir / "metrics.jsonl")


def _main(workdir: str, kill_at: str = "0") -> None:
    def kill(step: int) -> None:
        if step == int(kill_at):
            os.kill(os.getpid(), signal.SIGKILL)

    run(workdir, dataset=Batches(before=kill))


if __name__ == "__main__":
    _main(*sys.argv[1:])

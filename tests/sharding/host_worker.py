"""One process of a run of several, for test_hosts.py: host_worker.py SETTINGS, where SETTINGS is a JSON object.

``coordinator``, ``processes`` and ``process`` are those of ``HostsConfig``; ``workdir``, ``steps`` and ``model`` say
what is trained. At the batch of step ``at`` the process ``who`` sends itself the signal ``signal``, so that every
mishap happens at the same moment of each test run.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import tiny_pretraining
import toy_training as toy

from vilbert_jax import cli, hosts
from vilbert_jax.launch import HostsConfig
from vilbert_jax.model import ViLBERTForPretraining, init_params
from vilbert_jax.sharding import MeshConfig, gathered, host_share, make_mesh
from vilbert_jax.tasks import pretraining
from vilbert_jax.training.best import Selection
from vilbert_jax.training.evaluation import MeanEvaluation

# The larger model on the mesh with the fewest collectives.
MESHES = {"toy": MeshConfig(data=2, fsdp=2, tensor=2), "vilbert": MeshConfig(data=8)}


@dataclasses.dataclass
class Rows:
    """This host's rows of batches by step; ``before`` gets the step (from 1) that one is for."""

    make: Callable[[int], Mapping[str, np.ndarray]]
    mesh: MeshConfig
    steps: range | None = None
    before: Callable[[int], None] = lambda step: None
    cut: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda batch: batch

    def iterate(self, first_step: int, *, workers: int = 0) -> Iterator[dict[str, np.ndarray]]:
        del workers
        share = host_share(make_mesh(self.mesh))
        for step in self.steps or range(first_step, sys.maxsize):
            self.before(step + 1)
            batch = self.make(step)
            rows = len(batch["example_mask"]) // share["host_count"]
            mine = slice(share["host_index"] * rows, (share["host_index"] + 1) * rows)
            yield self.cut({name: value[mine] for name, value in batch.items()})


def train_toy(settings: Mapping[str, Any], before: Callable[[int], None]) -> None:
    config = dataclasses.replace(toy.CONFIG, total_steps=settings["steps"], eval_every=10, checkpoint_every=7)
    held_out = Rows(lambda step: toy.make_batch(1000 + step, real=8 if step == 2 else None), MESHES["toy"], range(3))
    result = toy.run(
        settings["workdir"], config, dataset=Rows(toy.make_batch, MESHES["toy"], before=before), mesh=MESHES["toy"],
        evaluations={"validation": MeanEvaluation(toy.metric_fn, held_out)},
        selection=Selection("validation", "close_accuracy"), notes={"notes.json": {"found": 1}},
    )  # fmt: skip
    total = sum(float(np.abs(leaf).sum()) for leaf in jax.tree.leaves(gathered(result.state.params)))
    print(json.dumps({"interrupted": result.interrupted, "step": int(result.state.step), "total": total}))


def cut_slots(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As short as the fullest row of this host: others may have longer ones, as where pairs share rows."""
    slots = batch["token_label_mask"].sum(axis=1).max()
    cut = ("masked_positions", "token_labels", "token_label_mask")
    return {name: value[:, :slots] if name in cut else value for name, value in batch.items()}


def train_vilbert(settings: Mapping[str, Any], before: Callable[[int], None]) -> None:
    stream = dataclasses.replace(tiny_pretraining.STREAM, num_layers=1)  # half the time to compile
    layers = {"text": stream, "regions": stream, "text_co_layers": (0,), "region_co_layers": (0,)}
    model = ViLBERTForPretraining(dataclasses.replace(tiny_pretraining.CONFIG, **layers))
    config = dataclasses.replace(toy.CONFIG, total_steps=settings["steps"], eval_every=10**6, checkpoint_every=10**6)
    batches = Rows(lambda step: tiny_pretraining.make_batch(seed=step), MESHES["vilbert"], before=before, cut=cut_slots)
    toy.run(
        settings["workdir"], config, mesh=MESHES["vilbert"], dataset=batches, evaluations={},
        init_params=lambda key: init_params(model, key), loss_fn=pretraining.make_loss_fn(model, "all"),
        loss_weights={"token_loss": 1.0, "region_loss": 1.0, "alignment_loss": 1.0},
    )  # fmt: skip


def main() -> None:
    settings = json.loads(sys.argv[1])
    hosts.join(
        HostsConfig(
            coordinator=settings["coordinator"], num_processes=settings["processes"], process_id=settings["process"],
            timeout=settings.get("timeout", 60),
        )
    )  # fmt: skip
    hosts.require_same({"recipe": settings.get("recipe", {})})

    def before(step: int) -> None:
        if step == settings.get("at") and settings["process"] == settings["who"]:
            os.kill(os.getpid(), settings["signal"])

    {"toy": train_toy, "vilbert": train_vilbert}[settings.get("model", "toy")](settings, before)


if __name__ == "__main__":
    cli.guarded(main)

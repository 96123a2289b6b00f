"""Scores a pre-training: python experiments/evaluate_pretraining.py --config=configs/tiny.py --checkpoint=PATH.

PATH is a run, a checkpoint or a released file, whose own model config is taken. --split=S takes another split than the
config's eval_split. Losses and accuracies, the same without the picture, and the majority class go to metrics.json in
--output=DIR, or else runs/<config>-evaluation. What is hidden follows from the recipe and its seed alone:
--config.region_masking=released scores any model on pairs that are masked in that way.
"""

import functools
import pathlib
from typing import Any

import jax

from tfds_builders import embedded
from vilbert_jax import cli
from vilbert_jax.data import PretrainingDataConfig
from vilbert_jax.data.annotations import data_folder
from vilbert_jax.evaluation import pretraining as scores
from vilbert_jax.evaluation.results import METRICS, require_folder
from vilbert_jax.sharding import MeshConfig, make_mesh
from vilbert_jax.tasks import pretraining
from vilbert_jax.tasks.coverage_report import report_coverage


def main(config: Any, output: pathlib.Path, checkpoint: str, split: str) -> None:
    require_folder(output)
    mesh, losses_on = make_mesh(MeshConfig(**config.mesh.to_dict())), config.masked_losses_on
    source = scores.open_pretraining(checkpoint)
    data_config = cli.build(PretrainingDataConfig, config, **pretraining.data_fields(source.config))
    embedded.ensure(data_config.embedded_names(), data_folder(data_config.data_dir))
    split = split or config.eval_split
    held_out = scores.open_held_out(data_config, split, mesh)
    report_coverage({split: held_out.source.coverage})
    facts = scores.describe(data_config, held_out.source, split, losses_on)
    with jax.set_mesh(mesh):
        loaded = scores.load(
            source,
            held_out.source,
            data_config,
            allow_other_features=config.allow_other_features,
            dtype=config.model.dtype,
        )
        metrics = scores.measure(loaded, held_out, mesh, losses_on, workers=config.num_workers)
    scores.write_scores(output, metrics, facts=facts, checkpoint=loaded.facts)
    print(pretraining.summary(metrics))
    print(f"{output}: {METRICS}")


FLAGS = {"checkpoint": "What to score.", "split": "Of the data; default: the config's eval_split."}
RECIPE = ("masked_losses_on", "recipes of pre-training, such as configs/tiny.py")
run = functools.partial(cli.run, main, folder="output", ending="-evaluation", flags=FLAGS, recipe=RECIPE)

if __name__ == "__main__":
    run()

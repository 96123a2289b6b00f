"""Scores a checkpoint: python experiments/evaluate.py --config=configs/vqa.py --checkpoint=PATH --output=DIR.

--split=S takes another split than the config's eval_split. DIR, or else runs/<config>-evaluation, gets metrics.json,
predictions.json in the leaderboard's format, and examples.png. Retrieval scores every caption with every picture; after
a kill the same command goes on where it stopped.
"""

import functools
import pathlib
from typing import Any

import jax

from tfds_builders import embedded, scenes
from vilbert_jax import cli
from vilbert_jax.data import pictures_in
from vilbert_jax.data.annotations import data_folder
from vilbert_jax.evaluation import results
from vilbert_jax.evaluation.checkpoint import load_for
from vilbert_jax.evaluation.pictures import draw_results
from vilbert_jax.evaluation.prediction import evaluate
from vilbert_jax.sharding import MeshConfig, make_mesh
from vilbert_jax.tasks.region_attention import attended_regions


def main(config: Any, output: pathlib.Path, checkpoint: str, split: str) -> None:
    task = cli.build_task(config)
    results.require_folder(output)
    mesh = make_mesh(MeshConfig(**config.mesh.to_dict()))
    picture = scenes.render if config.annotations.startswith("scenes/") else pictures_in(config.pictures)
    embedded.ensure(task.data.embedded_names(), data_folder(task.data.data_dir))
    source = task.open(split or config.eval_split, training=False)
    results.require_whole_split(source.examples, allow_missing=config.allow_missing)
    facts = results.describe(task, source.examples)
    with jax.set_mesh(mesh):
        loaded = load_for(
            task,
            checkpoint,
            source.examples,
            task.outputs(source),
            outputs_stated=bool(config.get("answer_labels", "")),
            allow_other_features=config.allow_other_features,
            dtype=config.model.dtype,
        )
        outcome = evaluate(task, source, loaded, mesh, folder=output, facts=facts, workers=config.num_workers)
        results.write_predictions(task, source, output, outcome)
        look = functools.partial(attended_regions, task, loaded.model, loaded.params, source)
        draw_results(task, source, *outcome, output / "examples.png", picture=picture, attention=look)
    results.write_metrics(output, outcome, facts=facts, checkpoint=loaded.facts)
    print(results.table(outcome.scored.metrics) if outcome.scored else "the split has no labels: no scores")
    print(f"{output}: {results.METRICS}, {results.PREDICTIONS}, examples.png")


FLAGS = {"checkpoint": "What to evaluate.", "split": "Of the data; default: the config's eval_split."}
RECIPE = ("task", "recipes of a task, such as configs/vqa.py")
run = functools.partial(cli.run, main, folder="output", ending="-evaluation", flags=FLAGS, recipe=RECIPE)

if __name__ == "__main__":
    run()

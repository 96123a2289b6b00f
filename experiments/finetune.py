"""Fine-tunes a task: python experiments/finetune.py --config=configs/vqa.py --config.init_from=PATH [--workdir=DIR].

PATH is a pre-training run, a checkpoint, a released file or a BERT. Starting again with the same workdir resumes. At
the end it holds best/ (the parameters that scored highest), checkpoints/, metrics.jsonl, tensorboard/, report.png.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax

import vilbert_jax as vj
from tfds_builders import embedded
from vilbert_jax import cli, hosts
from vilbert_jax.checkpoints.pretrained import InitConfig, prepare_init, starting_point
from vilbert_jax.data import Dataset
from vilbert_jax.data.annotations import data_folder
from vilbert_jax.evaluation.results import table
from vilbert_jax.model import init_params
from vilbert_jax.sharding import MeshConfig, host_share, make_mesh
from vilbert_jax.tasks import task as tasks
from vilbert_jax.tasks.coverage_report import report_coverage
from vilbert_jax.training.best import Selection
from vilbert_jax.training.config import TrainingConfig
from vilbert_jax.training.evaluation import PredictionEvaluation
from vilbert_jax.training.logging import METRICS_FILE, last_metrics
from vilbert_jax.training.loop import train
from vilbert_jax.training.optimizer import OptimizerConfig
from vilbert_jax.training.report import write_report


def main(config: Any, workdir: pathlib.Path, train: Callable[..., Any] = train) -> None:
    task = cli.build_task(config)
    training_config, init_config = cli.build(TrainingConfig, config), cli.build(InitConfig, config)
    optimizer, mesh = OptimizerConfig(**config.optimizer.to_dict()), MeshConfig(**config.mesh.to_dict())
    share = host_share(make_mesh(mesh))  # whatever can be found wrong is found before data are drawn or read
    with hosts.first_alone():
        embedded.ensure(task.data.embedded_names(), data_folder(task.data.data_dir))
    reading = dict(batch_size=config.batch_size, seed=config.seed, **share)
    training_data = Dataset(task.open(config.train_split, training=True), shuffle=True, **reading)
    held_out = Dataset(task.open(config.eval_split, training=False), shuffle=False, **reading)
    source, examples = held_out.source, training_data.source.examples
    tasks.require_labels(training_data.source, source)

    outputs, model_config = task.outputs(source), vj.ViLBERTConfig.from_dict(config.model.to_dict())
    init_config, model_config, opened = starting_point(init_config, model_config, task.heads, outputs, workdir)
    training_config.check_precision(model_config.dtype)
    tasks.check_fit(model_config, task, examples)
    model = vj.ViLBERTForTasks(model_config, task.heads, training_config.remat)
    known: dict[str, Any] = {"opened": opened, "outputs": outputs, "outputs_stated": bool(config.get("answer_labels"))}
    evaluation = PredictionEvaluation(tasks.make_predict_fn(task, model), tasks.make_score_fn(task, source), held_out)
    result = train(
        training_config,
        workdir=workdir,
        init_params=functools.partial(init_params, model),
        loss_fn=tasks.make_loss_fn(task, model),
        loss_weights={tasks.LOSS: 1.0},
        dataset=training_data,
        evaluations={"validation": evaluation},
        selection=Selection("validation", task.metric),
        identity=tasks.identity(model_config, task, examples, outputs, config.init_from),
        initial_params=prepare_init(init_config, model, workdir, examples.tokenizer, examples.contract, **known),
        tokenizer_json=examples.tokenizer.to_json(),
        notes=report_coverage({config.train_split: examples.coverage, config.eval_split: source.examples.coverage}),
        optimizer=optimizer,
        mesh=mesh,
    )
    if result and result.interrupted:
        print(f"stopped at step {int(result.state.step)} and saved; the same command continues.")
    elif result and jax.process_index() == 0:  # there is no result of a plan
        write_report(workdir / METRICS_FILE, workdir / "report.png")
        print(table(last_metrics(workdir / METRICS_FILE, "eval/validation/")))
        print(f"best parameters: {workdir / 'best'}   curves: {workdir / 'report.png'}")


if __name__ == "__main__":
    cli.run(main, recipe=("task", "recipes of a task, such as configs/vqa.py"), trains=True)

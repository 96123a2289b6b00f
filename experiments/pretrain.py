"""Pre-trains ViLBERT: python experiments/pretrain.py --config=configs/tiny.py [--config.KEY=VALUE ...] [--workdir=DIR].

Starting again with the same workdir resumes. At the end the workdir holds report.png, examples.png, metrics.jsonl,
tensorboard/ and checkpoints/; coverage.json says from the start which pairs have regions and are used.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax

import vilbert_jax as vj
from tfds_builders import embedded, scenes
from vilbert_jax import cli, hosts
from vilbert_jax.checkpoints.pretrained import InitConfig, prepare_init
from vilbert_jax.data import Dataset, PretrainingDataConfig, pictures_in
from vilbert_jax.data.annotations import data_folder
from vilbert_jax.data.packing import PackingConfig, packed
from vilbert_jax.evaluation.pretraining import evaluations, logged_scores, majority
from vilbert_jax.model import init_params
from vilbert_jax.sharding import MeshConfig, gathered, host_share, make_mesh, num_batch_shards
from vilbert_jax.tasks import pretraining
from vilbert_jax.tasks.coverage_report import report_coverage
from vilbert_jax.tasks.pretraining_examples import draw_examples
from vilbert_jax.training.config import TrainingConfig
from vilbert_jax.training.logging import METRICS_FILE
from vilbert_jax.training.loop import train
from vilbert_jax.training.optimizer import OptimizerConfig
from vilbert_jax.training.report import write_report


def main(config: Any, workdir: pathlib.Path, train: Callable[..., Any] = train) -> None:
    model_config = vj.ViLBERTConfig.from_dict(config.model.to_dict())
    data_config = cli.build(PretrainingDataConfig, config, **pretraining.data_fields(model_config))
    training_config, init_config = cli.build(TrainingConfig, config), cli.build(InitConfig, config)
    optimizer, mesh = OptimizerConfig(**config.optimizer.to_dict()), MeshConfig(**config.mesh.to_dict())
    loss_weights = pretraining.loss_weights(config.loss_weights.to_dict())
    share = host_share(make_mesh(mesh))  # whatever can be found wrong is found before data are drawn or read
    num_parts = num_batch_shards(make_mesh(mesh)) * config.num_microbatches
    picture = scenes.render if config.annotations.startswith("scenes/") else pictures_in(config.pictures)
    training_config.check_precision(model_config.dtype)
    with hosts.first_alone():
        embedded.ensure(data_config.embedded_names(), data_folder(data_config.data_dir))
    reading, source = dict(batch_size=config.batch_size, seed=config.seed), data_config.open(config.train_split)
    rows = packed(source, cli.build(PackingConfig, config), num_parts=num_parts, host_count=share["host_count"])
    training_data = Dataset(rows, shuffle=True, **reading, **share)
    held_out = Dataset(data_config.open(config.eval_split), shuffle=False, **reading, **share)
    pretraining.check_fit(model_config, source, config.text_length, config.num_microbatches)

    model = vj.ViLBERTForPretraining(model_config, training_config.remat)
    result = train(
        training_config,
        workdir=workdir,
        init_params=functools.partial(init_params, model),
        loss_fn=pretraining.make_loss_fn(model, config.masked_losses_on),
        loss_weights=loss_weights,
        dataset=training_data,
        evaluations=evaluations(model, held_out, config.masked_losses_on),
        identity=pretraining.identity(model_config, source, config.init_from),
        initial_params=prepare_init(init_config, model, workdir, tokenizer=source.tokenizer, contract=source.contract),
        tokenizer_json=source.tokenizer.to_json(),
        notes=report_coverage({config.train_split: source.coverage, config.eval_split: held_out.source.coverage}),
        optimizer=optimizer,
        mesh=mesh,
    )
    params = gathered(result.state.params) if result else None  # there is no result of a plan
    if result and result.interrupted:
        print(f"stopped at step {int(result.state.step)} and saved; the same command continues.")
    elif result and jax.process_index() == 0:
        write_report(workdir / METRICS_FILE, workdir / "report.png")
        draw_examples(model, params, held_out.source, workdir / "examples.png", picture=picture)
        baseline = majority(model_config, Dataset(held_out.source, shuffle=False, **reading), config.masked_losses_on)
        print(pretraining.summary(logged_scores(workdir / METRICS_FILE) | baseline))
        print(f"curves: {workdir / 'report.png'}   what it sees: {workdir / 'examples.png'}")


if __name__ == "__main__":
    cli.run(main, recipe=("masked_losses_on", "recipes of pre-training, such as configs/tiny.py"), trains=True)

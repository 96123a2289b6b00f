"""Trains a small detector: python experiments/train_detector.py --config=configs/detector_scenes.py [--workdir=DIR].

Starting again with the same workdir resumes. DIR, or else runs/<config>, gets detector.safetensors, the trained
detector for experiments/extract_features.py and vj.Predictor; detections.png, what it finds in held-out pictures;
checkpoints/, metrics.jsonl, tensorboard/ and report.png.
"""

import functools
import pathlib
from typing import Any

import jax

from tfds_builders import embedded
from vilbert_jax import cli
from vilbert_jax.checkpoints.detectors import make_detector, save_detector
from vilbert_jax.data import Dataset
from vilbert_jax.data.annotations import data_folder
from vilbert_jax.data.objects import ObjectsConfig
from vilbert_jax.detector.anchors import make_anchors
from vilbert_jax.detector.config import DetectorConfig
from vilbert_jax.detector.faster_rcnn import FasterRCNN
from vilbert_jax.detector.objective import Objective
from vilbert_jax.detector.selection import Confident
from vilbert_jax.evaluation.detections import show_detections
from vilbert_jax.sharding import MeshConfig, make_mesh
from vilbert_jax.tasks import detection
from vilbert_jax.training.config import TrainingConfig
from vilbert_jax.training.evaluation import PredictionEvaluation
from vilbert_jax.training.logging import METRICS_FILE, last_metrics
from vilbert_jax.training.loop import train
from vilbert_jax.training.optimizer import OptimizerConfig
from vilbert_jax.training.report import write_report


def main(config: Any, workdir: pathlib.Path) -> None:
    model = FasterRCNN(DetectorConfig.from_dict(config.detector.to_dict()))
    data, training = cli.build(ObjectsConfig, config), cli.build(TrainingConfig, config)
    objective = cli.build(Objective, config)
    optimizer, mesh = OptimizerConfig(**config.optimizer.to_dict()), MeshConfig(**config.mesh.to_dict())
    anchors, rule = make_anchors(config.anchor_sides, config.anchor_ratios), Confident(**config.rule.to_dict())
    make_mesh(mesh)  # whatever can be found wrong is found before data are drawn or read
    embedded.ensure(data.embedded_names(), data_folder(data.data_dir))
    reading = dict(batch_size=data.batch_size, seed=data.seed)
    reading |= dict(host_index=jax.process_index(), host_count=jax.process_count())
    training_data = Dataset(data.open(config.train_split), shuffle=True, **reading)
    held_out = Dataset(data.open(config.eval_split), shuffle=False, **reading)
    source, examples = training_data.source, held_out.source
    detection.check_fit(model.config, source)

    predict_fn = detection.make_predict_fn(model, rule)
    evaluation = PredictionEvaluation(predict_fn, detection.make_score_fn(examples), held_out)
    result = train(
        training,
        workdir=workdir,
        init_params=functools.partial(detection.init_params, model),
        loss_fn=detection.make_loss_fn(model, objective),
        loss_weights={name: config.loss_weights[name] for name in detection.LOSSES},
        dataset=training_data,
        evaluations={"validation": evaluation},
        identity=detection.identity(model, objective, anchors, data),
        initial_params=detection.make_initial_params(model, training_data[0], anchors),
        optimizer=optimizer,
        mesh=mesh,
        param_axes=detection.PARAM_AXES,
    )
    if result.interrupted:
        print(f"stopped at step {int(result.state.step)} and saved; the same command continues.")
    elif jax.process_index() == 0:
        params, names = jax.device_get(result.state.params), (source.class_names, source.attribute_names)
        detector = make_detector(model, params, family=config.family, class_names=names[0], attribute_names=names[1])
        save_detector(workdir / "detector.safetensors", detector)
        show_detections(predict_fn, params, held_out, workdir / "detections.png", count=config.num_shown)
        write_report(workdir / METRICS_FILE, workdir / "report.png")
        print(detection.table(last_metrics(workdir / METRICS_FILE, "eval/validation/")))
        print(f"{workdir}: detector.safetensors, detections.png, report.png")


if __name__ == "__main__":
    cli.run(main, recipe=("anchor_sides", "recipes of detectors, such as configs/detector_scenes.py"))

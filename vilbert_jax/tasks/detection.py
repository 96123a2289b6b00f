"""Detection: the small detector that is trained here. Joins annotated pictures, the detector's losses and its scores.

B pictures, T things a picture, K boxes kept, N pictures of a split. A batch is the dict that
``vilbert_jax.data.objects.ObjectsSource`` makes.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from vilbert_jax.checkpoints.folder import Initial
from vilbert_jax.data.objects import ObjectsConfig, ObjectsSource
from vilbert_jax.detector.config import DetectorConfig
from vilbert_jax.detector.detections import detect
from vilbert_jax.detector.faster_rcnn import FasterRCNN, subtract_mean
from vilbert_jax.detector.initialisation import starting_params
from vilbert_jax.detector.objective import Objective, detection_losses
from vilbert_jax.detector.pictures import Pictures, blank_pictures
from vilbert_jax.detector.preparation import canvas_of, network_size
from vilbert_jax.detector.selection import SelectionRule
from vilbert_jax.detector.targets import Things
from vilbert_jax.errors import InputError
from vilbert_jax.losses import WeightedSum
from vilbert_jax.metrics.detections import Labelled, detection_scores
from vilbert_jax.sharding import AxisTable

Batch = Mapping[str, Any]
Predictions = Mapping[str, np.ndarray]

LOSSES = ("objectness_loss", "anchor_box_loss", "class_loss", "region_box_loss", "attribute_loss")

# A network this small is copied to every device.
PARAM_AXES: AxisTable = (
    (r"proposal_head/anchors", (None, None)),
    (r"region_head/(classes|box_deltas|attribute_hidden|attributes)/kernel", (None, None)),
    (r"region_head/class_embedding/embedding", (None, None)),
    (r".*/kernel", (None, None, None, None)),
    (r".*/(bias|scale|mean|variance)", (None,)),
)


def check_fit(config: DetectorConfig, source: ObjectsSource) -> None:
    """Raises InputError unless the detector has the outputs of the data, and reads their pictures as they are."""
    problems = []
    for kind, names, others in (("class", source.class_names, 1), ("attribute", source.attribute_names, 0)):
        field = "num_classes" if kind == "class" else "num_attributes"
        wanted, given = len(names) - others, getattr(config, field)
        if wanted < 1:
            problems.append(f"the annotations do not name their outputs: their metadata need {kind}_names")
        elif given != wanted:
            problems.append(
                f"detector.{field} is {given}, the data have {wanted}: set --config.detector.{field}={wanted}"
            )
    height, width = source.size
    if (
        network_size(height, width, config.flavour) != source.size
        or canvas_of(source.size, config.flavour) != source.size
    ):
        problems.append(
            f"the pictures are {width} x {height}, and the flavour would resize them or put them into a larger canvas: "
            f"set --config.detector.flavour.short_side={min(source.size)} and long_side={max(source.size)}, both "
            "multiples of 16"
        )
    if problems:
        raise InputError("detector and data do not fit:\n  " + "\n  ".join(problems))


def init_params(model: FasterRCNN, key: Array) -> Any:
    """Fresh parameters; their shapes do not depend on the pictures'."""
    return model.init(key, blank_pictures())["params"]


def identity(model: FasterRCNN, objective: Objective, anchors: np.ndarray, data: ObjectsConfig) -> dict[str, Any]:
    """What a checkpoint of a run belongs to; a run on anything else must not continue it."""
    return {
        "detector": model.config.to_dict(),
        "objective": dataclasses.asdict(objective),
        "anchors": anchors.tolist(),
        "pictures": data.pictures,
        "objects": data.objects,
    }


def pictures_of(batch: Batch) -> Pictures:
    """The pictures as the network reads them: blue, green, red, the mean subtracted, nothing resized."""
    pixels = jnp.asarray(batch["pixels"])
    batch_size, height, width, _ = pixels.shape
    sizes = jnp.tile(jnp.array([[height, width]], jnp.int32), (batch_size, 1))
    return Pictures(subtract_mean(pixels[..., ::-1]), sizes, jnp.ones((batch_size, 2), jnp.float32))


def things_of(batch: Batch) -> Things:
    """The things of the pictures."""
    return Things(*(jnp.asarray(batch[name]) for name in ("boxes", "thing_mask", "classes", "attributes")))


def make_loss_fn(model: FasterRCNN, objective: Objective) -> Callable[[Any, Batch, Array], dict[str, WeightedSum]]:
    """Returns ``(params, batch, key) -> named sums``, those of ``LOSSES`` among them; the key is not used."""

    def loss_fn(params: Any, batch: Batch, key: Array) -> dict[str, WeightedSum]:
        del key  # nothing is drawn
        return detection_losses(model, params, pictures_of(batch), things_of(batch), objective)

    return loss_fn


def make_initial_params(model: FasterRCNN, batch: Batch, anchors: np.ndarray) -> Callable[[dict[str, Any]], Initial]:
    """Returns ``fresh parameters -> those to start from``, with the anchors, and norms measured on a batch."""

    def initial_params(params: dict[str, Any]) -> Initial:
        ready = starting_params(model, params, pictures_of(batch), things_of(batch), anchors)
        return Initial(
            ready, {}, f"norms measured on {len(batch['pixels'])} pictures; anchors (x1, y1, x2, y2):\n{anchors}"
        )

    return initial_params


def make_predict_fn(model: FasterRCNN, rule: SelectionRule) -> Callable[[Any, Batch], dict[str, Array]]:
    """Returns ``(params, batch) -> kept boxes with their labels``, [B, K, ...] by name."""

    def predict_fn(params: Any, batch: Batch) -> dict[str, Array]:
        kept = detect(model, params, pictures_of(batch), rule)
        names = ("boxes", "mask", "classes", "class_confidences", "attributes", "attribute_confidences")
        return {name: getattr(kept, name) for name in names}

    return predict_fn


def found_in(predictions: Predictions) -> list[Labelled]:
    """The kept boxes of each picture."""
    columns = (predictions[name] for name in ("boxes", "classes", "attributes", "class_confidences", "mask"))
    return [Labelled(*(array[mask] for array in arrays)) for *arrays, mask in zip(*columns, strict=True)]


def truth_of(source: ObjectsSource, indices: Sequence[int] | None = None) -> list[Labelled]:
    """The things of each picture, or of some; classes from 0."""
    rows = (source.annotated(index) for index in (range(len(source)) if indices is None else indices))
    return [Labelled(row.boxes, row.classes - 1, row.attributes, np.ones(len(row.boxes))) for row in rows]


def make_score_fn(source: ObjectsSource) -> Callable[[Predictions], dict[str, float]]:
    """Returns ``predictions of all pictures -> scores``: shares in percent, ``boxes`` as a number."""

    def score_fn(predictions: Predictions) -> dict[str, float]:
        scores = detection_scores(found_in(predictions), truth_of(source))
        return {name: value if name == "boxes" else 100 * value for name, value in scores.items()}

    return score_fn


def table(scores: Mapping[str, float]) -> str:
    """The scores for people."""
    lines = (
        ("things found by a kept box", "recall", " %"),
        ("  of these, class right", "class_accuracy", " %"),
        ("  of these, attribute right", "attribute_accuracy", " %"),
        ("mean average precision at 0.5", "average_precision", " %"),
        ("boxes kept a picture", "boxes", ""),
    )
    return "\n".join(f"{label:32}{scores[name]:8.1f}{unit}" for label, name, unit in lines)

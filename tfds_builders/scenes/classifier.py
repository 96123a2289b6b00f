"""The embedded detector's classifier: linear discriminant analysis on region features, fitted on pictures of its own.

n boxes, F features, C classes: background first, then every colour and shape, "red circle" to "white hexagon".
Like a real detector it is often right and never certain: it confuses what looks alike, and its labels come from
boxes that only roughly fit.
"""

import dataclasses
import hashlib

import numpy as np

from tfds_builders.scenes import descriptors, detections, rendering, world
from tfds_builders.scenes.world import COLOURS, SHAPES

CLASS_NAMES = ("background", *(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES))
CALIBRATION_SCENES = 500
_VERSION = 1  # to be raised whenever boxes, features or probabilities change
_COMPONENTS = 16  # directions kept; fewer means a worse detector
TEMPERATURE = 2.0
_SHRINKAGE = 0.2


@dataclasses.dataclass(frozen=True)
class Classifier:
    """Scores are features @ weights + bias.

    Attributes:
        weights: [F,C] float32.
        bias: [C] float32.
    """

    weights: np.ndarray
    bias: np.ndarray

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Class probabilities [n,C] float32 of features [n,F]; background is column 0."""
        scores = (features @ self.weights + self.bias) / TEMPERATURE
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)


def calibration_ids(count: int = CALIBRATION_SCENES) -> list[str]:
    """Pictures that are in no split of the data set."""
    return [world.make_image_id("calibration", "train", number) for number in range(count)]


def fingerprint(count: int = CALIBRATION_SCENES) -> str:
    """Identifies descriptors and classifier, known before the classifier is fitted."""
    text = repr((_VERSION, descriptors.GROUPS, _COMPONENTS, TEMPERATURE, _SHRINKAGE, calibration_ids(count)))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def examples(image_id: str) -> tuple[np.ndarray, np.ndarray]:
    """Features [n,F] and classes [n] int64 of the noisy boxes of one calibration picture that have a clear label."""
    scene = world.make_scene(image_id)
    boxes = detections.detect(scene)
    labels = label_boxes(scene, boxes)
    clear = labels >= 0
    return descriptors.describe(rendering.render_scene(scene), boxes[clear]), labels[clear]


def label_boxes(scene: world.Scene, boxes: np.ndarray) -> np.ndarray:
    """Class of every box [n] int64: that of the object it overlaps by IoU >= 0.5, 0 below 0.3, -1 in between."""
    overlap = detections.iou(boxes, np.array([thing.box for thing in scene.things]))
    classes = np.array([CLASS_NAMES.index(f"{thing.colour} {thing.shape}") for thing in scene.things])
    best = overlap.max(axis=1)
    return np.where(best >= 0.5, classes[overlap.argmax(axis=1)], np.where(best < 0.3, 0, -1))


def fit(features: np.ndarray, labels: np.ndarray) -> Classifier:
    """Fits the classifier: [m,F] features and [m] classes in 0..C-1; classes without an example become improbable."""
    x = features.astype(np.float64)
    centre, spread = x.mean(axis=0), x.std(axis=0) + 0.05
    x = (x - centre) / spread
    # Principal directions first: they make the detector compact and, on purpose, a little short-sighted.
    values, directions = np.linalg.eigh(x.T @ x / len(x))
    basis = directions[:, np.argsort(values)[::-1][:_COMPONENTS]]
    z = x @ basis
    counts = np.bincount(labels, minlength=len(CLASS_NAMES))
    member = np.eye(len(CLASS_NAMES))[labels]  # [m,C]
    means = (member.T @ z) / np.maximum(counts, 1)[:, None]
    residual = z - means[labels]
    within = residual.T @ residual / len(z)
    within += _SHRINKAGE * np.trace(within) / len(within) * np.eye(len(within))
    weights = np.linalg.solve(within, means.T)  # [components,C]
    prior = np.log((counts + 0.05) / (counts + 0.05).sum())
    bias = prior - 0.5 * (means * weights.T).sum(axis=1)
    full = (basis @ weights) / spread[:, None]
    return Classifier(full.astype(np.float32), (bias - centre @ full).astype(np.float32))

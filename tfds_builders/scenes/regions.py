"""Region records of the scenes data set: picture, boxes, features of their pixels, class probabilities."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tfds_builders.scenes import classifier, descriptors, detections, parallel, rendering, world
from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.region_codec import RegionRecord


@dataclasses.dataclass(frozen=True)
class Selection:
    """Where the detector looks.

    Attributes:
        rule: for the feature contract.
        boxes: scene -> [n,4] float32 xyxy pixels.
    """

    rule: str
    boxes: Callable[[world.Scene], np.ndarray]


def given_boxes(scene: world.Scene) -> np.ndarray:
    """The tight box of every thing of a scene, in their order: [n,4] float32 xyxy pixels, 2 <= n <= 5."""
    return np.array([thing.box for thing in scene.things], np.float32)


DETECTED = Selection(
    f"{detections.MIN_BOXES} to {detections.MAX_BOXES} noisy boxes in random order", boxes=detections.detect
)
GIVEN = Selection("given boxes", boxes=given_boxes)


def feature_contract(
    calibration_scenes: int = classifier.CALIBRATION_SCENES, selection: Selection = DETECTED
) -> FeatureContract:
    """What the features of a region store of this data set mean; only the selection rule tells two stores apart."""
    return FeatureContract(
        detector="scenes descriptors",
        weights_hash=classifier.fingerprint(calibration_scenes),
        layer="descriptors of the box's pixels",
        colour_order="rgb",
        resize_rule=f"none, {world.WIDTH} x {world.HEIGHT}",
        selection_rule=selection.rule,
        background="first",
        feature_dim=descriptors.FEATURE_DIM,
        num_classes=len(classifier.CLASS_NAMES),
        class_names=classifier.CLASS_NAMES,
    )


@functools.cache
def fitted_classifier(
    calibration_scenes: int = classifier.CALIBRATION_SCENES, processes: int = 1
) -> classifier.Classifier:
    """The detector's classifier, fitted once a process."""
    ids = classifier.calibration_ids(calibration_scenes)
    features, labels = zip(*parallel.map_ordered(classifier.examples, ids, processes), strict=True)
    return classifier.fit(np.concatenate(features), np.concatenate(labels))


def region_record(image_id: str, detector: classifier.Classifier, selection: Selection = DETECTED) -> RegionRecord:
    """Draws one picture and looks at it."""
    scene = world.make_scene(image_id)
    pixels = rendering.render_scene(scene)
    boxes = selection.boxes(scene)
    features = descriptors.describe(pixels, boxes)
    height, width, _ = pixels.shape
    return RegionRecord(image_id, width, height, boxes, features, detector.probabilities(features))


def region_records(
    image_ids: Sequence[str], calibration_scenes: int, processes: int, selection: Selection = DETECTED
) -> Iterator[RegionRecord]:
    """Records of many pictures, in order; the same whatever the number of processes."""
    detector = fitted_classifier(calibration_scenes, processes)
    look = functools.partial(region_record, detector=detector, selection=selection)
    yield from parallel.map_ordered(look, image_ids, processes)

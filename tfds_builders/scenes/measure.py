"""Measures what can be read from the region features, for the table in the README.

python -m tfds_builders.scenes.measure
"""

from collections.abc import Sequence

import numpy as np

from tfds_builders.scenes import captions, classifier, descriptors, detections, parallel, regions, rendering, world

_TRAIN, _TEST = 1500, 400  # pictures
_RIDGE = 20.0


def linear_probe(features: np.ndarray, values: Sequence[str], held_out: np.ndarray) -> float:
    """Share of held-out rows whose value a ridge regression onto one-hot values finds.

    Args:
        features: [n,F].
        values: n names to be told apart.
        held_out: [n] bool, rows that are not fitted but scored.
    """
    names = sorted(set(values))
    targets = np.where(np.array(values)[:, None] == names, 1.0, -1.0)
    fitted = features[~held_out].astype(np.float64)
    x = np.c_[(features - fitted.mean(axis=0)) / (fitted.std(axis=0) + 0.05), np.ones(len(features))]
    train = x[~held_out]
    weights = np.linalg.solve(train.T @ train + _RIDGE * np.eye(x.shape[1]), train.T @ targets[~held_out])
    found = (x[held_out] @ weights).argmax(axis=1)
    return float((found == targets[held_out].argmax(axis=1)).mean())


def clean_boxes(image_id: str) -> tuple[np.ndarray, list[dict[str, str]]]:
    """Features of every object's tight box, and the attributes of that object."""
    scene = world.make_scene(image_id)
    boxes = np.array([thing.box for thing in scene.things])
    attributes = [{name: getattr(thing, name) for name in world.ATTRIBUTES} for thing in scene.things]
    return descriptors.describe(rendering.render_scene(scene), boxes), attributes


def main() -> None:
    """Prints the figures."""
    processes = parallel.available_processes()
    ids = [world.make_image_id("full", "train", number) for number in range(_TRAIN)]
    held = [world.make_image_id("full", "test", number) for number in range(_TEST)]
    probed = list(parallel.map_ordered(clean_boxes, ids + held, processes))
    features = np.concatenate([found for found, _ in probed])
    held_out = np.repeat(np.arange(len(probed)) >= _TRAIN, [len(labels) for _, labels in probed])
    for name in ("colour", "shape", "texture", "size"):
        values = [label[name] for _, labels in probed for label in labels]
        print(f"{name}: a linear probe is right for {linear_probe(features, values, held_out):.1%} of tight boxes")
    detector = regions.fitted_classifier(processes=processes)
    found, labels = zip(*parallel.map_ordered(classifier.examples, held, processes), strict=True)
    top, truth = detector.probabilities(np.concatenate(found)), np.concatenate(labels)
    right = top.argmax(axis=1) == truth
    print(f"class probabilities: right for {right.mean():.1%} of noisy boxes, {right[truth > 0].mean():.1%} of objects")
    print(f"and give the best class {top.max(axis=1).mean():.2f} on average")
    lengths = [captions.count_words(c) for i in ids for c in captions.captions(world.make_scene(i), 4)]
    print(f"captions: {np.mean(lengths):.1f} words on average, {min(lengths)} to {max(lengths)}")
    boxes = [len(detections.detect(world.make_scene(image_id))) for image_id in ids]
    print(
        f"boxes: {np.mean(boxes):.1f} a picture, {min(boxes)} to {max(boxes)}; {descriptors.FEATURE_DIM} features each"
    )


if __name__ == "__main__":
    main()

"""Boxes as a detector would give them: jittered, doubled, partial, merged, and some on nothing at all."""

import numpy as np

from tfds_builders.scenes import world
from tfds_builders.scenes.world import HEIGHT, WIDTH, Scene

MIN_BOXES, MAX_BOXES = 5, 12
_SMALLEST_SIDE = 12.0  # pixels


def detect(scene: Scene) -> np.ndarray:
    """Noisy boxes of one picture: [n,4] float32 xyxy pixels, 5 <= n <= 12, in random order.

    Each object gets one or two jittered boxes; sometimes there is a box on part of an object, around two of them, or
    on nothing but background.
    """
    rng = world.image_generator(scene.image_id, 2)
    objects = np.array([thing.box for thing in scene.things])
    boxes = [_jitter(rng, box, 0.05) for box in objects]
    extra = [_jitter(rng, box, 0.11) for box in objects if rng.random() < 0.4]
    if rng.random() < 0.15:
        extra.append(_part(rng, objects[rng.integers(len(objects))]))
    if rng.random() < 0.15:
        pair = rng.choice(len(objects), 2, replace=False)
        extra.append(_jitter(rng, np.r_[objects[pair, :2].min(0), objects[pair, 2:].max(0)], 0.04))
    background = [_background(rng, objects)] if rng.random() < 0.2 else []
    while len(boxes) + len(extra) + len(background) < MIN_BOXES:
        extra.append(_jitter(rng, objects[rng.integers(len(objects))], 0.11))
    found = np.array(boxes + background + extra)[:MAX_BOXES]
    return _clip(found[rng.permutation(len(found))])


def _jitter(rng: np.random.Generator, box: np.ndarray, amount: float) -> np.ndarray:
    """Moves every side independently by a normal share of the box's size; two such boxes overlap with IoU > 0.4."""
    size = np.tile(box[2:] - box[:2], 2)
    return box + np.clip(rng.normal(0, amount, 4), -0.16, 0.16) * size


def _part(rng: np.random.Generator, box: np.ndarray) -> np.ndarray:
    """A box on 45 to 70 % of an object's width and height."""
    size = box[2:] - box[:2]
    part = rng.uniform(0.45, 0.7, 2) * size
    corner = box[:2] + rng.random(2) * (size - part)
    return np.r_[corner, corner + part]


def _background(rng: np.random.Generator, objects: np.ndarray) -> np.ndarray:
    """A box that covers as little of the objects as a few tries allow."""
    size = rng.uniform(28, 80, (12, 2))
    corner = rng.random((12, 2)) * (np.array([WIDTH, HEIGHT]) - size)
    tries = np.concatenate([corner, corner + size], axis=1)
    shared = intersection(tries, objects).max(axis=1)
    return tries[np.argmin(shared / size.prod(axis=1))]


def _clip(boxes: np.ndarray) -> np.ndarray:
    """Keeps boxes inside the picture and at least a few pixels wide and high."""
    limit = np.array([WIDTH, HEIGHT], np.float64)
    low = np.clip(boxes[:, :2], 0, limit - _SMALLEST_SIDE)
    high = np.clip(boxes[:, 2:], low + _SMALLEST_SIDE, limit)
    return np.concatenate([low, high], axis=1).astype(np.float32)


def intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Shared area of every box of a [n,4] with every box of b [m,4]: [n,m]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.clip(high - low, 0, None).prod(axis=2)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of every box of a [n,4] with every box of b [m,4]: [n,m], areas without +1."""
    shared = intersection(a, b)
    area_a = (a[:, 2:] - a[:, :2]).prod(axis=1)
    area_b = (b[:, 2:] - b[:, :2]).prod(axis=1)
    return shared / (area_a[:, None] + area_b[None, :] - shared)

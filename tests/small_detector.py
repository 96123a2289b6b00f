"""The tiny detector for pictures of a few dozen pixels, and such pictures: each program compiles in seconds."""

import dataclasses
import functools

import numpy as np
import tiny_detector
from flax import traverse_util

from vilbert_jax.checkpoints.detectors import make_detector
from vilbert_jax.checkpoints.frcnn import abstract_detector_params
from vilbert_jax.detector.config import DETECTRON2
from vilbert_jax.detector.faster_rcnn import FasterRCNN
from vilbert_jax.detector.selection import Confident
from vilbert_jax.paths import named_leaves

ONE_CANVAS = dataclasses.replace(DETECTRON2, short_side=48, long_side=48)
THREE_CANVASES = dataclasses.replace(DETECTRON2, short_side=48, long_side=64)
RULE = Confident(min_boxes=3, max_boxes=6)


@functools.cache
def detector(flavour=ONE_CANVAS):
    config = dataclasses.replace(tiny_detector.SHALLOW.config, flavour=flavour, max_proposals=20)
    leaves = named_leaves(tiny_detector.params())
    params = traverse_util.unflatten_dict({path: leaves[path] for path in abstract_detector_params(config)}, sep="/")
    return make_detector(FasterRCNN(config), params, family="tiny")


def picture(height, width, seed=0):
    """[H, W, 3] uint8 of colours that change smoothly, with some noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.linspace(0, 3, height)[:, None, None], np.linspace(0, 4, width)[None, :, None]
    phases = rng.uniform(0, 6, (2, 3))
    waves = np.sin(rows * 2 + phases[0]) + np.cos(columns * 2 + phases[1])
    return np.clip(127 + 55 * waves + rng.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)

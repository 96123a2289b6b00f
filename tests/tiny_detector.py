"""The detector of a few kilobytes whose outputs the public implementation computed, and its pictures."""

import dataclasses
import functools
import pathlib

import jax
import numpy as np
from flax import traverse_util
from tiny_weights import lazy

from vilbert_jax.checkpoints.conversion import match
from vilbert_jax.checkpoints.frcnn import abstract_detector_params, detector_table
from vilbert_jax.detector.config import DetectorConfig
from vilbert_jax.detector.detections import select_detections
from vilbert_jax.detector.faster_rcnn import FasterRCNN
from vilbert_jax.detector.pictures import Pictures

FOLDER = pathlib.Path(__file__).parent / "data" / "golden" / "detector"
CONFIG = DetectorConfig.tiny()
MODEL = FasterRCNN(CONFIG)
# The same parameters; it compiles in a third of the time.
SHALLOW = FasterRCNN(dataclasses.replace(CONFIG, blocks=(1, 1, 1, 1)))


@functools.cache
def arrays(name):
    return dict(np.load(FOLDER / f"{name}.npz"))


@functools.cache
def params():
    """The parameters by module, converted from the released names."""
    found = match(
        "tiny_weights", lazy(arrays("tiny_weights")), detector_table(CONFIG), abstract_detector_params(CONFIG)
    )
    return traverse_util.unflatten_dict({path: tensor.read(()) for path, tensor in found.items()}, sep="/")


def golden(i, name):
    """An array of picture ``i`` alone, maps with channels last."""
    array = arrays("tiny_io")[f"single{i}/{name}"]
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def size_of(i):
    return tuple(int(side) for side in golden(i, "sizes")[0])


def pictures(which, canvas, *, beyond=0.0):
    """The two golden pictures, or one of them, in a canvas; ``beyond`` scales noise where no picture is."""
    pixels = np.random.default_rng(0).normal(scale=1, size=(len(which), *canvas, 3)).astype(np.float32) * beyond
    for row, i in enumerate(which):
        height, width = size_of(i)
        pixels[row, :height, :width] = arrays("tiny_io")["batch/x"][i].transpose(1, 2, 0)[:height, :width]
    sizes = np.array([size_of(i) for i in which], np.int32)
    return Pictures(pixels, sizes, np.concatenate([golden(i, "scales_yx") for i in which]))


_apply = {model: jax.jit(model.apply) for model in (MODEL, SHALLOW)}


def run(pictures, model=MODEL):
    """Proposals and their descriptions."""
    return _apply[model]({"params": params()}, pictures)


@functools.partial(jax.jit, static_argnames="rule")
def selected(sizes, scales, proposals, regions, rule):
    """What a rule keeps; without the pixels, whose shape would make it compile again."""
    return select_detections(Pictures(None, sizes, scales), proposals, regions, rule, CONFIG.flavour)

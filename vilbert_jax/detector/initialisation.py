"""What a detector starts its training from: anchors, the norms' statistics, and predictors that say little."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jax import Array

from vilbert_jax.detector.backbone import ConvNorm, map_sizes
from vilbert_jax.detector.boxes import clip
from vilbert_jax.detector.faster_rcnn import FasterRCNN
from vilbert_jax.detector.pictures import Pictures
from vilbert_jax.detector.pooling import pool_regions, range_maxima
from vilbert_jax.detector.targets import Things
from vilbert_jax.errors import InputError

Path = tuple[str, ...]

# Their kernels start this much smaller, at a deviation of about 0.01 as in Ren et al.: the first proposals are the
# anchors themselves, and the first losses those of a network that knows nothing.
_PREDICTORS = (
    ("proposal_head", "objectness"),
    ("proposal_head", "anchor_deltas"),
    ("region_head", "classes"),
    ("region_head", "box_deltas"),
    ("region_head", "attributes"),
)
_PREDICTOR_SCALE = 0.1


def starting_params(
    model: FasterRCNN, params: Any, pictures: Pictures, things: Things, anchors: np.ndarray
) -> dict[str, Any]:
    """Fresh parameters made ready for training.

    There is no pre-trained backbone to take the norms' statistics from. They are measured once, on pictures: as each
    norm's input on the way through the untrained network has mean 0 and variance 1 after it, channel by channel, the
    signal keeps its size however deep the network is. From then on they are constants.

    Args:
        model: the detector.
        params: of ``model.init``.
        pictures: that fill their canvas.
        things: in them; res5 is measured on their boxes.
        anchors: [A, 4] around the first cell, in pixels.

    Raises:
        InputError: other anchors than the model has, or pictures that do not fill the canvas.
    """
    shape = (model.config.num_anchors, 4)
    if anchors.shape != shape:
        raise InputError(f"anchors have shape {anchors.shape}; the detector has {shape}: correct num_anchors, or them")
    canvas = pictures.pixels.shape[1:3]
    if (np.asarray(pictures.sizes) != canvas).any():
        raise InputError(
            f"pictures of {np.unique(pictures.sizes, axis=0).tolist()} pixels in a canvas of {list(canvas)}: the "
            "borders would count as picture; take pictures of one size"
        )
    leaves: dict[Path, Any] = dict(traverse_util.flatten_dict(params))
    leaves[("proposal_head", "anchors")] = jnp.asarray(anchors, jnp.float32)
    for path in _PREDICTORS:
        leaves[(*path, "kernel")] = _PREDICTOR_SCALE * leaves[(*path, "kernel")]
    measured = jax.jit(_measure, static_argnums=0)(model, params, pictures, things)
    for path, (mean, variance) in measured.items():
        leaves[(*path, "mean")], leaves[(*path, "variance")] = mean, variance
    return traverse_util.unflatten_dict(leaves)


def _measure(model: FasterRCNN, params: Any, pictures: Pictures, things: Things) -> dict[Path, tuple[Array, Array]]:
    """Mean and variance of every norm's input, with all norms before it in effect."""
    found: dict[Path, tuple[Array, Array]] = {}

    def normalise(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        y = call(*args, **kwargs)
        if not isinstance(context.module, ConvNorm) or context.method_name != "__call__":
            return y
        mean, variance = y.mean(axis=(0, 1, 2)), y.var(axis=(0, 1, 2))  # fresh norms change nothing
        found[context.module.path] = mean, variance
        return (y - mean[None, None, None]) * jax.lax.rsqrt(jnp.maximum(variance, 1e-12))[None, None, None]

    bound = model.bind({"params": params})
    with nn.intercept_methods(normalise):
        maxima = range_maxima(bound.feature_map(pictures), model.config.pooling_resolution)
        boxes = clip(things.boxes, pictures.sizes, plus_one=False)
        resolution = model.config.pooling_resolution
        bound.region_head.pooled_features(pool_regions(maxima, boxes, map_sizes(pictures.sizes), resolution))
    return found

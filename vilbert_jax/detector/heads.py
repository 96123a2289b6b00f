"""What is in a region: res5 and the predictors on its mean. B pictures, P regions, R cells a side, F features.

K outputs of classes (background included), M of attributes ("none" included), D of box deltas.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float, Int

from vilbert_jax.detector.backbone import Bottleneck
from vilbert_jax.detector.config import DetectorConfig
from vilbert_jax.detector.pooling import pool_regions


class Regions(NamedTuple):
    """What the network says about boxes; rows that hold no box have numbers without meaning.

    Attributes:
        features: mean of res5 over the region, at least 0.
        class_logits: in the flavour's own order, background included.
        attribute_logits: in the flavour's own order, "none" included.
        box_deltas: class after class, dx, dy, dw, dh each.
    """

    features: Float[Array, "B P F"]
    class_logits: Float[Array, "B P K"]
    attribute_logits: Float[Array, "B P M"]
    box_deltas: Float[Array, "B P D"]


class RegionHead(nn.Module):
    """Pooling, res5, the mean over its cells, and three predictors."""

    config: DetectorConfig

    def setup(self):
        """Names the layers as the reference does, in whole words."""
        config = self.config
        inner, width = config.bottleneck_width << 3, config.feature_width
        self.res5 = [
            Bottleneck(inner, width, dilation=2, has_projection=not block) for block in range(config.blocks[3])
        ]
        self.classes = _dense(config.num_classes + 1)
        self.box_deltas = _dense(4 * config.num_box_rows)
        self.class_embedding = nn.Embed(config.num_classes + 1, config.class_embedding_width)
        self.attribute_hidden = _dense(config.attribute_width)
        self.attributes = _dense(config.num_attributes + 1)

    def __call__(
        self, maxima: Float[Array, "B I J h w C"], boxes: Float[Array, "B P 4"], map_sizes: Int[Array, "B 2"]
    ) -> Regions:
        """Describes boxes.

        Args:
            maxima: of the feature maps, from ``range_maxima``.
            boxes: in pixels of the network's input, within the picture.
            map_sizes: rows and columns of the map that belong to each picture.
        """
        return self.predict(self.features(maxima, boxes, map_sizes))

    def features(
        self, maxima: Float[Array, "B I J h w C"], boxes: Float[Array, "B P 4"], map_sizes: Int[Array, "B 2"]
    ) -> Float[Array, "B P F"]:
        """Features of boxes, arguments as above; some of each picture's at once, since res5 of all needs gigabytes."""
        batch, num_boxes, _ = boxes.shape
        if not num_boxes:
            return jnp.zeros((batch, 0, self.config.feature_width), boxes.dtype)
        size = min(self.config.regions_per_chunk, num_boxes)
        num_chunks = -(-num_boxes // size)
        padded = jnp.pad(boxes, ((0, 0), (0, num_chunks * size - num_boxes), (0, 0)))
        chunks = padded.reshape(batch, num_chunks, size, 4).swapaxes(0, 1)

        def one_chunk(head: RegionHead, carry: None, chunk: Float[Array, "B S 4"]) -> tuple[None, Array]:
            pooled = pool_regions(maxima, chunk, map_sizes, head.config.pooling_resolution)
            return carry, head.pooled_features(pooled)

        scan = nn.scan(one_chunk, variable_broadcast="params", split_rngs={"params": False})
        _, features = scan(self, None, chunks)
        return features.swapaxes(0, 1).reshape(batch, num_chunks * size, -1)[:, :num_boxes]

    def pooled_features(self, pooled: Float[Array, "B P R R C"]) -> Float[Array, "B P F"]:
        """res5 and the mean over its cells."""
        x = pooled.reshape(-1, *pooled.shape[2:])
        for block in self.res5:
            x = block(x, None)
        return x.mean(axis=(1, 2)).reshape(*pooled.shape[:2], -1)

    def predict(self, features: Float[Array, "B P F"]) -> Regions:
        """Classes, attributes and box deltas from features alone."""
        class_logits = self.classes(features)
        embedded = self.class_embedding(class_logits.argmax(axis=-1))  # background is a class like any other here
        hidden = nn.relu(self.attribute_hidden(jnp.concatenate([features, embedded], axis=-1)))
        return Regions(features, class_logits, self.attributes(hidden), self.box_deltas(features))


def _dense(features: int) -> nn.Dense:
    return nn.Dense(features, precision=jax.lax.Precision.HIGHEST)

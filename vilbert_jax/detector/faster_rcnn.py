"""The whole detector: pictures in, described regions out. B pictures in a canvas of H by W pixels, P boxes."""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float, UInt8

from vilbert_jax.detector.backbone import Backbone, map_sizes
from vilbert_jax.detector.boxes import clip
from vilbert_jax.detector.config import DetectorConfig
from vilbert_jax.detector.heads import RegionHead, Regions
from vilbert_jax.detector.pictures import PIXEL_MEAN, Pictures
from vilbert_jax.detector.pooling import range_maxima
from vilbert_jax.detector.proposals import ProposalHead, Proposals, propose
from vilbert_jax.errors import InputError


def subtract_mean(bgr: Float[Array, "*n 3"] | UInt8[Array, "*n 3"]) -> Float[Array, "*n 3"]:
    """The network's input from pixels of 0..255 in the order blue, green, red."""
    return bgr.astype(jnp.float32) - jnp.asarray(PIXEL_MEAN).reshape(*[1] * (bgr.ndim - 1), 3)


class FasterRCNN(nn.Module):
    """ResNet-C4 Faster R-CNN of bottom-up attention, in the flavour of its config.

    Parameters are float32; the norms' statistics and the anchors are among them. What a picture gives does not depend
    on the canvas, nor on its neighbours in the batch.
    """

    config: DetectorConfig

    def setup(self):
        """The three parts of section 3.1 of Ren et al., 2015."""
        self.backbone = Backbone(self.config)
        self.proposal_head = ProposalHead(self.config)
        self.region_head = RegionHead(self.config)

    def __call__(self, pictures: Pictures) -> tuple[Proposals, Regions]:
        """Proposes boxes and describes them."""
        feature_map = self.feature_map(pictures)
        proposals = self._propose(pictures, feature_map)
        return proposals, self._describe(pictures, feature_map, proposals.boxes)

    def feature_map(self, pictures: Pictures) -> Float[Array, "B h w C"]:
        """Output of res4, zero beyond each picture's ``map_sizes``.

        Raises:
            InputError: shapes that do not fit each other.
        """
        _check(pictures)
        return self.backbone(pictures.pixels, pictures.sizes)

    def proposals(self, pictures: Pictures) -> Proposals:
        """Boxes that may hold an object."""
        return self._propose(pictures, self.feature_map(pictures))

    def describe(self, pictures: Pictures, boxes: Float[Array, "B P 4"]) -> Regions:
        """Describes given boxes: annotated ones, or those of another detector.

        Args:
            pictures: B of them.
            boxes: in pixels of the canvas (raw pixels over ``scales``); cut off at the picture's border. Fill places
                that hold no box with zeros, and do not read their rows.
        """
        return self._describe(pictures, self.feature_map(pictures), boxes)

    def _propose(self, pictures: Pictures, feature_map: Array) -> Proposals:
        grid = feature_map.shape[1], feature_map.shape[2]
        return propose(self.proposal_head(feature_map), pictures.sizes, pictures.scales, grid, self.config)

    def _describe(self, pictures: Pictures, feature_map: Array, boxes: Array) -> Regions:
        maxima = range_maxima(feature_map, self.config.pooling_resolution)
        boxes = clip(boxes, pictures.sizes, plus_one=False)  # the last pixel of either flavour is inside
        return self.region_head(maxima, boxes, map_sizes(pictures.sizes))


def to_canvas(boxes: Float[Array, "B P 4"], scales: Float[Array, "B 2"]) -> Float[Array, "B P 4"]:
    """Boxes in raw pixels as boxes in pixels of the canvas."""
    return boxes / _per_corner(scales)


def to_raw(boxes: Float[Array, "B P 4"], scales: Float[Array, "B 2"]) -> Float[Array, "B P 4"]:
    """Boxes in pixels of the canvas as boxes in raw pixels."""
    return boxes * _per_corner(scales)


def _per_corner(scales: Array) -> Array:
    return jnp.tile(scales[:, ::-1], 2)[:, None]


def _check(pictures: Pictures) -> None:
    shape = pictures.pixels.shape
    if len(shape) != 4 or shape[-1] != 3 or {pictures.sizes.shape, pictures.scales.shape} != {(shape[0], 2)}:
        raise InputError(
            f"pictures have pixels {shape}, sizes {pictures.sizes.shape} and scales {pictures.scales.shape}: expected "
            "[B, H, W, 3], [B, 2] and [B, 2]"
        )
    if not jnp.issubdtype(pictures.pixels.dtype, jnp.floating):
        raise InputError(f"pixels are {pictures.pixels.dtype}: subtract the mean first, with subtract_mean")

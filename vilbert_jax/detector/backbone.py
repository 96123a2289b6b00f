"""ResNet up to its fourth stage, on pictures of different sizes in one canvas.

B pictures, H and W canvas in pixels, h and w canvas in cells, C channels. What lies beyond a picture's valid size is
zero wherever a window could reach it, as the reference's own padding is. So a picture's numbers do not depend on the
canvas.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Bool, Float, Int

from vilbert_jax.detector.config import DetectorConfig

NORM_EPSILON = 1e-5
_CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")


class ConvNorm(nn.Module):
    """Convolution without bias, then a batch norm with stored statistics.

    The four arrays of the norm are parameters, as checkpoints have them; whoever trains keeps them as they are. Float32
    with full precision: with less, other boxes are chosen.
    """

    features: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h2 w2 D"]:
        """Returns ``ceil(h / stride)`` rows and ``ceil(w / stride)`` columns."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        scale, variance = (self.param(name, nn.initializers.ones, (self.features,)) for name in ("scale", "variance"))
        bias, mean = (self.param(name, nn.initializers.zeros, (self.features,)) for name in ("bias", "mean"))
        y = _convolve(x, kernel, self.stride, self.dilation)
        factor = scale * jax.lax.rsqrt(variance + NORM_EPSILON)
        return y * factor[None, None, None] + (bias - mean * factor)[None, None, None]


def _convolve(x: Array, kernel: Array, stride: int, dilation: int) -> Array:
    """Convolution with zeros around, as many as keep the size at stride 1.

    One cell by one cell is a product of matrices and is written as one: accelerators run both alike, XLA's convolution
    on CPUs takes up to nine times as long.
    """
    precision = jax.lax.Precision.HIGHEST
    if kernel.shape[:2] == (1, 1):
        return jnp.einsum("BhwC,CD->BhwD", x[:, ::stride, ::stride], kernel[0, 0], precision=precision)
    padding = dilation * (kernel.shape[0] - 1) // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=_CHANNELS_LAST,
        precision=precision,
    )


@jax.custom_jvp
def _rectified_sum(y: Array, shortcut: Array) -> Array:
    """``relu(y + shortcut)``, to the last bit, with the addition last.

    XLA computes a relu again wherever it is read, and the blocks' chain of them along: 121 arrays in the last block's
    sum, all of them kept until then. It stores a sum of two arrays.
    """
    return jnp.maximum(y, -shortcut) + shortcut


@_rectified_sum.defjvp
def _rectified_sum_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    """As of relu: nothing where the sum is 0."""
    result = _rectified_sum(*primals)
    return result, jnp.where(result > 0, tangents[0] + tangents[1], 0)


class Bottleneck(nn.Module):
    """Residual block of three convolutions; the first one has the stride, as in Caffe's ResNets."""

    inner_width: int
    width: int
    stride: int = 1
    dilation: int = 1
    has_projection: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"], valid: Bool[Array, "B h2 w2 1"] | None) -> Float[Array, "B h2 w2 D"]:
        """Returns the block's output, at least 0.

        Args:
            x: input.
            valid: which cells of the output belong to the picture; None if all do.
        """
        y = nn.relu(ConvNorm(self.inner_width, 1, self.stride, name="conv1")(x))
        y = y if valid is None else jnp.where(valid, y, 0)  # the next window is the only one to look aside
        y = nn.relu(ConvNorm(self.inner_width, 3, dilation=self.dilation, name="conv2")(y))
        y = ConvNorm(self.width, 1, name="conv3")(y)
        shortcut = ConvNorm(self.width, 1, self.stride, name="shortcut")(x) if self.has_projection else x
        return _rectified_sum(y, shortcut)


class Stem(nn.Module):
    """The first convolution and Caffe's max-pooling, whose windows may hang over the lower and the right border."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"], sizes: Int[Array, "B 2"]) -> Float[Array, "B h w C"]:
        """Returns a quarter of the rows and columns; ``sizes`` are the pictures' in pixels."""
        x = nn.relu(ConvNorm(self.features, 7, stride=2, name="conv1")(jnp.where(within(sizes, x), x, 0)))
        x = jnp.where(within(_halved(sizes), x), x, 0)  # no less than any value, so as good as absent in a maximum
        overhang = [(0, 2 * _pooled(side) + 1 - side) for side in x.shape[1:3]]
        padding = [(0, 0), *overhang, (0, 0)]
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)


class Backbone(nn.Module):
    """Stem, res2, res3 and res4: one cell for 16 pixels."""

    config: DetectorConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"], sizes: Int[Array, "B 2"]) -> Float[Array, "B h w C"]:
        """The feature map.

        Args:
            x: pixels with the mean subtracted; what lies beyond a picture is not read.
            sizes: height and width of each picture in pixels.

        Returns:
            Features of the cells, at least 0; zero beyond ``map_sizes(sizes)``.
        """
        x, sizes = Stem(self.config.stem_width, name="stem")(x, sizes), _pooled(_halved(sizes))
        for stage, num_blocks in enumerate(self.config.blocks[:3]):
            for block in range(num_blocks):
                stride = 2 if stage and not block else 1
                sizes = _halved(sizes) if stride == 2 else sizes
                rows, columns = (-(-side // stride) for side in x.shape[1:3])
                x = Bottleneck(
                    self.config.bottleneck_width << stage,
                    self.config.res2_width << stage,
                    stride,
                    has_projection=not block,
                    name=f"res{stage + 2}_{block}",
                )(x, within_grid(sizes, rows, columns))
        return jnp.where(within(sizes, x), x, 0)


def map_sizes(sizes: Int[Array, "B 2"]) -> Int[Array, "B 2"]:
    """Height and width of the feature map of pictures with these heights and widths in pixels."""
    return _halved(_halved(_pooled(_halved(sizes))))


def within_grid(sizes: Int[Array, "B 2"], rows: int, columns: int) -> Bool[Array, "B h w 1"]:
    """Which cells of a canvas lie within the first ``sizes`` rows and columns."""
    is_row = jnp.arange(rows)[None] < sizes[:, :1]
    is_column = jnp.arange(columns)[None] < sizes[:, 1:]
    return (is_row[:, :, None] & is_column[:, None, :])[..., None]


def within(sizes: Int[Array, "B 2"], x: Float[Array, "B h w C"]) -> Bool[Array, "B h w 1"]:
    """``within_grid`` for the canvas of ``x``."""
    return within_grid(sizes, x.shape[1], x.shape[2])


Size = TypeVar("Size", int, Array)


def _halved(size: Size) -> Size:
    """Cells that a window of stride 2 visits, with half its width as padding."""
    return (size - 1) // 2 + 1


def _pooled(size: Size) -> Size:
    """Windows of 3 cells in steps of 2, the last of which may hang over: ``ceil((size - 3) / 2) + 1``, at least one."""
    return size // 2 + (size == 1)

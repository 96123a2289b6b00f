"""A batch of pictures, without JAX for whoever prepares it. B pictures in a canvas of H by W pixels."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int

if TYPE_CHECKING:
    from jax import Array

PIXEL_MEAN = (102.9801, 115.9465, 122.7717)  # blue, green, red


class Pictures(NamedTuple):
    """Pictures as the network reads them, each in the upper left of its canvas.

    Attributes:
        pixels: blue, green, red, the mean subtracted; what lies beyond a picture is not read.
        sizes: height and width of each picture in the canvas, at least 1.
        scales: raw pixels for one pixel of the canvas, vertically and horizontally.
    """

    pixels: "Float[Array, 'B H W 3']"
    sizes: "Int[Array, 'B 2']"
    scales: "Float[Array, 'B 2']"


def blank_pictures() -> Pictures:
    """A batch of one picture, 32 pixels square, for ``init``: the shapes of parameters depend on no picture's."""
    pixels = np.zeros((1, 32, 32, 3), np.float32)
    return Pictures(pixels, np.full((1, 2), 32, np.int32), np.ones((1, 2), np.float32))  # pyright: ignore[reportArgumentType]

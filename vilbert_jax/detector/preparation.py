"""From a picture to the network's input: sizes, canvases and the two ways of resizing, on the host.

Sources: ``prep_im_for_blob`` of peteanderson80/bottom-up-attention (``opencv``), the preprocessing of Hugging Face's
LXMERT research project (``half_pixel``). H, W sides in pixels.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int, Int32, UInt8

from vilbert_jax.detector.config import FEATURE_STRIDE, Flavour
from vilbert_jax.detector.pictures import PIXEL_MEAN, Pictures
from vilbert_jax.errors import InputError

# Ratios of sides that have a canvas of their own, besides that of the limits; 3 : 2 is 500 x 332 as often as 480 x 320.
_RATIOS = (1.0, 4 / 3, 1.51)
_ROWS_AT_ONCE = 64  # rows of the network's input that are interpolated at once


class Prepared(NamedTuple):
    """One picture as ``Pictures`` has it.

    Attributes:
        pixels: of its canvas: blue, green, red, the mean subtracted; zero beyond the picture.
        size: height and width in the canvas.
        scale: raw pixels for one pixel of the canvas, vertically and horizontally.
    """

    pixels: Float32[np.ndarray, "H W 3"]
    size: Int32[np.ndarray, "2"]
    scale: Float32[np.ndarray, "2"]


def network_size(height: int, width: int, flavour: Flavour) -> tuple[int, int]:
    """Height and width that a picture of ``height`` by ``width`` pixels is resized to, at least 1 each.

    The shorter side becomes ``flavour.short_side``, unless the longer one would exceed ``flavour.long_side``. The Caffe
    rule asks that of the rounded side and rounds halves to even; the port asks before rounding, and rounds halves up.
    """
    return _resizing(height, width, flavour)[0]


def canvas_of(size: tuple[int, int], flavour: Flavour) -> tuple[int, int]:
    """The smallest canvas for a picture of this size in the network: one of up to seven, multiples of 16.

    Few canvases mean few compiled programs. Which one it is does not depend on other pictures.

    Raises:
        InputError: no picture of this flavour has that size.
    """
    fitting = [canvas for canvas in _canvases(flavour) if canvas[0] >= size[0] and canvas[1] >= size[1]]
    if not fitting:
        raise InputError(
            f"{size[1]} x {size[0]} pixels exceed {flavour.short_side}/{flavour.long_side}, the limits of flavour "
            f"{flavour.name}; take the size from network_size"
        )
    return min(fitting, key=lambda canvas: (canvas[0] * canvas[1], canvas))


def prepare(picture: UInt8[np.ndarray, "H W 3"], flavour: Flavour) -> Prepared:
    """A picture, RGB, resized as the flavour does it and put into its canvas.

    Memory beyond picture and canvas is bounded: no copy of the picture is made.

    Raises:
        InputError: not [H, W, 3] uint8 with at least one pixel.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
        raise InputError(
            f"a picture to prepare has shape {picture.shape} and dtype {picture.dtype}; expected [H, W, 3] uint8 in "
            "RGB order: read it with vilbert_jax.data.picture_files.read_picture"
        )
    size, steps = _resizing(picture.shape[0], picture.shape[1], flavour)
    vertical, horizontal = (
        _neighbours(length, side, step, flavour)
        for length, side, step in zip(picture.shape[:2], size, steps, strict=True)
    )
    pixels = np.zeros((*canvas_of(size, flavour), 3), np.float32)
    mean = np.array(PIXEL_MEAN, np.float32)
    for top in range(0, size[0], _ROWS_AT_ONCE):
        rows = slice(top, min(top + _ROWS_AT_ONCE, size[0]))
        resized = _interpolate(picture, _Neighbours(*(array[rows] for array in vertical)), horizontal)
        pixels[rows, : size[1]] = resized[..., ::-1] - mean
    return Prepared(pixels, np.array(size, np.int32), np.array(steps, np.float32))


def stack(prepared: Sequence[Prepared]) -> Pictures:
    """Pictures of one canvas as the network's batch, numpy arrays.

    Raises:
        InputError: none, or of several canvases.
    """
    canvases = sorted({picture.pixels.shape[:2] for picture in prepared})
    if len(canvases) != 1:
        raise InputError(f"{len(prepared)} pictures with canvases {canvases}; a batch has pictures of one canvas")
    arrays: list[Any] = [np.stack(of_each) for of_each in zip(*prepared, strict=True)]
    return Pictures(*arrays)


class _Neighbours(NamedTuple):
    """Between which two places each place of a resized side lies."""

    low: Int[np.ndarray, "n"]
    high: Int[np.ndarray, "n"]
    weight: Float[np.ndarray, "n"]  # of the high one


def _resizing(height: int, width: int, flavour: Flavour) -> tuple[tuple[int, int], tuple[float, float]]:
    """Size in the network, and raw pixels for one pixel of it, both vertically and horizontally."""
    if min(height, width) < 1:
        raise InputError(f"a picture of {width} x {height} pixels; it needs at least one")
    shorter, longer = min(height, width), max(height, width)
    scale = flavour.short_side / shorter
    if flavour.resize == "opencv":
        if round(scale * longer) > flavour.long_side:
            scale = flavour.long_side / longer
        size = max(round(height * scale), 1), max(round(width * scale), 1)
        return size, (1 / scale, 1 / scale)
    sides = (flavour.short_side, scale * width) if height < width else (scale * height, flavour.short_side)
    if max(sides) > flavour.long_side:
        sides = tuple(side * (flavour.long_side / max(sides)) for side in sides)
    size = max(int(sides[0] + 0.5), 1), max(int(sides[1] + 0.5), 1)
    return size, (height / size[0], width / size[1])


def _canvases(flavour: Flavour) -> set[tuple[int, int]]:
    longs = {min(round(flavour.short_side * ratio), flavour.long_side) for ratio in _RATIOS} | {flavour.long_side}
    short = _whole_cells(flavour.short_side)
    return set(itertools.chain(*(((short, long), (long, short)) for long in map(_whole_cells, longs))))


def _whole_cells(side: int) -> int:
    return -(-side // FEATURE_STRIDE) * FEATURE_STRIDE


def _neighbours(length: int, side: int, step: float, flavour: Flavour) -> _Neighbours:
    """Where each of ``side`` places lies on a side of ``length`` pixels; the border is replicated.

    In the precision of the references: OpenCV rounds positions to float32, torch the step as well.
    """
    step = step if flavour.resize == "opencv" else float(np.float32(step))
    at = ((np.arange(side) + 0.5) * step - 0.5).astype(np.float32)
    at = np.clip(at, 0, length - 1)
    low = np.floor(at).astype(np.int64)
    return _Neighbours(low, np.minimum(low + 1, length - 1), at - low.astype(np.float32))


def _interpolate(picture: np.ndarray, vertical: _Neighbours, horizontal: _Neighbours) -> Float32[np.ndarray, "h w 3"]:
    """Bilinear: first along the rows that are needed, then between them."""
    rows, places = np.unique(np.stack([vertical.low, vertical.high]), return_inverse=True)
    needed = picture[rows]
    left, right = (needed[:, columns].astype(np.float32) for columns in (horizontal.low, horizontal.high))
    along = left + (right - left) * horizontal.weight[None, :, None]
    above, below = along[places[0]], along[places[1]]
    return above + (below - above) * vertical.weight[:, None, None]

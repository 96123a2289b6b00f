"""Region features computed from pixels: what a small hand-made vision system sees in a box.

n boxes of one picture. Each box, with a little context, is averaged down to a grid of CELLS x CELLS cells in a
perceptual colour space (Oklab); the context ring around it tells what the background looks like, and whatever differs
from it is the foreground. Five groups of non-negative numbers of order 1 follow: a colour histogram of the
foreground, coarse mean colours, the foreground's silhouette, gradient orientations, and texture statistics.

Nothing here knows what was drawn: the only inputs are pixels and boxes.
"""

import functools

import numpy as np

CELLS = 24
_CONTEXT = 0.14  # of the box's size, on each side
_HUES, _TONES, _GREYS = 12, 3, 6
_COLOUR_GRID, _MASK_GRID, _EDGE_GRID, _ORIENTATIONS = 4, 10, 4, 6
GROUPS = {
    "hue and tone": _HUES * _TONES,
    "grey": _GREYS,
    "colour grid": 5 * _COLOUR_GRID**2,
    "silhouette": _MASK_GRID**2,
    "edges": _ORIENTATIONS * _EDGE_GRID**2,
    "texture": 26,
}
FEATURE_DIM = sum(GROUPS.values())

# sRGB byte to linear light, and the two matrices of Oklab (Björn Ottosson, 2020).
_LINEAR = ((np.arange(256) / 255.0) ** 2.2).astype(np.float32)
_TO_CONES = np.array(
    [[0.4122215, 0.5363325, 0.0514460], [0.2119035, 0.6806995, 0.1073970], [0.0883025, 0.2817188, 0.6299787]]
)
_TO_LAB = np.array(
    [[0.2104543, 0.7936178, -0.0040720], [1.9779985, -2.4285922, 0.4505937], [0.0259040, 0.7827718, -0.8086758]]
)

_SMOOTH = ((np.eye(CELLS, k=-1) + 2 * np.eye(CELLS) + np.eye(CELLS, k=1)) / 4).astype(np.float32)
_SMOOTH[0, 0] = _SMOOTH[-1, -1] = 0.75


def describe(pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Features of boxes in one picture.

    Args:
        pixels: [H,W,3] uint8, sRGB.
        boxes: [n,4] xyxy pixels inside the picture.

    Returns:
        [n,FEATURE_DIM] float32, non-negative.
    """
    lab = _to_lab(_crop(np.take(_LINEAR, pixels), np.asarray(boxes, np.float64)))
    mask = _foreground(lab)
    slope_y, slope_x = np.gradient(lab[..., 0], axis=(1, 2))
    groups = [
        _colour_histogram(lab, mask),
        _colour_grid(lab),
        2 * _pool(mask, _MASK_GRID),
        _edges(slope_x, slope_y, mask),
        _texture(lab[..., 0], slope_x, slope_y, mask),
    ]
    return np.concatenate(groups, axis=1).astype(np.float32)


def _crop(image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Exact area means of a CELLS x CELLS grid over every box and its context: [n,CELLS,CELLS,3]."""
    height, width, _ = image.shape
    margin = _CONTEXT * (boxes[:, 2:] - boxes[:, :2])
    # Outside the picture there is nothing to see, so the context ends at its border.
    low = np.maximum(boxes[:, :2] - margin, 0)
    high = np.minimum(boxes[:, 2:] + margin, [width, height])
    across = _cell_weights(low[:, 0], high[:, 0], width)
    down = _cell_weights(low[:, 1], high[:, 1], height)
    rows = down.reshape(-1, height) @ image.reshape(height, -1)
    rows = rows.reshape(len(boxes), CELLS, width, 3).transpose(0, 3, 1, 2)
    return (rows @ across.transpose(0, 2, 1)[:, None]).transpose(0, 2, 3, 1)


def _cell_weights(low: np.ndarray, high: np.ndarray, length: int) -> np.ndarray:
    """Share of every pixel of a row in every cell between `low` and `high`: [n,CELLS,length] float32, rows sum to 1."""
    edges = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, CELLS + 1)
    covered = np.clip(edges[:, :, None].astype(np.float32) - np.arange(length, dtype=np.float32), 0, 1)
    weights = covered[:, 1:] - covered[:, :-1]
    return weights / weights.sum(axis=2, keepdims=True)


def _to_lab(linear: np.ndarray) -> np.ndarray:
    """Linear sRGB to Oklab: lightness 0..1, then green to red and blue to yellow about -0.3..0.3."""
    return np.cbrt(linear @ _TO_CONES.T.astype(np.float32)) @ _TO_LAB.T.astype(np.float32)


def _foreground(lab: np.ndarray) -> np.ndarray:
    """[n,CELLS,CELLS] 0..1: how unlike the ring of cells along the crop's border a cell is.

    A ring of four corners' neighbourhoods suits most shapes: objects seldom reach the corners of their box.
    """
    ring = np.zeros((CELLS, CELLS), bool)
    ring[:2] = ring[-2:] = ring[:, :2] = ring[:, -2:] = True
    border = lab[:, ring]  # [n,r,3]
    colour = np.median(border, axis=1)[:, None, None]
    difference = lab - colour
    # Shadows change lightness more than hue, so lightness counts for less.
    difference[..., 0] *= 0.55
    distance = np.sqrt((difference**2).sum(axis=-1))
    return np.clip((distance - 0.035) / 0.07, 0, 1)


def _pool(values: np.ndarray, cells: int) -> np.ndarray:
    """Means over a cells x cells grid of [n,CELLS,CELLS]: [n,cells*cells]; grid cells may share a row or column."""
    weights = _pool_weights(cells)
    return (weights @ values @ weights.T).reshape(len(values), -1)


@functools.cache
def _pool_weights(cells: int) -> np.ndarray:
    edges = np.linspace(0, CELLS, cells + 1)
    positions = np.arange(CELLS)
    weights = np.clip(np.minimum(positions + 1, edges[1:, None]) - np.maximum(positions, edges[:-1, None]), 0, 1)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _soft_bins(at: np.ndarray, bins: int, *, circular: bool) -> np.ndarray:
    """Linear shares of each value in its two nearest bins: [...,bins]; bin k is centred at `at` = k."""
    gap = np.abs(at[..., None] - np.arange(bins, dtype=np.float32))
    if circular:
        gap = np.minimum(gap, bins - gap)
    return np.clip(1 - gap, 0, None)


def _colour_histogram(lab: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Share of the foreground in each hue and tone (coloured cells) and each grey: [n, 36 + 6]."""
    n = len(lab)
    light, a, b = (lab[..., i].reshape(n, -1) for i in range(3))
    chroma = np.sqrt(a * a + b * b)
    coloured = np.clip((chroma - 0.02) / 0.06, 0, 1)
    hue = (np.arctan2(b, a) / (2 * np.pi) % 1) * _HUES
    weight = mask.reshape(n, -1)
    weight = weight / (weight.sum(axis=1, keepdims=True) + 1e-3)
    hues = _soft_bins(hue, _HUES, circular=True) * (weight * coloured)[..., None]
    tones = _soft_bins(np.clip((light - 0.35) / 0.25, 0, _TONES - 1), _TONES, circular=False)
    greys = _soft_bins(np.clip((light - 0.3) / 0.14, 0, _GREYS - 1), _GREYS, circular=False)
    joint = hues.transpose(0, 2, 1) @ tones
    grey = ((weight * (1 - coloured))[:, None] @ greys)[:, 0]
    # The square root spreads small shares out, as in RootSIFT.
    return np.sqrt(np.concatenate([joint.reshape(n, -1), grey], axis=1)) * 1.5


def _colour_grid(lab: np.ndarray) -> np.ndarray:
    """Mean colour of 4 x 4 patches, opponent colours split into positive parts: [n, 5 * 16]."""
    light, a, b = (_pool(lab[..., i], _COLOUR_GRID) for i in range(3))
    halves = [np.maximum(5 * sign * axis, 0) for axis in (a, b) for sign in (1, -1)]
    return np.concatenate([light, *halves], axis=1)


def _edges(slope_x: np.ndarray, slope_y: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Orientation of the silhouette's and the lightness' gradients in 4 x 4 patches: [n, 6 * 16]."""
    mask_y, mask_x = np.gradient(mask, axis=(1, 2))
    orientation, strength = _orientation(slope_x * 1.5 + mask_x, slope_y * 1.5 + mask_y)
    shares = _soft_bins(orientation * _ORIENTATIONS, _ORIENTATIONS, circular=True) * strength[..., None]
    pooled = [_pool(shares[..., k], _EDGE_GRID) for k in range(_ORIENTATIONS)]
    stacked = np.stack(pooled, axis=-1)  # [n,16,6]
    norm = np.sqrt((stacked**2).sum(axis=(1, 2), keepdims=True)) + 0.05
    return (4 * stacked / norm).reshape(len(mask), -1)


def _orientation(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Undirected orientation as a share of half a turn, 0..1, and strength."""
    return np.arctan2(y, x) / np.pi % 1, np.sqrt(x * x + y * y)


def _texture(light: np.ndarray, slope_x: np.ndarray, slope_y: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Statistics of the lightness well inside the foreground: [n, 26]."""
    n = len(light)
    inner = np.clip(_blur(_blur(mask)) * 4 - 3, 0, 1)
    weight = inner / (inner.sum(axis=(1, 2), keepdims=True) + 0.5)

    def mean(values: np.ndarray) -> np.ndarray:
        return (values * weight).sum(axis=(1, 2))[:, None]

    orientation, strength = _orientation(slope_x, slope_y)
    oriented = _soft_bins(orientation * 8, 8, circular=True) * (strength * weight)[..., None]
    by_orientation = oriented.reshape(n, -1, 8).sum(axis=1)
    total = by_orientation.sum(axis=1, keepdims=True)
    smooth = _blur(light)
    fine, coarse = light - smooth, smooth - _blur(_blur(smooth))
    broad = light - mean(light)[..., None]
    spread = np.sqrt(mean(broad**2)) + 1e-3
    bands = [np.sqrt(mean(np.maximum(s * band, 0) ** 2)) for band in (fine, coarse, broad) for s in (1, -1)]
    skew = mean((broad / spread[..., None]) ** 3)
    levels = _soft_bins(np.clip(broad / spread[..., None] + 2, 0, 4), 5, circular=False)
    shares = (levels * weight[..., None]).reshape(n, -1, 5).sum(axis=1)
    diagonal = np.abs(slope_x * slope_y)
    groups = [
        by_orientation / (total + 0.01),
        12 * by_orientation[:, [0, 2, 4, 6]],
        10 * np.concatenate(bands, axis=1),
        np.maximum(skew, 0),
        np.maximum(-skew, 0),
        shares,
        60 * mean(diagonal),
    ]
    return np.clip(np.concatenate(groups, axis=1), 0, 4)


def _blur(values: np.ndarray) -> np.ndarray:
    """[n,CELLS,CELLS] smoothed by 1-2-1 in both directions, borders repeated."""
    return _SMOOTH @ values @ _SMOOTH.T

"""The eight shapes as signed-distance functions: distance to the outline, negative inside.

Every function takes coordinate arrays x (to the right) and y (upwards) in units of the shape's radius, centred on the
shape, and returns distances in the same unit. The closed forms are the well-known ones of 2-D distance fields: fold
the plane by the shape's symmetries, then measure to one edge.
"""

import functools
from collections.abc import Callable

import numpy as np

Sdf = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(x * x + y * y) - 0.92


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.sqrt(x * x + y * y) - 0.7) - 0.24


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    half, corner = 0.80, 0.10
    x, y = np.abs(x) - half + corner, np.abs(y) - half + corner
    outside = np.sqrt(np.maximum(x, 0) ** 2 + np.maximum(y, 0) ** 2)
    return outside + np.minimum(np.maximum(x, y), 0) - corner


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    half, corner, slope = 0.90, 0.09, np.sqrt(3.0)
    x, y = np.abs(x) - half, y + 0.12 + half / slope
    beyond = x + slope * y > 0
    x, y = np.where(beyond, (x - slope * y) / 2, x), np.where(beyond, (-slope * x - y) / 2, y)
    x = x - np.clip(x, -2 * half, 0)
    return -np.sqrt(x * x + y * y) * np.sign(y) - corner


def _hexagon(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    apothem, corner = 0.78, 0.07
    kx, ky, kz = -0.866025404, 0.5, 0.577350269
    x, y = np.abs(x), np.abs(y)
    fold = 2 * np.minimum(kx * x + ky * y, 0)
    x, y = x - fold * kx, y - fold * ky
    x, y = x - np.clip(x, -kz * apothem, kz * apothem), y - apothem
    return np.sqrt(x * x + y * y) * np.sign(y) - corner


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    radius, inner, corner = 0.98, 0.46, 0.05
    cosine, sine = 0.809016994, 0.587785252
    x = np.abs(x)
    fold = 2 * np.maximum(cosine * x - sine * y, 0)
    x, y = x - fold * cosine, y + fold * sine
    fold = 2 * np.maximum(-cosine * x - sine * y, 0)
    x, y = np.abs(x + fold * cosine), y + fold * sine - radius
    ax, ay = inner * sine, inner * cosine - 1
    along = np.clip((x * ax + y * ay) / (ax * ax + ay * ay), 0, radius)
    dx, dy = x - ax * along, y - ay * along
    return np.sqrt(dx * dx + dy * dy) * np.sign(y * ax - x * ay) - corner


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    length, thickness, corner = 0.88, 0.27, 0.07
    x, y = np.abs(x), np.abs(y)
    x, y = np.maximum(x, y), np.minimum(x, y)
    qx, qy = x - length, y - thickness
    k = np.maximum(qx, qy)
    wx, wy = np.where(k > 0, qx, thickness - x), np.where(k > 0, qy, -k)
    return np.sign(k) * np.sqrt(np.maximum(wx, 0) ** 2 + np.maximum(wy, 0) ** 2) - corner


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    scale = 1.52
    x, y = np.abs(x) / scale, y / scale + 0.56
    lobe = np.sqrt((x - 0.25) ** 2 + (y - 0.75) ** 2) - np.sqrt(2.0) / 4
    half = 0.5 * np.maximum(x + y, 0)
    tip = np.minimum(x * x + (y - 1) ** 2, (x - half) ** 2 + (y - half) ** 2)
    return np.where(x + y > 1, lobe, np.sqrt(tip) * np.sign(x - y)) * scale


SDFS: dict[str, Sdf] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "ring": _ring,
    "hexagon": _hexagon,
}


@functools.cache
def outline(shape: str, points: int = 180) -> np.ndarray:
    """Outer outline of a shape of radius 1: [points, 2] float64, x to the right and y upwards.

    Found by bisection along rays from the centre, which every shape's outer outline crosses once.
    """
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    cosine, sine = np.cos(angles), np.sin(angles)
    # A ring's hole must not stop the search, so it starts outside the hole.
    low, high = np.full(points, 0.7 if shape == "ring" else 0.0), np.full(points, 1.6)
    for _ in range(30):
        middle = (low + high) / 2
        inside = SDFS[shape](middle * cosine, middle * sine) < 0
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return np.stack([low * cosine, low * sine], axis=1)

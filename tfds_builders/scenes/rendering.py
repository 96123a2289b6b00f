"""Draws a scene: anti-aliased, shaded, textured shapes with soft shadows on a quiet background.

Everything is a function of signed distances, so a picture can be drawn at any scale and looks the same, only sharper.
H and W are the picture's height and width in pixels, h and w those of the window around one object.
"""

import colorsys
import functools

import numpy as np

from tfds_builders.scenes import world
from tfds_builders.scenes.world import HEIGHT, WIDTH, Scene, Thing

# sRGB in 0..1: the colour itself, and the second tone of a pattern.
_PAINT = {
    "red": ((0.88, 0.16, 0.17), (0.60, 0.05, 0.09)),
    "orange": ((0.98, 0.55, 0.10), (0.80, 0.36, 0.03)),
    "yellow": ((0.99, 0.86, 0.18), (0.86, 0.66, 0.05)),
    "green": ((0.22, 0.68, 0.30), (0.07, 0.43, 0.17)),
    "blue": ((0.16, 0.44, 0.88), (0.06, 0.23, 0.58)),
    "purple": ((0.54, 0.28, 0.78), (0.33, 0.12, 0.53)),
    "pink": ((0.99, 0.60, 0.76), (0.90, 0.36, 0.58)),
    "brown": ((0.52, 0.33, 0.19), (0.34, 0.19, 0.09)),
    "white": ((0.97, 0.97, 0.96), (0.74, 0.75, 0.78)),
}
_PAINT_ARRAYS = {name: np.array(tones, np.float32) for name, tones in _PAINT.items()}
_SHADOW_OFFSET = 6.0  # pixels at scale 1
_SHADOW_BLUR = 8.0
_BEVEL = 0.30  # of the radius


def render(image_id: str, scale: int = 1) -> np.ndarray:
    """Draws one picture from its id alone.

    Args:
        image_id: for example "small-train-000012".
        scale: pixels a unit; the data set is drawn at 1, larger is only sharper.

    Returns:
        [192 * scale, 256 * scale, 3] uint8, sRGB.

    Raises:
        InputError: it is not an id of this data set.
    """
    return render_scene(world.make_scene(image_id), scale)


def render_scene(scene: Scene, scale: int = 1) -> np.ndarray:
    """Draws a scene: [192 * scale, 256 * scale, 3] uint8, sRGB."""
    canvas = _background(scene, scale)
    for thing in scene.things:
        _paint(canvas, thing, scene.light, scale)
    # Dithering by one grey level hides the steps of slow gradients, where they are large enough to be seen.
    canvas = canvas * np.float32(255) + (_dither(*canvas.shape) if scale == 1 else np.float32(0.5))
    return np.ascontiguousarray(np.clip(canvas, 0, 255).astype(np.uint8).transpose(1, 2, 0))


@functools.lru_cache(maxsize=2)
def _dither(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, np.float32)


def _background(scene: Scene, scale: int) -> np.ndarray:
    """[3,H,W] float32: a slow gradient of a muted colour with a faint structure."""
    rng = world.image_generator(scene.image_id, 1)
    y = ((np.arange(HEIGHT * scale, dtype=np.float32) + 0.5) / scale)[:, None]
    x = ((np.arange(WIDTH * scale, dtype=np.float32) + 0.5) / scale)[None, :]
    colour = np.array(colorsys.hsv_to_rgb(scene.tint, 0.17, scene.brightness), np.float32)
    shift = np.array(colorsys.hsv_to_rgb((scene.tint + 0.1) % 1, 0.25, scene.brightness * 0.86), np.float32)
    u, v = x / WIDTH - 0.5, y / HEIGHT - 0.5
    blend = 0.5 - np.float32(0.6 * np.cos(scene.light)) * u + np.float32(0.6 * np.sin(scene.light)) * v
    if scene.background == "clouds":
        for angle, waves, phase in rng.uniform([0, 0.8, 0], [np.pi, 2.2, 1], (4, 3)).astype(np.float32):
            blend = blend + 0.16 * np.sin(2 * np.pi * (waves * (np.cos(angle) * u + np.sin(angle) * v) + phase))
    elif scene.background == "weave":
        blend = blend + 0.07 * (np.sin(x * 1.05 + y * 0.35) + np.sin(y * 1.05 - x * 0.35))
    elif scene.background == "glow":
        cx, cy = rng.uniform(-0.3, 0.3, 2).astype(np.float32)
        blend = 0.1 + 1.3 * np.sqrt((u - cx) ** 2 + (v - cy) ** 2)
    blend = np.clip(blend, 0, 1, dtype=np.float32)
    vignette = 1 - np.float32(0.22) * (u * u + v * v)
    return (colour[:, None, None] + (shift - colour)[:, None, None] * blend) * vignette


def _paint(canvas: np.ndarray, thing: Thing, light: float, scale: int) -> None:
    """Paints one object and its shadow onto the canvas, in place."""
    window, x, y = _window(thing, scale)
    distance = thing.distance(x, y)
    to_light = np.float32(np.cos(light)), np.float32(-np.sin(light))  # picture coordinates, y downwards
    shadow = thing.distance(x + to_light[0] * _SHADOW_OFFSET, y + to_light[1] * _SHADOW_OFFSET)
    darkness = 0.48 * _smoothstep(0.5 - shadow / (2 * _SHADOW_BLUR)) ** 1.5
    below = canvas[window] * (1 - darkness)
    surface = _surface(thing, distance, x, y, to_light, scale)
    canvas[window] = below + (surface - below) * np.clip(0.5 - distance * scale, 0, 1)


def _window(thing: Thing, scale: int) -> tuple[tuple[slice, slice, slice], np.ndarray, np.ndarray]:
    """The part of the canvas that an object and its shadow touch, and its pixel centres [h,w] at scale 1."""
    reach = _SHADOW_OFFSET + _SHADOW_BLUR + 1
    x1, y1, x2, y2 = thing.box
    left, right = max(int((x1 - reach) * scale), 0), min(int((x2 + reach) * scale) + 1, WIDTH * scale)
    top, bottom = max(int((y1 - reach) * scale), 0), min(int((y2 + reach) * scale) + 1, HEIGHT * scale)
    x = (np.arange(left, right, dtype=np.float32) + 0.5) / scale
    y = (np.arange(top, bottom, dtype=np.float32) + 0.5) / scale
    return (slice(None), slice(top, bottom), slice(left, right)), x[None, :], y[:, None]


def _surface(
    thing: Thing,
    distance: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    to_light: tuple[np.float32, np.float32],
    scale: int,
) -> np.ndarray:
    """[3,h,w] float32: the object's paint, its pattern and its rounded, lit edge."""
    base, second = _PAINT_ARRAYS[thing.colour][..., None, None]
    pattern = _pattern(thing, x, y, scale)
    paint = base if pattern is None else base + (second - base) * pattern
    slope_y, slope_x = np.gradient(distance, np.float32(1 / scale))
    depth = np.clip(-distance / (_BEVEL * thing.radius), 0, 1)
    tilt = (1 - depth) ** 2
    facing = (slope_x * to_light[0] + slope_y * to_light[1]) * tilt
    across = ((x - thing.x) * to_light[0] + (y - thing.y) * to_light[1]) / np.float32(thing.radius)
    shade = 1 + 0.26 * facing + 0.10 * across
    shine = 0.30 * np.clip(facing * 1.25 - 0.35, 0, 1) + 0.07 * np.clip(across - 0.1, 0, 1)
    rim = np.clip(1 + distance / 1.6, 0, 1) * 0.16  # a thin darker line holds the shape together
    lit = paint * (shade * (1 - rim))
    return lit + (1 - lit) * shine


def _pattern(thing: Thing, x: np.ndarray, y: np.ndarray, scale: int) -> np.ndarray | None:
    """[h,w] float32: 1 where the second tone goes, 0 elsewhere; None for a plain object."""
    if thing.texture == "plain":
        return None
    u, v = thing.local(x, y)
    period = np.float32(4.2 + 0.24 * thing.radius)
    sharp = period * scale / 3
    if thing.texture == "striped":
        wave = np.sin((u * 0.7071 + v * 0.7071) * (2 * np.pi / period))
        return np.clip(0.5 + wave * sharp * 0.5, 0, 1)
    if thing.texture == "checkered":
        half = np.pi / (period * 0.92)
        return np.clip(0.5 + np.sin(u * half) * np.sin(v * half) * sharp, 0, 1)
    row = np.floor(v / period)
    du = (u + 0.5 * period * (row % 2)) % period - period / 2
    dv = v % period - period / 2
    return np.clip(0.5 + (0.30 * period - np.sqrt(du * du + dv * dv)) * scale, 0, 1)


def _smoothstep(t: np.ndarray) -> np.ndarray:
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)

"""What is in a picture: objects with attributes and places, drawn at random from the picture's id alone.

A picture's id is `<size>-<split>-<number>`, for example `small-train-000012`. Everything about the picture follows
from it, so any picture can be drawn again without its data set.
"""

import dataclasses
import functools
import itertools
import re

import numpy as np

from tfds_builders.scenes import shapes
from vilbert_jax.errors import InputError

WIDTH, HEIGHT = 256, 192  # pixels at scale 1

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white")
SHAPES = tuple(shapes.SDFS)
TEXTURES = ("plain", "striped", "dotted", "checkered")
SIZES = ("small", "large")
ATTRIBUTES = {"size": SIZES, "texture": TEXTURES, "colour": COLOURS, "shape": SHAPES}
BACKGROUNDS = ("gradient", "clouds", "weave", "glow")

_RADII = {"small": (17.0, 21.0), "large": (32.0, 39.0)}  # pixels; the gap keeps the two sizes apart
_MARGIN = 4.0  # pixels between an outline and the picture's edge
_GAP = 3.0  # pixels between two objects that do not overlap
_SIZE_CODES = {"small": 1, "full": 2, "tiny": 3, "calibration": 4}
_SPLIT_CODES = {"train": 0, "validation": 1, "test": 2}
_SEED = 20190806


@dataclasses.dataclass(frozen=True)
class Thing:
    """One object. Its place is in pixels at scale 1, y downwards; `angle` in radians."""

    shape: str
    colour: str
    texture: str
    size: str
    x: float
    y: float
    radius: float
    angle: float

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Signed distance to the outline in pixels, for picture coordinates; negative inside."""
        u, v = self.local(x, y)
        return shapes.SDFS[self.shape](u / self.radius, v / self.radius) * self.radius

    def local(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Picture coordinates turned into the object's own frame, in pixels, y upwards."""
        cosine, sine = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        dx, dy = x - np.float32(self.x), np.float32(self.y) - y
        return cosine * dx + sine * dy, cosine * dy - sine * dx

    @functools.cached_property
    def box(self) -> tuple[float, float, float, float]:
        """Tight box x1, y1, x2, y2 of the whole object, also where something hides it."""
        points = shapes.outline(self.shape) * self.radius
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        x = self.x + cosine * points[:, 0] - sine * points[:, 1]
        y = self.y - sine * points[:, 0] - cosine * points[:, 1]
        return float(x.min()), float(y.min()), float(x.max()), float(y.max())

    def has(self, **attributes: str) -> bool:
        """Whether every given attribute has the given value."""
        return all(getattr(self, name) == value for name, value in attributes.items())


@dataclasses.dataclass(frozen=True)
class Scene:
    """One picture's contents; `things` are painted in order, so a later one stands in front.

    Attributes:
        image_id: the picture.
        things: 2 to 5 objects.
        in_front: pairs (i, j): object i visibly covers part of object j.
        background: kind of background.
        tint: hue of the background, 0..1.
        brightness: of the background, 0..1.
        light: direction the light comes from, radians.
    """

    image_id: str
    things: tuple[Thing, ...]
    in_front: frozenset[tuple[int, int]]
    background: str
    tint: float
    brightness: float
    light: float


def parse_image_id(image_id: str) -> tuple[str, str, int]:
    """Size, split and number of a picture.

    Raises:
        InputError: it is not an id of this data set.
    """
    match = re.fullmatch(r"([a-z]+)-([a-z]+)-(\d{6})", image_id)
    if not match or match[1] not in _SIZE_CODES or match[2] not in _SPLIT_CODES:
        raise InputError(
            f"{image_id!r} is no picture of the scenes data set; expected <size>-<split>-<six digits>, "
            "for example small-train-000012"
        )
    return match[1], match[2], int(match[3])


def make_image_id(size: str, split: str, number: int) -> str:
    """The id of one picture."""
    return f"{size}-{split}-{number:06d}"


def image_number(image_id: str) -> int:
    """A whole number for a picture, unique over the splits of one size: 1,000,000 times the split plus the number."""
    _, split, number = parse_image_id(image_id)
    return _SPLIT_CODES[split] * 1_000_000 + number


def image_generator(image_id: str, purpose: int) -> np.random.Generator:
    """Random numbers that belong to one picture and one purpose (see the callers)."""
    size, split, number = parse_image_id(image_id)
    return np.random.default_rng([_SEED, _SIZE_CODES[size], _SPLIT_CODES[split], number, purpose])


@functools.lru_cache(maxsize=64)
def make_scene(image_id: str) -> Scene:
    """The contents of one picture, a pure function of its id."""
    rng = image_generator(image_id, 0)
    things = None
    while things is None:
        drawn = _draw_attributes(rng)
        if len({tuple(thing.values()) for thing in drawn}) == len(drawn):  # every thing can be told from the others
            things = _place(rng, drawn)
    return Scene(
        image_id=image_id,
        things=things,
        in_front=frozenset(
            (j, i) for i, j in itertools.combinations(range(len(things)), 2) if _overlap(things[i], things[j])[0] > 0
        ),
        background=str(rng.choice(BACKGROUNDS)),
        tint=float(rng.random()),
        brightness=float(rng.uniform(0.68, 0.95)),
        light=float(rng.uniform(0.25, 0.75) * np.pi),
    )


def _draw_attributes(rng: np.random.Generator) -> list[dict[str, str]]:
    """Attributes of 2 to 5 objects; in a third of the pictures two of them differ in exactly one."""
    count = int(rng.choice([2, 3, 4, 5], p=[0.14, 0.34, 0.34, 0.18]))
    drawn = [{name: str(rng.choice(values)) for name, values in ATTRIBUTES.items()} for _ in range(count)]
    for thing in drawn:  # half of the objects are plain, so that a pattern is worth mentioning
        if rng.random() < 0.35:
            thing["texture"] = "plain"
    kind = rng.random()
    if kind < 0.36:
        changed = str(rng.choice(["size", "texture", "colour", "shape"], p=[0.15, 0.25, 0.3, 0.3]))
        others = [value for value in ATTRIBUTES[changed] if value != drawn[0][changed]]
        drawn[1] = drawn[0] | {changed: str(rng.choice(others))}
    elif kind < 0.5 and count > 2:  # something to count
        drawn[1] |= {"colour": drawn[0]["colour"], "shape": drawn[0]["shape"]}
    if sum(thing["size"] == "large" for thing in drawn) > 3:
        drawn[-1]["size"] = "small"
    return drawn


def _place(rng: np.random.Generator, drawn: list[dict[str, str]]) -> tuple[Thing, ...] | None:
    """Finds a place for every object, or None if they do not fit; sometimes one object overlaps another."""
    overlapping = int(rng.integers(1, len(drawn))) if rng.random() < 0.35 else 0
    order = rng.permutation(len(drawn))
    placed: list[Thing] = []
    for rank, index in enumerate(order):
        partner = int(rng.integers(rank)) if overlapping and rank == overlapping else None
        for _ in range(40):
            thing = _propose(rng, drawn[index], None if partner is None else placed[partner])
            if _fits(thing, placed, partner):
                placed.append(thing)
                break
        else:
            return None
    return tuple(placed)


def _propose(rng: np.random.Generator, attributes: dict[str, str], partner: Thing | None) -> Thing:
    """An object somewhere in the picture, or overlapping `partner`."""
    radius = float(rng.uniform(*_RADII[attributes["size"]]))
    tilt = 0.28 if attributes["shape"] in ("circle", "ring") else 0.2
    angle = float(rng.uniform(-tilt, tilt))
    if partner is None:
        x = float(rng.uniform(radius + _MARGIN, WIDTH - radius - _MARGIN))
        y = float(rng.uniform(radius + _MARGIN, HEIGHT - radius - _MARGIN))
    else:
        direction = float(rng.uniform(0, 2 * np.pi))
        reach = float(rng.uniform(0.7, 0.95)) * (0.9 * radius + 0.9 * partner.radius)
        x, y = partner.x + reach * np.cos(direction), partner.y + reach * np.sin(direction)
    return Thing(**attributes, x=float(x), y=float(y), radius=radius, angle=angle)


def _fits(thing: Thing, placed: list[Thing], partner: int | None) -> bool:
    x1, y1, x2, y2 = thing.box
    if min(x1, y1) < _MARGIN or x2 > WIDTH - _MARGIN or y2 > HEIGHT - _MARGIN:
        return False
    for index, other in enumerate(placed):
        if index == partner:
            covered, visible = _overlap(other, thing)
            if not (covered > 40 and visible > 0.6):
                return False
        elif np.hypot(thing.x - other.x, thing.y - other.y) < thing.radius + other.radius + _GAP:
            return False
    return True


def _overlap(behind: Thing, front: Thing) -> tuple[int, float]:
    """Pixels of `behind` that `front` covers, and the share of `behind` that stays visible."""
    if np.hypot(behind.x - front.x, behind.y - front.y) > behind.radius + front.radius + _GAP:
        return 0, 1.0
    x1, y1, x2, y2 = behind.box
    columns, rows = np.arange(int(x1), int(x2) + 1, 2), np.arange(int(y1), int(y2) + 1, 2)
    x, y = np.meshgrid(columns.astype(np.float32) + 0.5, rows.astype(np.float32) + 0.5)
    inside = behind.distance(x, y) < 0
    covered = int((inside & (front.distance(x, y) < 0)).sum())
    return 4 * covered, 1 - covered / max(int(inside.sum()), 1)

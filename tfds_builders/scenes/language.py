"""Words for what is in a picture: which relations hold, how to name an object, which names are unambiguous."""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from tfds_builders.scenes.world import COLOURS, SHAPES, SIZES, TEXTURES, Scene, Thing

CONTENT_WORDS: dict[str, tuple[str, ...]] = {
    "colour": COLOURS,
    "shape": tuple(form for shape in SHAPES for form in (shape, shape + ("es" if shape == "cross" else "s"))),
    "size": (*SIZES, "larger", "smaller"),
    "texture": TEXTURES,
    "relation": ("left", "right", "above", "below", "front", "behind"),
}
NUMBERS = ("no", "one", "two", "three", "four", "five")
ORDER = ("size", "texture", "colour", "shape")  # of attributes in front of a noun

_FAR = 24.0  # pixels between centres, at least, before we say where one stands
_CONE = 1.4  # how much larger the one offset must be than the other
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above", "front": "behind", "behind": "front"}
PREPOSITIONS = {
    "left": ("to the left of", "on the left of", "left of"),
    "right": ("to the right of", "on the right of", "right of"),
    "above": ("above",),
    "below": ("below",),
    "front": ("in front of",),
    "behind": ("behind",),
}


def plural(shape: str) -> str:
    """Plural of a shape, or of "shape" itself."""
    return shape + ("es" if shape == "cross" else "s")


def article(phrase: str) -> str:
    """The phrase with "a" or "an" in front."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def join(phrases: Sequence[str]) -> str:
    """Lists phrases: "a", "a and b", "a, b and c"."""
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


def relation(scene: Scene, i: int, j: int) -> str | None:
    """Where thing i stands as seen from thing j, if one answer is clearly right: a key of PREPOSITIONS."""
    if (i, j) in scene.in_front:
        return "front"
    if (j, i) in scene.in_front:
        return "behind"
    dx, dy = scene.things[i].x - scene.things[j].x, scene.things[i].y - scene.things[j].y
    if abs(dx) > max(_FAR, _CONE * abs(dy)):
        return "left" if dx < 0 else "right"
    if abs(dy) > max(_FAR, _CONE * abs(dx)):
        return "above" if dy < 0 else "below"
    return None


def leans(scene: Scene, i: int, j: int, side: str) -> bool:
    """Whether somebody could say that thing i is on this side of thing j, even if it is not the best description."""
    if side in ("front", "behind"):
        return ((i, j) if side == "front" else (j, i)) in scene.in_front
    dx, dy = scene.things[i].x - scene.things[j].x, scene.things[i].y - scene.things[j].y
    return {"left": dx < 0, "right": dx > 0, "above": dy < 0, "below": dy > 0}[side]


def only_one(scene: Scene, j: int, side: str, among: Iterable[int] | None = None) -> int | None:
    """The one thing (of `among`, default all others) that is on this side of thing j, if there can be no doubt."""
    others = [i for i in (range(len(scene.things)) if among is None else among) if i != j]
    found = [i for i in others if leans(scene, i, j, side)]
    return found[0] if len(found) == 1 and relation(scene, found[0], j) == side else None


def related_pairs(scene: Scene, relations: Iterable[str] = OPPOSITE) -> list[tuple[int, int, str]]:
    """All ordered pairs (i, j, relation of i to j) with one of the given relations."""
    wanted = set(relations)
    pairs = ((i, j, relation(scene, i, j)) for i, j in itertools.permutations(range(len(scene.things)), 2))
    return [(i, j, r) for i, j, r in pairs if r in wanted]


def matching(scene: Scene, attributes: dict[str, str]) -> list[int]:
    """Indices of the things with these attributes."""
    return [i for i, thing in enumerate(scene.things) if thing.has(**attributes)]


def pick(thing: Thing, names: Iterable[str]) -> dict[str, str]:
    """The named attributes of a thing."""
    return {name: getattr(thing, name) for name in ORDER if name in set(names)}


def noun_phrase(attributes: dict[str, str], *, count: int = 1, noun: str = "shape") -> str:
    """Words for attributes: "small striped red star", "red stars", or "striped shape" (`noun`) without a shape."""
    noun = attributes.get("shape", noun)
    words = [attributes[name] for name in ORDER[:-1] if name in attributes]
    return " ".join([*words, noun if count == 1 else plural(noun)])


def some_attributes(rng: np.random.Generator, thing: Thing) -> dict[str, str]:
    """Colour and shape of a thing, sometimes with its texture or size: enough for "a small red star"."""
    names = ["colour", "shape"]
    if rng.random() < (0.2 if thing.texture == "plain" else 0.45):
        names.append("texture")
    if rng.random() < 0.35:
        names.append("size")
    return pick(thing, names)


def a_thing(rng: np.random.Generator, thing: Thing) -> str:
    """Like "a small red star": says that there is one, not which one."""
    return article(noun_phrase(some_attributes(rng, thing)))


def two_things(rng: np.random.Generator, first: Thing, second: Thing) -> tuple[str, str]:
    """Like `a_thing` twice, but never twice the same words."""
    a, b = some_attributes(rng, first), some_attributes(rng, second)
    if a == b:
        unlike = [name for name in ORDER if getattr(first, name) != getattr(second, name)]
        a, b = pick(first, {*a, unlike[0]}), pick(second, {*b, unlike[0]})
    return article(noun_phrase(a)), article(noun_phrase(b))


def distinguishing(scene: Scene, i: int, *, without: Iterable[str] = ()) -> list[dict[str, str]]:
    """Smallest sets of attributes that only thing i has; empty if nothing tells it apart.

    Args:
        scene: the picture's contents.
        i: the thing.
        without: attributes not to be used, because they would give an answer away.
    """
    usable = [name for name in ORDER if name not in set(without)]
    for length in range(1, len(usable) + 1):
        found = [pick(scene.things[i], names) for names in itertools.combinations(usable, length)]
        found = [attributes for attributes in found if matching(scene, attributes) == [i]]
        if found:
            return found
    return []


def unique_attributes(
    rng: np.random.Generator, scene: Scene, i: int, *, without: Iterable[str] = (), prefer: Iterable[str] = ()
) -> dict[str, str] | None:
    """Attributes that only thing i has, some of them more than needed; None if nothing tells it apart.

    Args:
        rng: chooses among them.
        scene: the picture's contents.
        i: the thing.
        without: attributes not to be used.
        prefer: attributes to be added even if not needed.
    """
    choices = distinguishing(scene, i, without=without)
    if not choices:
        return None
    names = set(choices[int(rng.integers(len(choices)))]) | (set(prefer) - set(without))
    if "shape" not in without and rng.random() < 0.8:
        names.add("shape")
    return pick(scene.things[i], names)


def the_thing(
    rng: np.random.Generator, scene: Scene, i: int, *, without: Iterable[str] = (), prefer: Iterable[str] = ()
) -> str | None:
    """Like "the striped star": names exactly one thing of the picture; None if nothing tells it apart."""
    attributes = unique_attributes(rng, scene, i, without=without, prefer=prefer)
    return None if attributes is None else "the " + noun_phrase(attributes, noun="thing")


def choice(rng: np.random.Generator, options: Sequence):
    """One of the options, uniformly, whatever their type."""
    return options[int(rng.integers(len(options)))]

"""Referring expressions: phrases that fit exactly one thing of their picture."""

import itertools
from typing import NamedTuple

import numpy as np

from tfds_builders.scenes import world
from tfds_builders.scenes.language import (
    OPPOSITE,
    PREPOSITIONS,
    choice,
    distinguishing,
    matching,
    noun_phrase,
    only_one,
    pick,
    the_thing,
    unique_attributes,
)
from tfds_builders.scenes.world import HEIGHT, WIDTH, Scene

_SENTENCES = 3  # at most, a thing
_CLEARLY = 0.12  # of the picture's width or height: how far the outermost thing must be ahead of the next
_PLACES = {
    "left": "on the left",
    "right": "on the right",
    "above": "at the top",
    "below": "at the bottom",
}


class Expression(NamedTuple):
    """One phrase and the index of the thing it means."""

    thing: int
    sentence: str


def expressions(scene: Scene) -> list[Expression]:
    """One to three phrases for every thing of the picture."""
    rng = world.image_generator(scene.image_id, 6)
    found = []
    for i in range(len(scene.things)):
        phrases = (kind(rng, scene, i) for kind in (_by_attributes, _by_relation, _by_place, _by_attributes))
        different = dict.fromkeys(phrase for phrase in phrases if phrase)
        found += [
            Expression(i, phrase.removeprefix("the ") if rng.random() < 0.5 else phrase)
            for phrase in itertools.islice(different, _SENTENCES)
        ]
    return found


def _by_attributes(rng: np.random.Generator, scene: Scene, i: int) -> str | None:
    """Like "the striped red star"."""
    attributes = unique_attributes(rng, scene, i)
    return None if attributes is None else "the " + noun_phrase(attributes, noun="thing")


def _some_name(rng: np.random.Generator, scene: Scene, i: int) -> dict[str, str]:
    """Attributes that need not be enough to tell the thing apart."""
    return pick(scene.things[i], choice(rng, [["shape"], ["shape"], ["colour"], ["colour", "shape"], ["texture"]]))


def _by_relation(rng: np.random.Generator, scene: Scene, i: int) -> str | None:
    """Like "the star above the blue circle"; other stars may be elsewhere."""
    attributes = _some_name(rng, scene, i)
    places = [
        (j, side)
        for j in range(len(scene.things))
        for side in OPPOSITE
        if j != i and distinguishing(scene, j) and only_one(scene, j, side, matching(scene, attributes)) == i
    ]
    if not places:
        return None
    j, side = choice(rng, places)
    name = the_thing(rng, scene, j)
    return f"the {noun_phrase(attributes, noun='thing')} {choice(rng, PREPOSITIONS[side])} {name}"


def _by_place(rng: np.random.Generator, scene: Scene, i: int) -> str | None:
    """Like "the star on the left": the outermost of all stars, by a clear margin."""
    attributes = _some_name(rng, scene, i)
    rivals = [k for k in matching(scene, attributes) if k != i]
    here = scene.things[i]
    for side in rng.permutation(list(_PLACES)):
        across = side in ("left", "right")
        sign = -1 if side in ("left", "above") else 1
        at = sign * ((here.x / WIDTH if across else here.y / HEIGHT) - 0.5)
        ahead = [
            at - sign * ((scene.things[k].x / WIDTH if across else scene.things[k].y / HEIGHT) - 0.5) for k in rivals
        ]
        if at > 0.1 and all(distance > _CLEARLY for distance in ahead):
            return f"the {noun_phrase(attributes, noun='thing')} {_PLACES[str(side)]}"
    return None

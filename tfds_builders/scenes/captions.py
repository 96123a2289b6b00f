"""Captions: 6 to 25 words, true of their picture, and only understood by who binds words to the right object.

"a small red star is to the left of a striped blue circle" cannot be told from its mirror image by the objects alone.
Each kind of sentence is one function that returns a sentence or None where the picture offers nothing to say.
"""

import itertools
from collections.abc import Callable

import numpy as np

from tfds_builders.scenes import world
from tfds_builders.scenes.language import (
    NUMBERS,
    OPPOSITE,
    PREPOSITIONS,
    a_thing,
    article,
    choice,
    distinguishing,
    join,
    matching,
    noun_phrase,
    pick,
    related_pairs,
    relation,
    some_attributes,
    the_thing,
    two_things,
)
from tfds_builders.scenes.world import ATTRIBUTES, HEIGHT, WIDTH, Scene

MIN_WORDS, MAX_WORDS = 6, 25
_TRIES = 300


def captions(scene: Scene, count: int) -> list[str]:
    """`count` different true captions of one picture, a function of the picture and `count` alone.

    Raises:
        RuntimeError: the picture offers fewer; it would be a fault of this module.
    """
    rng = world.image_generator(scene.image_id, 3)
    kinds, weights = zip(*_KINDS.items(), strict=True)
    probabilities = np.array(weights) / sum(weights)
    found: list[str] = []
    used: list[Callable] = []
    for attempt in range(_TRIES):
        kind = kinds[int(rng.choice(len(kinds), p=probabilities))]
        if used.count(kind) >= 2 and attempt < _TRIES // 2:
            continue
        sentence = kind(rng, scene)
        if sentence and sentence not in found and MIN_WORDS <= count_words(sentence) <= MAX_WORDS:
            found.append(sentence)
            used.append(kind)
            if len(found) == count:
                return found
    raise RuntimeError(f"only {len(found)} captions for {scene.image_id}")


def count_words(sentence: str) -> int:
    """Words, not counting punctuation."""
    return len(sentence.split())


def _where(rng: np.random.Generator, scene: Scene) -> str | None:
    """Where one thing stands, seen from another."""
    pairs = related_pairs(scene, ("left", "right", "above", "below"))
    if not pairs:
        return None
    i, j, side = choice(rng, pairs)
    a, b = two_things(rng, scene.things[i], scene.things[j])
    place = choice(rng, PREPOSITIONS[side])
    templates = [
        f"{a} is {place} {b}",
        f"{a} {choice(rng, ['sits', 'stands', 'lies'])} {place} {b}",
        f"there is {a} {place} {b}",
        f"{place} {b} there is {a}",
    ]
    if OPPOSITE[side] in ("left", "right"):
        templates.append(f"{a} with {b} to its {OPPOSITE[side]}")
    else:
        templates.append(f"{a} with {b} {OPPOSITE[side]} it")
    return choice(rng, templates)


def _hidden(rng: np.random.Generator, scene: Scene) -> str | None:
    """One thing covers part of another."""
    if not scene.in_front:
        return None
    i, j = choice(rng, sorted(scene.in_front))
    a, b = two_things(rng, scene.things[i], scene.things[j])
    return choice(
        rng,
        [
            f"{a} is in front of {b}",
            f"{b} is behind {a}",
            f"{a} hides a part of {b} behind it",
            f"{b} is partly hidden behind {a}",
            f"there is {a} in front of {b}",
            f"{a} with {b} behind it",
        ],
    )


def _everything(rng: np.random.Generator, scene: Scene) -> str | None:
    """All things of the picture, the same kinds counted."""
    groups: dict[tuple[str, str], list[int]] = {}
    for i, thing in enumerate(scene.things):
        groups.setdefault((thing.colour, thing.shape), []).append(i)
    phrases = []
    for members in groups.values():
        if len(members) == 1:
            phrases.append(a_thing(rng, scene.things[members[0]]))
        else:
            named = noun_phrase(pick(scene.things[members[0]], ["colour", "shape"]), count=len(members))
            phrases.append(f"{NUMBERS[len(members)]} {named}")
    phrases = [phrases[k] for k in rng.permutation(len(phrases))]
    if len(phrases) < 2:
        return None
    there = "there is" if phrases[0].startswith(("a ", "an ")) else "there are"
    opening = choice(rng, ["a picture of", "a picture with", there, ""])
    return f"{opening} {join(phrases)}".strip()


def _contrast(rng: np.random.Generator, scene: Scene) -> str | None:
    """Two things and one attribute in which they differ."""
    i, j = (int(k) for k in rng.choice(len(scene.things), 2, replace=False))
    name = choice(rng, ["colour", "colour", "texture", "size"])
    first, second = getattr(scene.things[i], name), getattr(scene.things[j], name)
    prefer = ["shape", choice(rng, ["colour", "texture"])] if name == "size" else ["shape"]
    a = the_thing(rng, scene, i, without=[name], prefer=prefer)
    b = the_thing(rng, scene, j, without=[name], prefer=prefer)
    if first == second or not a or not b:
        return None
    if name == "size" and rng.random() < 0.6:
        return f"{a} is {'larger' if first == 'large' else 'smaller'} than {b}"
    return f"{a} is {first} {choice(rng, ['and', 'while', 'but'])} {b} is {second}"


def _sides(rng: np.random.Generator, scene: Scene) -> str | None:
    """Two things in opposite parts of the picture."""
    across = rng.random() < 0.6
    at = [thing.x / WIDTH if across else thing.y / HEIGHT for thing in scene.things]
    low, high = [i for i, v in enumerate(at) if v < 0.4], [i for i, v in enumerate(at) if v > 0.6]
    pairs = [(i, j) for i in low for j in high if relation(scene, i, j) in (("left",) if across else ("above",))]
    if not pairs:
        return None
    i, j = choice(rng, pairs)
    a, b = two_things(rng, scene.things[i], scene.things[j])
    first, second = ("on the left", "on the right") if across else ("at the top", "at the bottom")
    if rng.random() < 0.5:
        a, b, first, second = b, a, second, first
    return choice(rng, [f"{a} {first} and {b} {second}", f"{first} is {a} and {second} is {b}"])


def _shared(rng: np.random.Generator, scene: Scene) -> str | None:
    """Two things and what they have in common."""
    pairs = [
        (i, j, name)
        for i, j in itertools.permutations(range(len(scene.things)), 2)
        for name in ("colour", "texture")
        if getattr(scene.things[i], name) == getattr(scene.things[j], name)
    ]
    if not pairs:
        return None
    i, j, name = choice(rng, pairs)
    prefer = ["shape"] if name == "colour" else ["shape", "colour"]
    a = the_thing(rng, scene, i, without=[name], prefer=prefer)
    b = the_thing(rng, scene, j, without=[name], prefer=prefer)
    value = getattr(scene.things[i], name)
    return f"{a} and {b} are both {value}" if a and b else None


def _chain(rng: np.random.Generator, scene: Scene) -> str | None:
    """Three things: one of them stands in two relations."""
    pairs = related_pairs(scene)
    chains = [(i, j, r, k, s) for i, j, r in pairs for i2, k, s in pairs if i == i2 and j < k and r != s]
    if not chains:
        return None
    i, j, first, k, second = choice(rng, chains)
    a, b, c = (article(noun_phrase(pick(scene.things[n], ["colour", "shape"]))) for n in (i, j, k))
    if len({a, b, c}) < 3:
        return None
    return f"{a} is {choice(rng, PREPOSITIONS[first])} {b} and {choice(rng, PREPOSITIONS[second])} {c}"


def _count(rng: np.random.Generator, scene: Scene) -> str | None:
    """How many things share an attribute, and which they are."""
    name = choice(rng, ["colour", "texture", "shape"])
    value = choice(rng, ATTRIBUTES[name])
    members = matching(scene, {name: value})
    if len(members) < 2:
        return None
    other = {"colour": ["shape", "size"], "texture": ["colour", "shape"], "shape": ["colour", "texture"]}[name]
    named = [pick(scene.things[i], other) for i in members[:3]]
    if len({tuple(n.items()) for n in named}) < len(named):
        return None  # "two red shapes, a star and a star" would be odd
    total = f"{NUMBERS[len(members)]} {noun_phrase({name: value}, count=len(members))}"
    if name == "shape":
        listed = join([f"one {choice(rng, ['is', 'of them is'])} {n['texture']} and {n['colour']}" for n in named[:1]])
        return f"there are {total} and {listed}"
    if len(members) > len(named):
        return f"there are {total}, {join([article(noun_phrase(n)) for n in named[:2]])} are two of them"
    return f"there are {total}, {join([article(noun_phrase(n)) for n in named])}"


def _twins(rng: np.random.Generator, scene: Scene) -> str | None:
    """Two things that differ in exactly one attribute."""
    for i, j in itertools.combinations(range(len(scene.things)), 2):
        a, b = scene.things[i], scene.things[j]
        unlike = [name for name in ATTRIBUTES if getattr(a, name) != getattr(b, name)]
        if len(unlike) == 1:
            break
    else:
        return None
    name = unlike[0]
    alike = pick(a, set(ATTRIBUTES) - {name, choice(rng, ["size", "texture"])})
    if rng.random() < 0.5 or matching(scene, alike) != [i, j]:
        return f"{article(noun_phrase(alike | pick(a, [name])))} and {article(noun_phrase(alike | pick(b, [name])))}"
    ending = [getattr(a, name), getattr(b, name)]
    if name == "shape":
        ending = [article(word) for word in ending]
    return f"two {noun_phrase(alike, count=2)}, one is {ending[0]} and one is {ending[1]}"


def _exactly_where(rng: np.random.Generator, scene: Scene) -> str | None:
    """A relation between two things named so that nothing else can be meant."""
    pairs = [(i, j, r) for i, j, r in related_pairs(scene) if distinguishing(scene, i) and distinguishing(scene, j)]
    if not pairs:
        return None
    i, j, side = choice(rng, pairs)
    a = the_thing(rng, scene, i, prefer=some_attributes(rng, scene.things[i]))
    b = the_thing(rng, scene, j, prefer=some_attributes(rng, scene.things[j]))
    return f"{a} is {choice(rng, PREPOSITIONS[side])} {b}"


_KINDS: dict[Callable[[np.random.Generator, Scene], str | None], float] = {
    _where: 5.0,
    _exactly_where: 3.0,
    _hidden: 3.0,
    _everything: 2.0,
    _contrast: 2.5,
    _sides: 2.0,
    _shared: 1.5,
    _chain: 2.0,
    _count: 1.5,
    _twins: 1.0,
}

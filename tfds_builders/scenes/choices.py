"""Multiple-choice questions with reasons, like VCR: four answers, and four reasons for the right one.

Wrong choices are as fluent as the right one, speak of the same things, and are false of the picture. Each kind of
question is one function that returns a `Choice` (right ones first) or None where the picture offers nothing to ask.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tfds_builders.scenes import world
from tfds_builders.scenes.language import (
    NUMBERS,
    PREPOSITIONS,
    article,
    choice,
    join,
    leans,
    matching,
    noun_phrase,
    pick,
    related_pairs,
    the_thing,
)
from tfds_builders.scenes.world import ATTRIBUTES, Scene

QUESTIONS_A_SCENE = 2
_TRIES = 400
_QUESTIONS = {
    "colour": "what color is {}?",
    "texture": "what pattern does {} have?",
    "shape": "what shape is {}?",
}
_EDGES = {"left": "left", "right": "right", "above": "top", "below": "bottom"}


class Choice(NamedTuple):
    """One question, its four answers and the four reasons for the right answer.

    Attributes:
        question: the question.
        answers: four different answers.
        answer: index of the right one.
        reasons: four different reasons.
        reason: index of the right one.
    """

    question: str
    answers: tuple[str, ...]
    answer: int
    reasons: tuple[str, ...]
    reason: int


def choices(scene: Scene, count: int = QUESTIONS_A_SCENE) -> list[Choice]:
    """Up to `count` different questions about one picture; a few pictures offer less to ask about."""
    rng = world.image_generator(scene.image_id, 7)
    kinds = [_KINDS[int(k)] for k in rng.permutation(len(_KINDS))]
    found: dict[str, Choice] = {}
    for kind in itertools.islice(itertools.cycle(kinds), _TRIES):
        asked = kind(rng, scene)
        if asked is None or asked[0] in found:
            continue
        question, right, wrong, reason, wrong_reasons = asked
        four = _shuffle(rng, right, wrong), _shuffle(rng, reason, wrong_reasons)
        if four[0] and four[1]:
            found[question] = Choice(question, *four[0], *four[1])
        if len(found) == count:
            break
    return list(found.values())


def _shuffle(rng: np.random.Generator, right: str, wrong: Sequence[str]) -> tuple[tuple[str, ...], int] | None:
    """The right choice among three of the wrong ones, and where it is; None if there are not enough."""
    others = [w for w in dict.fromkeys(wrong) if w != right]
    if len(others) < 3:
        return None
    four = [right, *(others[int(k)] for k in rng.choice(len(others), 3, replace=False))]
    order = [int(k) for k in rng.permutation(4)]
    return tuple(four[k] for k in order), order.index(0)


# Question, right answer, wrong answers, right reason, wrong reasons.
_Asked = tuple[str, str, list[str], str, list[str]] | None


def _where(rng: np.random.Generator, scene: Scene) -> _Asked:
    """Where is the star? It is to the left of the circle, because it is nearer to the left edge."""
    pairs = related_pairs(scene, _EDGES)
    if not pairs:
        return None
    i, j, side = choice(rng, pairs)
    a, b = the_thing(rng, scene, i), the_thing(rng, scene, j)
    if not a or not b:
        return None
    false_sides = [s for s in PREPOSITIONS if not leans(scene, i, j, s)]
    wrong = [f"it is {choice(rng, PREPOSITIONS[s])} {b}" for s in false_sides]
    for k in range(len(scene.things)):
        c = the_thing(rng, scene, k) if k not in (i, j) and not leans(scene, i, k, side) else None
        if c:
            wrong.append(f"it is {choice(rng, PREPOSITIONS[side])} {c}")
    wrong_reasons = [f"{a} is nearer to the {_EDGES[s]} edge than {b}" for s in false_sides if s in _EDGES]
    wrong_reasons += [f"{a} covers a part of {b}", f"{b} covers a part of {a}"]
    right = f"it is {choice(rng, PREPOSITIONS[side])} {b}"
    return f"where is {a}?", right, wrong, f"{a} is nearer to the {_EDGES[side]} edge than {b}", wrong_reasons


def _what_is(rng: np.random.Generator, scene: Scene) -> _Asked:
    """What color is the star? It is red, as against the blue of the ring."""
    kind = choice(rng, [*_QUESTIONS])
    i, j = (int(k) for k in rng.choice(len(scene.things), 2, replace=False))
    a, b = (the_thing(rng, scene, k, without=[kind]) for k in (i, j))
    if not a or not b:
        return None
    value, other = (getattr(scene.things[k], kind) for k in (i, j))
    right, wrong = f"it is {_said(value)}", [f"it is {_said(v)}" for v in _tempting(rng, scene, kind, value)]
    reasons = [f"{right} and {b} is {_said(v)}" for v in _tempting(rng, scene, kind, other)]
    return _QUESTIONS[kind].format(a), right, wrong, f"{right} and {b} is {_said(other)}", reasons


def _what_has(rng: np.random.Generator, scene: Scene) -> _Asked:
    """What is red? The star, and the ring is blue."""
    kind = choice(rng, ["colour", "texture"])
    i, j = (int(k) for k in rng.choice(len(scene.things), 2, replace=False))
    names = [the_thing(rng, scene, k, without=[kind]) for k in range(len(scene.things))]
    value, other = (getattr(scene.things[k], kind) for k in (i, j))
    if None in names or matching(scene, {kind: value}) != [i]:
        return None
    wrong = [str(name) for k, name in enumerate(names) if k != i]
    reasons = [f"{names[i]} is {value} and {names[j]} is {v}" for v in _tempting(rng, scene, kind, other)]
    return f"what is {value}?", str(names[i]), wrong, f"{names[i]} is {value} and {names[j]} is {other}", reasons


def _tempting(rng: np.random.Generator, scene: Scene, kind: str, value: str) -> list[str]:
    """Three wrong values: those that other things of the picture have before those that none has."""
    seen = {getattr(thing, kind) for thing in scene.things}
    wrong = [v for v in ATTRIBUTES[kind] if v != value]
    order = sorted(rng.permutation(len(wrong)), key=lambda k: wrong[int(k)] not in seen)
    return [wrong[int(k)] for k in order[:3]]


def _said(value: str) -> str:
    return article(value) if value in ATTRIBUTES["shape"] else value


def _why_hidden(rng: np.random.Generator, scene: Scene) -> _Asked:
    """Why can only a part of the ring be seen? Because the star is in front of it."""
    if not scene.in_front:
        return None
    i, j = choice(rng, sorted(scene.in_front))
    names = [the_thing(rng, scene, k) for k in range(len(scene.things))]
    a, b = names[i], names[j]
    if not a or not b:
        return None
    wrong = [f"because {c} is in front of it" for k, c in enumerate(names) if c and k not in (i, j)]
    wrong += [f"because {a} is behind it", "because the edge of the picture cuts it", f"because {a} has the same color"]
    wrong = wrong if scene.things[i].colour != scene.things[j].colour else wrong[:-1]
    false_reasons = [
        f"{b} covers a part of {a}",
        f"there is a gap between {a} and {b}",
        *(f"{c} covers a part of {b}" for k, c in enumerate(names) if c and k not in (i, j)),
        *(f"{a} covers a part of {c}" for k, c in enumerate(names) if c and k not in (i, j)),
    ]
    question = f"why can only a part of {b} be seen?"
    return question, f"because {a} is in front of it", wrong, f"{a} covers a part of {b}", false_reasons


def _in_common(rng: np.random.Generator, scene: Scene) -> _Asked:
    """What do the star and the heart have in common? They are both striped."""
    i, j = (int(k) for k in rng.choice(len(scene.things), 2, replace=False))
    first, second = scene.things[i], scene.things[j]
    name = choice(rng, ["colour", "texture"])
    value = getattr(first, name)
    a, b = the_thing(rng, scene, i, without=[name]), the_thing(rng, scene, j, without=[name])
    if value != getattr(second, name) or not a or not b:
        return None
    false = [
        other
        for kind in ("colour", "texture", "size")
        for other in ATTRIBUTES[kind]
        if not (getattr(first, kind) == getattr(second, kind) == other)
    ]
    # Values that one of the two really has are the tempting ones; every wrong choice speaks of one value.
    tempting = [other for other in false if other in (first.colour, first.texture, second.colour, second.texture)]
    wrong_values = tempting + [other for other in false if other in ATTRIBUTES[name]]
    reasons = [
        f"{a} is {v} and {b} is {w}"
        for v in ATTRIBUTES[name]
        for w in ATTRIBUTES[name]
        if (v, w) != (value, value) and value in (v, w)
    ]
    right = f"they are both {value}"
    question = f"what do {a} and {b} have in common?"
    return question, right, [f"they are both {v}" for v in wrong_values], f"{a} is {value} and {b} is {value}", reasons


def _difference(rng: np.random.Generator, scene: Scene) -> _Asked:
    """What is different about the two red stars? Their patterns: one is striped and the other is dotted."""
    words = {"colour": "colors", "texture": "patterns", "size": "sizes", "shape": "shapes"}
    twins = _twins(scene)
    if not twins:
        return None
    i, j, name, alike = choice(rng, twins)
    a, b = scene.things[i], scene.things[j]
    reasons = {}
    for kind in ATTRIBUTES:
        values = [getattr(a, kind), getattr(b, kind)]
        if kind != name:
            values[1] = choice(rng, [v for v in ATTRIBUTES[kind] if v != values[0]])
        one, other = (f"a {v}" if kind == "shape" else v for v in values)
        reasons[kind] = f"one is {one} and the other is {other}"
    question = f"what is different about the two {noun_phrase(alike, count=2, noun='thing')}?"
    answers = {kind: f"they have different {word}" for kind, word in words.items()}
    return question, answers.pop(name), list(answers.values()), reasons.pop(name), list(reasons.values())


def _twins(scene: Scene) -> list[tuple[int, int, str, dict[str, str]]]:
    """Pairs of things that differ in one attribute only, that attribute, and a name that fits just the two."""
    found = []
    for i, j in itertools.combinations(range(len(scene.things)), 2):
        a, b = scene.things[i], scene.things[j]
        unlike = [name for name in ATTRIBUTES if getattr(a, name) != getattr(b, name)]
        if len(unlike) > 1:
            continue
        same = [name for name in ATTRIBUTES if name not in unlike]
        names = (pick(a, subset) for length in (1, 2, 3) for subset in itertools.combinations(same, length))
        name = next((attributes for attributes in names if matching(scene, attributes) == [i, j]), None)
        if name:
            found.append((i, j, unlike[0], name))
    return found


def _how_many(rng: np.random.Generator, scene: Scene) -> _Asked:
    """How many striped things are there? Two, because the star and the ring are striped and nothing else is."""
    counted = [(name, v, len(matching(scene, {name: v}))) for name in ("colour", "texture") for v in ATTRIBUTES[name]]
    count = choice(rng, sorted({n for _, _, n in counted if n}))  # the number first, or nearly all answers were "one"
    name, value, _ = choice(rng, [entry for entry in counted if entry[2] == count])
    members = matching(scene, {name: value})
    names = [the_thing(rng, scene, k, without=[name]) for k in range(len(scene.things))]
    if None in names or len(members) > 3:
        return None

    def reason(group: Sequence[int]) -> str:
        listed = join([str(names[k]) for k in group])
        return f"{listed} {'is' if len(group) == 1 else 'are'} {value} and nothing else is"

    everything = range(len(scene.things))
    groups = [g for size in (1, 2, 3) for g in itertools.combinations(everything, size) if list(g) != members]
    wrong_reasons = [reason(g) for g in groups if len(set(g) ^ set(members)) <= 2]
    wrong_reasons.append(f"nothing in the picture is {value}")
    if len(members) < len(scene.things):
        wrong_reasons.append(f"everything in the picture is {value}")

    def answer(count: int) -> str:
        number = f"there {'is' if count == 1 else 'are'} {NUMBERS[count]} {value} "
        return number + ("thing" if count == 1 else "things")

    wrong = [answer(n) for n in range(6) if n != len(members) and abs(n - len(members)) <= 3]
    question = f"how many {value} things are there?"
    return question, answer(len(members)), wrong, reason(members), wrong_reasons


_KINDS: tuple[Callable[[np.random.Generator, Scene], _Asked], ...] = (
    _where,
    *[_what_is] * 3,  # of colour, of pattern, of shape
    _what_has,
    _why_hidden,
    _in_common,
    _difference,
    _how_many,
)

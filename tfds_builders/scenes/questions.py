"""Questions about a picture with ten answers each, as ten people would give them: mostly right, mostly agreeing.

Each kind of question is one function that returns a question or None where the picture offers nothing to ask.
"""

import collections
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tfds_builders.scenes import world
from tfds_builders.scenes.language import (
    OPPOSITE,
    PREPOSITIONS,
    article,
    choice,
    matching,
    noun_phrase,
    only_one,
    plural,
    related_pairs,
    the_thing,
)
from tfds_builders.scenes.world import ATTRIBUTES, COLOURS, SHAPES, SIZES, TEXTURES, Scene

ANSWERS = ("yes", "no", *(str(n) for n in range(6)), *COLOURS, *SHAPES, *TEXTURES, *SIZES)
QUESTIONS_A_SCENE = 6
_PEOPLE = 10
_TRIES = 400

# What people say instead: another name for the same, or a likely mistake.
_INSTEAD = {
    "red": ("orange", "dark red", "pink"),
    "orange": ("red", "yellow", "tan"),
    "yellow": ("gold", "orange"),
    "green": ("dark green", "blue"),
    "blue": ("dark blue", "purple"),
    "purple": ("violet", "blue"),
    "pink": ("purple", "light pink"),
    "brown": ("dark brown", "orange", "tan"),
    "white": ("gray", "silver"),
    "circle": ("round", "ball"),
    "square": ("rectangle", "box"),
    "triangle": ("pyramid",),
    "star": ("star shape",),
    "heart": ("heart shape",),
    "cross": ("plus", "plus sign"),
    "ring": ("circle", "donut"),
    "hexagon": ("octagon", "polygon"),
    "plain": ("none", "solid"),
    "striped": ("stripes", "lines"),
    "dotted": ("dots", "polka dots"),
    "checkered": ("checkers", "squares"),
    "small": ("little", "large"),
    "large": ("big", "small"),
    "yes": ("no",),
    "no": ("yes",),
}


class Question(NamedTuple):
    """One question.

    Attributes:
        text: the question.
        kind: its opening words, as VQA's `question_type`.
        answer: the right answer, one of ANSWERS.
        answers: what ten people said; the right answer is the most frequent.
    """

    text: str
    kind: str
    answer: str
    answers: tuple[str, ...]

    @property
    def answer_type(self) -> str:
        """One of "yes/no", "number" and "other", as in VQA."""
        if self.answer in ("yes", "no") and set(self.answers) <= {"yes", "no"}:
            return "yes/no"
        return "number" if self.answer.isdigit() else "other"


def questions(scene: Scene, count: int = QUESTIONS_A_SCENE) -> list[Question]:
    """`count` different questions about one picture, of as many kinds as possible.

    Raises:
        RuntimeError: the picture offers fewer; it would be a fault of this module.
    """
    rng = world.image_generator(scene.image_id, 5)
    kinds = [_KINDS[int(k)] for k in rng.permutation(len(_KINDS))]
    found: dict[str, Question] = {}
    for kind in itertools.islice(itertools.cycle(kinds), _TRIES):
        asked = kind(rng, scene)
        if asked and asked[0] not in found:
            text, opening, answer = asked
            found[text] = Question(text, opening, answer, _ten_answers(rng, answer))
            if len(found) == count:
                return list(found.values())
    raise RuntimeError(f"only {len(found)} questions for {scene.image_id}")


def most_frequent(answers: tuple[str, ...]) -> str:
    """VQA's `multiple_choice_answer`."""
    return collections.Counter(answers).most_common(1)[0][0]


def _ten_answers(rng: np.random.Generator, answer: str) -> tuple[str, ...]:
    """Ten answers, of which up to three differ from the right one."""
    other = int(rng.choice(4, p=[0.4, 0.3, 0.2, 0.1]))
    if answer.isdigit():
        instead = tuple(str(n) for n in (int(answer) - 1, int(answer) + 1) if n >= 0)
    else:
        instead = _INSTEAD[answer]
    said = [answer] * (_PEOPLE - other) + [str(choice(rng, instead)) for _ in range(other)]
    return tuple(said[k] for k in rng.permutation(_PEOPLE))


_Asked = tuple[str, str, str] | None  # question, opening words, right answer


def _color(rng: np.random.Generator, scene: Scene) -> _Asked:
    i = int(rng.integers(len(scene.things)))
    name = the_thing(rng, scene, i, without=["colour"])
    return (f"what color is {name}?", "what color is the", scene.things[i].colour) if name else None


def _color_by_place(rng: np.random.Generator, scene: Scene) -> _Asked:
    found = _by_place(rng, scene)
    if not found:
        return None
    i, place = found
    return f"what color is the thing {place}?", "what color is the", scene.things[i].colour


def _shape(rng: np.random.Generator, scene: Scene) -> _Asked:
    i = int(rng.integers(len(scene.things)))
    name = the_thing(rng, scene, i, without=["shape"])
    return (f"what shape is {name}?", "what shape is the", scene.things[i].shape) if name else None


def _what_is_there(rng: np.random.Generator, scene: Scene) -> _Asked:
    found = _by_place(rng, scene)
    return (f"what is {found[1]}?", "what is", scene.things[found[0]].shape) if found else None


def _by_place(rng: np.random.Generator, scene: Scene) -> tuple[int, str] | None:
    """A thing that its place alone identifies, and the place: "to the left of the red star"."""
    places = [(only_one(scene, j, side), j, side) for j in range(len(scene.things)) for side in OPPOSITE]
    places = [place for place in places if place[0] is not None]
    if not places:
        return None
    i, j, side = choice(rng, places)
    name = the_thing(rng, scene, j)
    return (i, f"{choice(rng, PREPOSITIONS[side])} {name}") if name else None


def _texture(rng: np.random.Generator, scene: Scene) -> _Asked:
    i = int(rng.integers(len(scene.things)))
    name = the_thing(rng, scene, i, without=["texture"])
    return (f"what pattern does {name} have?", "what", scene.things[i].texture) if name else None


def _size(rng: np.random.Generator, scene: Scene) -> _Asked:
    i = int(rng.integers(len(scene.things)))
    name = the_thing(rng, scene, i, without=["size"])
    return (f"is {name} small or large?", "is the", scene.things[i].size) if name else None


def _how_many(rng: np.random.Generator, scene: Scene) -> _Asked:
    name = choice(rng, ["colour", "shape", "texture"])
    there = rng.random() < 0.75
    value = getattr(choice(rng, scene.things), name) if there else choice(rng, ATTRIBUTES[name])
    counted = noun_phrase({name: value}, count=2, noun="thing")
    return f"how many {counted} are there?", "how many", str(len(matching(scene, {name: value})))


def _exists(rng: np.random.Generator, scene: Scene) -> _Asked:
    """Half of the time "no", then with the colour of one thing and the shape of another."""
    a, b = (scene.things[int(k)] for k in rng.choice(len(scene.things), 2, replace=False))
    other = choice(rng, ["colour", "texture"])
    attributes = {other: getattr(a, other), "shape": b.shape if rng.random() < 0.8 else a.shape}
    answer = "yes" if matching(scene, attributes) else "no"
    return f"is there {article(noun_phrase(attributes))}?", "is there a", answer


def _is_it_there(rng: np.random.Generator, scene: Scene) -> _Asked:
    pairs = related_pairs(scene)
    if not pairs:
        return None
    i, j, side = choice(rng, pairs)
    a, b = the_thing(rng, scene, i), the_thing(rng, scene, j)
    asked = side if rng.random() < 0.5 else OPPOSITE[side]
    if not a or not b:
        return None
    return f"is {a} {choice(rng, PREPOSITIONS[asked])} {b}?", "is the", "yes" if asked == side else "no"


def _more(rng: np.random.Generator, scene: Scene) -> _Asked:
    name = choice(rng, ["colour", "shape", "texture"])
    a, b = (getattr(scene.things[int(k)], name) for k in rng.choice(len(scene.things), 2, replace=False))
    count_a, count_b = len(matching(scene, {name: a})), len(matching(scene, {name: b}))
    if a == b or (count_a == count_b and rng.random() < 0.6):
        return None
    more = count_a > count_b
    first, second = (plural(v) if name == "shape" else f"{v} things" for v in (a, b))
    return f"are there more {first} than {second}?", "are there", "yes" if more else "no"


def _same(rng: np.random.Generator, scene: Scene) -> _Asked:
    i, j = (int(k) for k in rng.choice(len(scene.things), 2, replace=False))
    name = choice(rng, ["colour", "texture", "shape"])
    a, b = the_thing(rng, scene, i, without=[name]), the_thing(rng, scene, j, without=[name])
    if not a or not b:
        return None
    same = getattr(scene.things[i], name) == getattr(scene.things[j], name)
    word = {"colour": "color", "texture": "pattern", "shape": "shape"}[name]
    return f"do {a} and {b} have the same {word}?", "do the", "yes" if same else "no"


def _larger(rng: np.random.Generator, scene: Scene) -> _Asked:
    i, j = (int(k) for k in rng.choice(len(scene.things), 2, replace=False))
    a, b = the_thing(rng, scene, i, without=["size"]), the_thing(rng, scene, j, without=["size"])
    if not a or not b or scene.things[i].size == scene.things[j].size:
        return None
    word = choice(rng, ["larger", "smaller"])
    right = (scene.things[i].size == "large") == (word == "larger")
    return f"is {a} {word} than {b}?", "is the", "yes" if right else "no"


_KINDS: tuple[Callable[[np.random.Generator, Scene], _Asked], ...] = (
    _color,
    _color_by_place,
    _shape,
    _what_is_there,
    _texture,
    _size,
    _how_many,
    _exists,
    _is_it_there,
    _more,
    _same,
    _larger,
)

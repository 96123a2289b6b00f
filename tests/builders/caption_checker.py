"""Decides whether a caption is true of a scene, by reading the caption; shares no code with what writes captions.

A caption is first cut into noun phrases ("a small red star") and what stands between them ("is above"). Every noun
phrase fits some things of the scene; the caption is true if things can be chosen, different ones for different
phrases, such that what it says about them holds.
"""

import itertools
import re

COLOURS = "red|orange|yellow|green|blue|purple|pink|brown|white"
TEXTURES = "plain|striped|dotted|checkered"
SIZES = "small|large"
SHAPES = "circle|square|triangle|star|heart|cross|ring|hexagon"
ANY = f"{COLOURS}|{TEXTURES}|{SIZES}"
NOUN_PHRASE = re.compile(
    rf"\b(?P<how>an|a|the|two|three|four|five)"
    rf"(?: (?P<size>{SIZES}))?(?: (?P<texture>{TEXTURES}))?(?: (?P<colour>{COLOURS}))?"
    rf" (?P<noun>(?:{SHAPES}|shape|thing)(?:es|s)?)\b(?! of)"
)
COUNTS = {"two": 2, "three": 3, "four": 4, "five": 5}


def is_true(caption, scene):
    """Whether the caption is true; raises AssertionError if it cannot be read at all."""
    phrases = [match.groupdict() for match in NOUN_PHRASE.finditer(caption)]
    skeleton = NOUN_PHRASE.sub("@", caption)
    fits = [[k for k, thing in enumerate(scene.things) if fits_phrase(thing, phrase)] for phrase in phrases]
    for phrase, members in zip(phrases, fits, strict=True):
        if phrase["how"] == "the" and len(members) != 1:
            return False
        if phrase["how"] in COUNTS and len(members) != COUNTS[phrase["how"]]:
            return False
        if phrase["how"] in ("a", "an") and (phrase["how"] == "an") != starts_with_vowel(phrase):
            return False
    for pattern, holds in RULES:
        match = re.fullmatch(pattern, skeleton)
        if match:
            return holds(scene, phrases, fits, match)
    raise AssertionError(f"cannot read {caption!r}: {skeleton!r}")


def fits_phrase(thing, phrase):
    noun = singular(phrase["noun"])
    given = {name: phrase[name] for name in ("size", "texture", "colour") if phrase[name]}
    return noun in ("shape", "thing", thing.shape) and all(getattr(thing, n) == v for n, v in given.items())


def singular(noun):
    return noun if noun == "cross" else noun.removesuffix("es") if noun == "crosses" else noun.removesuffix("s")


def starts_with_vowel(phrase):
    first = next(word for word in (phrase["size"], phrase["texture"], phrase["colour"], phrase["noun"]) if word)
    return first[0] in "aeiou"


def stands(scene, i, j, side):
    """Whether thing i is on this side of thing j."""
    if side in ("front", "behind"):
        return ((i, j) if side == "front" else (j, i)) in scene.in_front
    dx, dy = scene.things[i].x - scene.things[j].x, scene.things[i].y - scene.things[j].y
    if {(i, j), (j, i)} & scene.in_front:
        return False
    along = {"left": -dx, "right": dx, "above": -dy, "below": dy}[side]
    return along > 20 and along > max(abs(dx), abs(dy)) - 1e-9


def side_of(words):
    return next(side for side in ("left", "right", "above", "below", "front", "behind") if side in words)


def some(scene, fits, holds):
    """Whether different things can be chosen for which `holds`."""
    return any(len(set(chosen)) == len(chosen) and holds(*chosen) for chosen in itertools.product(*fits))


def relate(scene, phrases, fits, match):
    return some(scene, fits, lambda i, j: stands(scene, i, j, side_of(match["where"])))


def relate_reversed(scene, phrases, fits, match):
    return some(scene, fits, lambda i, j: stands(scene, j, i, side_of(match["where"])))


def relate_twice(scene, phrases, fits, match):
    first, second = side_of(match["where"]), side_of(match["then"])
    return some(scene, fits, lambda i, j, k: stands(scene, i, j, first) and stands(scene, i, k, second))


def in_parts(scene, phrases, fits, match):
    """On the left of the picture and so on."""
    places = {"left": lambda t: t.x < 128, "right": lambda t: t.x > 128}
    places |= {"top": lambda t: t.y < 96, "bottom": lambda t: t.y > 96}
    first, second = places[match["first"]], places[match["second"]]
    return some(scene, fits, lambda i, j: first(scene.things[i]) and second(scene.things[j]))


def are_all(scene, phrases, fits, match):
    """A list of everything in the picture."""
    total = sum(COUNTS.get(phrase["how"], 1) for phrase in phrases)
    singles = [f for f, phrase in zip(fits, phrases, strict=True) if phrase["how"] not in COUNTS]
    covered = set().union(*fits)
    return total == len(scene.things) == len(covered) and some(scene, singles, lambda *chosen: True)


def counted(scene, phrases, fits, match):
    """There are two red shapes, a star and a heart: the things named are among those counted."""
    members = [[k for k in f if k in fits[0]] for f in fits[1:]]
    return some(scene, members, lambda *chosen: True)


def counted_one(scene, phrases, fits, match):
    words = {match["first"], match["second"]}
    return any(words <= set(vars(scene.things[k]).values()) for k in fits[0])


def has(thing, word):
    return word in (thing.size, thing.texture, thing.colour, thing.shape)


def two_ways(scene, phrases, fits, match):
    """Two red stars, one is small and one is large."""
    i, j = (scene.things[k] for k in fits[0])
    words = [match["first"], match["second"]]
    if words == ["@", "@"]:
        words = [singular(phrase["noun"]) for phrase in phrases[1:]]
    return any(has(a, words[0]) and has(b, words[1]) for a, b in ((i, j), (j, i)))


def predicates(scene, phrases, fits, match):
    (i,), (j,) = fits
    return i != j and has(scene.things[i], match["first"]) and has(scene.things[j], match["second"])


def both(scene, phrases, fits, match):
    (i,), (j,) = fits
    return i != j and all(has(scene.things[k], match["what"]) for k in (i, j))


def compare(scene, phrases, fits, match):
    (i,), (j,) = fits
    a, b = scene.things[i].radius, scene.things[j].radius
    return a > 1.3 * b if match["how"] == "larger" else b > 1.3 * a


def pair(scene, phrases, fits, match):
    return some(scene, fits, lambda i, j: True)


_SIDE = r"(?:to the|on the)? ?(?:left|right) of|above|below|in front of|behind"
RULES = [
    (rf"@ (?:is|sits|stands|lies) (?P<where>{_SIDE}) @", relate),
    (rf"there is @ (?P<where>{_SIDE}) @", relate),
    (rf"(?P<where>{_SIDE}) @ there is @", relate_reversed),
    (r"@ with @ to its (?P<where>left|right)", relate_reversed),
    (r"@ with @ (?P<where>above|below|behind) it", relate_reversed),
    (r"@ hides a part of @ (?P<where>behind) it", relate_reversed),
    (r"@ is partly hidden (?P<where>behind) @", relate),
    (rf"@ is (?P<where>{_SIDE}) @ and (?P<then>{_SIDE}) @", relate_twice),
    (r"@ (?:on|at) the (?P<first>\w+) and @ (?:on|at) the (?P<second>\w+)", in_parts),
    (r"(?:on|at) the (?P<first>\w+) is @ and (?:on|at) the (?P<second>\w+) is @", in_parts),
    (rf"@, one is (?P<first>{ANY}|@) and one is (?P<second>{ANY}|@)", two_ways),
    (rf"there are @ and one (?:of them )?is (?P<first>{ANY}) and (?P<second>{ANY})", counted_one),
    (r"there are @, @ and @ are two of them", counted),
    (rf"@ is (?P<first>{ANY}) (?:and|while|but) @ is (?P<second>{ANY})", predicates),
    (rf"@ and @ are both (?P<what>{ANY})", both),
    (r"@ is (?P<how>larger|smaller) than @", compare),
]


def _list(scene, phrases, fits, match):
    if phrases[0]["noun"] == "shapes":
        return counted(scene, phrases, fits, match)
    if len(phrases) == 2 and not match["opening"]:
        return pair(scene, phrases, fits, match)
    return are_all(scene, phrases, fits, match)


RULES.append((r"(?P<opening>a picture of |a picture with |there are |there is )?@(?:, @)*(?: and @)?", _list))

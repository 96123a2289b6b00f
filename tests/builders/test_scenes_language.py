"""Scenes: captions, questions, expressions, multiple choice, vocabulary. Everything said must be true."""

import collections
import re

import caption_checker
import numpy as np
import pytest

from tfds_builders import scenes
from tfds_builders.scenes import captions, choices, expressions, language, questions, vocabulary, world
from vilbert_jax.data import text

SCENES = [world.make_scene(world.make_image_id("tiny", "train", number)) for number in range(250)]
SAID = [(scene, caption) for scene in SCENES for caption in captions.captions(scene, 5)]
ASKED = [(scene, asked) for scene in SCENES for asked in questions.questions(scene)]
REFERRED = [(scene, expression) for scene in SCENES for expression in expressions.expressions(scene)]
CHOSEN = [(scene, chosen) for scene in SCENES for chosen in choices.choices(scene)]
OPPOSITES = {"left": "right", "above": "below", "front of": "behind", "larger": "smaller", "top": "bottom"}


def test_every_caption_is_true():
    false = [(caption, scene.image_id) for scene, caption in SAID if not caption_checker.is_true(caption, scene)]
    assert not false


def test_the_checker_finds_what_is_false():
    """Captions with one word changed, or of another picture, are false."""
    swapped = wrong = 0
    for scene, caption in SAID:
        for word, other in OPPOSITES.items():
            if word in caption and other not in caption:
                mirrored = caption.replace(f"in {word}" if word == "front of" else word, other)
                if " is " in mirrored and mirrored.count("the ") >= 2:
                    swapped += 1
                    wrong += not caption_checker.is_true(mirrored, scene)
    assert swapped > 100
    assert wrong > 0.98 * swapped
    others = [caption_checker.is_true(c, SCENES[(k // 5 + 100) % len(SCENES)]) for k, (_, c) in enumerate(SAID)]
    assert np.mean(others) < 0.01


def test_captions_need_binding():
    """Exchanging the colours of two things makes most captions that name two colours false."""
    tried = false = 0
    for scene, caption in SAID:
        colours = list(dict.fromkeys(re.findall(rf"\b(?:{caption_checker.COLOURS})\b", caption)))
        if len(colours) == 2:
            a, b = colours
            exchanged = re.sub(rf"\b(?:{a}|{b})\b", lambda m, a=a, b=b: b if m[0] == a else a, caption)
            exchanged = re.sub(r"\ban? (?=(\w))", lambda m: "an " if m[1] in "aeiou" else "a ", exchanged)
            tried += 1
            false += not caption_checker.is_true(exchanged, scene)
    assert tried > 300
    assert false > 0.9 * tried


def test_captions_are_varied_and_of_the_promised_length():
    lengths = [captions.count_words(caption) for _, caption in SAID]
    assert min(lengths) >= 6
    assert max(lengths) <= 25
    assert 9 < np.mean(lengths) < 15
    used = collections.Counter(word for _, caption in SAID for word in re.findall(r"[a-z]+", caption))
    for words in language.CONTENT_WORDS.values():
        assert sum(used[word] > 0 for word in words) > 0.9 * len(words)
    skeletons = {caption_checker.NOUN_PHRASE.sub("@", caption) for _, caption in SAID}
    assert len(skeletons) > 80
    for scene in SCENES:
        said = captions.captions(scene, 5)
        assert len(set(said)) == 5
        assert said == captions.captions(scene, 5)
        assert said[:4] == captions.captions(scene, 4)


def test_content_words_are_public_and_complete():
    assert scenes.CONTENT_WORDS["colour"] == world.COLOURS
    assert set(world.SHAPES) < set(scenes.CONTENT_WORDS["shape"])
    assert {"left", "right", "above", "below", "front", "behind"} == set(scenes.CONTENT_WORDS["relation"])
    words = [word for kind in scenes.CONTENT_WORDS.values() for word in kind]
    assert len(set(words)) == len(words)


def test_questions_have_ten_answers_and_one_is_most_frequent():
    kinds = collections.Counter(asked.kind for _, asked in ASKED)
    assert len(kinds) >= 9
    types = collections.Counter(asked.answer_type for _, asked in ASKED)
    assert set(types) == {"yes/no", "number", "other"}
    agreement = []
    for _, asked in ASKED:
        assert asked.text.endswith("?")
        assert asked.text.startswith(asked.kind)
        assert len(asked.answers) == 10
        assert asked.answer in questions.ANSWERS
        assert questions.most_frequent(asked.answers) == asked.answer
        agreement.append(asked.answers.count(asked.answer))
    assert set(agreement) == {7, 8, 9, 10}
    yes = [asked.answer for _, asked in ASKED if asked.answer in ("yes", "no")].count("yes")
    assert 0.35 < yes / sum(asked.answer in ("yes", "no") for _, asked in ASKED) < 0.65
    for scene in SCENES:
        assert len({asked.text for asked in questions.questions(scene)}) == questions.QUESTIONS_A_SCENE


def described(scene, words):
    """Things that fit a bare description like "small striped red star" or "red things"."""
    match = caption_checker.NOUN_PHRASE.fullmatch("the " + words.removeprefix("the "))
    assert match, words
    return [k for k, thing in enumerate(scene.things) if caption_checker.fits_phrase(thing, match.groupdict())]


def answer_to(scene, question):
    """The answer by reading the question, or None if it is of a kind not read here."""
    side = r"(?:(?:to the|on the)? ?(left|right) of|(above|below|behind)|in (front) of)"
    if match := re.fullmatch(r"how many (.*) are there\?", question):
        return str(len(described(scene, match[1])))
    if match := re.fullmatch(r"is there an? (.*)\?", question):
        return "yes" if described(scene, match[1]) else "no"
    if match := re.fullmatch(r"are there more (.*) than (.*)\?", question):
        return "yes" if len(described(scene, match[1])) > len(described(scene, match[2])) else "no"
    if match := re.fullmatch(r"(?:what (color|shape) is|what (pattern) does) (the [a-z ]*?)(?: have)?\?", question):
        name = {"color": "colour", "shape": "shape", "pattern": "texture"}[match[1] or match[2]]
        if caption_checker.NOUN_PHRASE.fullmatch(match[3]):
            (k,) = described(scene, match[3])
            return getattr(scene.things[k], name)
    if match := re.fullmatch(r"is (the .*) (small or large|larger than (.*)|smaller than (.*))\?", question):
        (k,) = described(scene, match[1])
        if match[2] == "small or large":
            return "large" if scene.things[k].radius > 26 else "small"
        (j,) = described(scene, match[3] or match[4])
        larger = scene.things[k].radius > scene.things[j].radius
        return "yes" if larger == bool(match[3]) else "no"
    if match := re.fullmatch(r"do (the .*) and (the .*) have the same (color|pattern|shape)\?", question):
        name = {"color": "colour", "shape": "shape", "pattern": "texture"}[match[3]]
        values = {getattr(scene.things[k], name) for words in match.groups()[:2] for k in described(scene, words)}
        return "yes" if len(values) == 1 else "no"
    if match := re.fullmatch(rf"is (the [a-z ]*?) {side} (the .*)\?", question):
        (i,), (j,) = described(scene, match[1]), described(scene, match[5])
        place = match[2] or match[3] or match[4]
        return "yes" if caption_checker.stands(scene, i, j, place) else "no"
    if match := re.fullmatch(rf"what (?:is|color is the thing) {side} (the .*)\?", question):
        (j,) = described(scene, match[4])
        place = match[1] or match[2] or match[3]
        found = [i for i in range(len(scene.things)) if i != j and caption_checker.stands(scene, i, j, place)]
        assert len(found) == 1, question
        return scene.things[found[0]].colour if "color" in question else scene.things[found[0]].shape
    return None


def test_every_answer_is_right():
    unread = 0
    for scene, asked in ASKED:
        answer = answer_to(scene, asked.text)
        unread += answer is None
        assert answer in (None, asked.answer), (asked.text, scene.image_id)
    assert not unread


def test_expressions_fit_one_thing_only():
    side = r"(?:(?:to the|on the)? ?(left|right) of|(above|below|behind)|in (front) of)"
    kinds = collections.Counter()
    for scene, (thing, sentence) in REFERRED:
        words = sentence.removeprefix("the ")
        if match := re.fullmatch(rf"([a-z ]*?) {side} (the .*)", words):
            (j,) = described(scene, match[5])
            place = match[2] or match[3] or match[4]
            fits = [i for i in described(scene, match[1]) if caption_checker.stands(scene, i, j, place)]
            kinds["relation"] += 1
        elif match := re.fullmatch(r"([a-z ]*) (?:on|at) the (left|right|top|bottom)", words):
            across, sign = match[2] in ("left", "right"), -1 if match[2] in ("left", "top") else 1
            at = [sign * (scene.things[k].x if across else scene.things[k].y) for k in described(scene, match[1])]
            fits = [described(scene, match[1])[int(np.argmax(at))]]
            assert sign * ((scene.things[fits[0]].x / 256 if across else scene.things[fits[0]].y / 192) - 0.5) > 0
            kinds["place"] += 1
        else:
            fits = described(scene, words)
            kinds["attributes"] += 1
        assert fits == [thing], (sentence, scene.image_id)
    assert min(kinds.values()) > 100
    for scene in SCENES:
        found = expressions.expressions(scene)
        assert {expression.thing for expression in found} == set(range(len(scene.things)))


def test_multiple_choice_is_well_formed_and_positions_are_even():
    places = collections.Counter()
    for _, chosen in CHOSEN:
        for options, right in ((chosen.answers, chosen.answer), (chosen.reasons, chosen.reason)):
            assert len(set(options)) == 4
            places[right] += 1
    assert min(places.values()) > 0.2 * sum(places.values())
    assert len({chosen.question.split()[0] for _, chosen in CHOSEN}) >= 4


def looks_like(scene, name, value):
    """Whether the one thing of this name has this attribute."""
    (i,) = described(scene, name)
    return value in (getattr(scene.things[i], kind) for kind in world.ATTRIBUTES)


def test_right_choices_are_true_and_wrong_ones_false():
    for scene, chosen in CHOSEN:
        if match := re.fullmatch(r"where is (the .*)\?", chosen.question):
            true = [caption_checker.is_true(a.replace("it", match[1], 1), scene) for a in chosen.answers]
        elif match := re.fullmatch(r"what do (the .*) and (the .*) have in common\?", chosen.question):
            true = [
                caption_checker.is_true(a.replace("they", f"{match[1]} and {match[2]}"), scene) for a in chosen.answers
            ]
        elif match := re.fullmatch(r"how many (.*) are there\?", chosen.question):
            count = len(described(scene, match[1]))
            number = ("no", "one", "two", "three", "four", "five")[count]
            true = [f" {number} " in answer for answer in chosen.answers]
        elif match := re.fullmatch(r"what (?:color is|shape is|pattern does) (the .*?)(?: have)?\?", chosen.question):
            true = [looks_like(scene, match[1], answer.split()[-1]) for answer in chosen.answers]
        elif match := re.fullmatch(r"what is (\w+)\?", chosen.question):
            true = [looks_like(scene, answer, match[1]) for answer in chosen.answers]
        else:
            continue
        assert true == [k == chosen.answer for k in range(4)], (chosen, scene.image_id)


def test_reasons_for_what_something_looks_like_are_true_of_both_things():
    seen = 0
    for scene, chosen in CHOSEN:
        asked = re.fullmatch(r"what (?:color is|shape is|pattern does) (the .*?)(?: have)?\?", chosen.question)
        for k, reason in enumerate(chosen.reasons if asked else ()):
            said = re.fullmatch(r"it is (?:an? )?(\w+) and (the .*) is (?:an? )?(\w+)", reason)
            of_it, other, of_other = said.groups()
            true = looks_like(scene, asked[1], of_it) and looks_like(scene, other, of_other)
            assert true == (k == chosen.reason), (chosen, scene.image_id)
            seen += 1
    assert seen > 20


@pytest.mark.parametrize("kind", ["is red and", "nearer to the"])
def test_right_reasons_are_true_and_wrong_ones_false(kind):
    seen = 0
    for scene, chosen in CHOSEN:
        if kind not in " ".join(chosen.reasons):
            continue
        for k, reason in enumerate(chosen.reasons):
            if match := re.fullmatch(r"(the .*) is nearer to the (\w+) edge than (the .*)", reason):
                (i,), (j,) = described(scene, match[1]), described(scene, match[3])
                a, b = scene.things[i], scene.things[j]
                nearer = {"left": a.x < b.x, "right": a.x > b.x, "top": a.y < b.y, "bottom": a.y > b.y}[match[2]]
                assert nearer == (k == chosen.reason), (reason, scene.image_id)
                seen += 1
            elif re.fullmatch(rf"the .* is ({caption_checker.ANY}) and the .* is ({caption_checker.ANY})", reason):
                assert caption_checker.is_true(reason, scene) == (k == chosen.reason), (reason, scene.image_id)
                seen += 1
    assert seen > 5


def test_every_word_is_one_piece():
    known = set(vocabulary.FILE.read_text().split("\n"))
    for number in range(300):
        for sentence in vocabulary.sentences(world.make_image_id("tiny", "test", number)):
            assert sentence == sentence.lower()
            assert "  " not in sentence
            assert not set(re.findall(r"[a-z]+|[^a-z\s]", sentence)) - known, sentence


def test_vocabulary_is_that_of_bert_and_spells_any_english():
    found = vocabulary.FILE.read_text().splitlines()
    assert found[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(set(found)) == len(found)
    tokenizer = text.load_tokenizer(str(vocabulary.FILE))
    assert tokenizer.vocab_size == len(found)
    sentence = "The quick brown fox can't jump over 13 lazy dogs; e-mail: fox@den.org (50% off!)"
    assert tokenizer.unk_id not in tokenizer.encode(sentence)
    for _, caption in SAID[:200]:
        assert len(tokenizer.encode(caption)) == len(re.findall(r"[a-z]+|,", caption))


def test_vocabulary_file_is_up_to_date():
    """What the command in the module's docstring would add is nothing."""
    ids = [world.make_image_id("full", "train", number) for number in range(60)]
    fresh = vocabulary.pieces(sentence for image_id in ids for sentence in vocabulary.sentences(image_id))
    assert set(fresh) <= set(vocabulary.FILE.read_text().splitlines())


def test_names_are_refused_when_they_would_not_be_unique():
    """Two things that differ in colour only cannot be named without colour."""
    red = world.Thing("star", "red", "plain", "small", 40.0, 40.0, 18.0, 0.0)
    blue = world.Thing("star", "blue", "plain", "small", 140.0, 40.0, 18.0, 0.0)
    scene = world.Scene("tiny-train-000000", (red, blue), frozenset(), "gradient", 0.5, 0.8, 1.0)
    rng = np.random.default_rng(0)
    assert language.the_thing(rng, scene, 0, without=["colour"]) is None
    assert "red" in str(language.the_thing(rng, scene, 0))
    assert language.relation(scene, 0, 1) == "left"
    assert language.relation(scene, 1, 0) == "right"

"""What a predictor says and draws: order, ties, numbers, printed forms, JSON, the picture of an answer."""

import json

import matplotlib.colors
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from vilbert_jax.data.region_codec import RegionRecord
from vilbert_jax.data.text import load_tokenizer
from vilbert_jax.errors import InputError
from vilbert_jax.predictor.choosing import best_answers, best_boxes, best_words
from vilbert_jax.predictor.figure import Bar, Shown, draw_answer
from vilbert_jax.predictor.lists import are_many, check_counts, listed, paired
from vilbert_jax.predictor.results import Answer, Attention, Candidate, Embedding, Filled, Grounded, Word, to_json
from vilbert_jax.predictor.texts import TextReader
from vilbert_jax.tasks.drawing import ATTENDED

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "dog", "##s"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n")
    return load_tokenizer(path)


# --- choosing


def test_answers_are_sigmoids_and_the_first_of_equal_ones_leads():
    logits = np.array([0.0, 2.0, 2.0, -200.0, 100.0], np.float32)
    answer = best_answers(logits, ["zero", "one", "two", "three", "four"], 9)
    assert [word.text for word in answer.top] == ["four", "one", "two", "zero", "three"]
    assert [word.score for word in answer.top] == pytest.approx([1, 0.880797, 0.880797, 0.5, 0], abs=1e-6)
    assert (answer.text, answer.score) == tuple(answer.top[0])
    assert best_answers(logits, ["zero", "one", "two", "three", "four"], 2).top == answer.top[:2]


def test_boxes_come_best_first_with_or_without_the_whole_picture():
    boxes = np.array([[0, 0, 9, 8], [1, 2, 3, 4], [5, 6, 7, 8]], np.float32)
    logits = np.array([3.0, -1.0, 0.0], np.float32)
    found = best_boxes(logits, boxes, whole_image=True)
    assert (found.box, found.region) == ((0.0, 0.0, 9.0, 8.0), 0)
    assert [candidate.region for candidate in found.candidates] == [0, 2, 1]
    found = best_boxes(logits, boxes, whole_image=False)
    assert (found.box, found.region, found.score) == ((5.0, 6.0, 7.0, 8.0), 2, 0.5)
    assert [candidate.region for candidate in found.candidates] == [2, 1]


def test_with_nothing_to_choose_from_there_is_no_box():
    boxes, logits = np.array([[0, 0, 9, 8]], np.float32), np.zeros(1, np.float32)
    assert best_boxes(logits, boxes, whole_image=True).region == 0
    with pytest.raises(
        InputError, match=r"nothing to choose from: the picture has no regions.*whole_image=False.*give"
    ):
        best_boxes(logits, boxes, whole_image=False)


def test_words_have_probabilities_over_the_whole_vocabulary(tokenizer):
    logits = np.log(np.array([[1, 1, 1, 1, 1, 1, 10, 3, 1], [1, 1, 1, 1, 1, 1, 1, 1, 12]], np.float32))
    ids, blanks = best_words(logits, tokenizer, 2)
    assert ids.tolist() == [[6, 7], [8, 0]]
    assert [[word.text for word in blank] for blank in blanks] == [["red", "dog"], ["##s", "[PAD]"]]
    assert [[word.score for word in blank] for blank in blanks] == [
        pytest.approx([0.5, 0.15], abs=1e-6), pytest.approx([0.6, 0.05], abs=1e-6),
    ]  # fmt: skip


# --- texts


def test_texts_and_their_blanks(tokenizer):
    reader = TextReader(tokenizer, 8, None)
    assert reader.read("A red DOGS").tolist() == [2, 5, 6, 7, 8, 3]
    assert reader.empty.tolist() == [2, 3]
    masked = reader.read_masked("a [MASK] [MASK]")
    assert masked.tolist() == [2, 5, 4, 4, 3]
    assert reader.blanks(masked) == (2, 3)
    assert reader.filled(masked, (2, 3), np.array([7, 8])) == "a dogs"
    assert masked.tolist() == [2, 5, 4, 4, 3]


def test_long_texts_are_refused_or_cut_as_in_training(tokenizer):
    assert len(TextReader(tokenizer, 8, None).read("a " * 6)) == 8
    with pytest.raises(
        InputError, match="has 9 tokens, the model has 8 positions: shorten it .in Python.*text_length="
    ):
        TextReader(tokenizer, 8, None).read("a " * 7)
    assert TextReader(tokenizer, 8, 5).read("red a a a a a a a").tolist() == [2, 6, 5, 5, 3]
    assert TextReader(tokenizer, 8, 5).read("red").tolist() == [2, 6, 3]
    with pytest.raises(InputError, match="has 9 tokens.*shorten it$"):  # a blank that is cut off could not be filled
        TextReader(tokenizer, 8, 5).read_masked("a a a a a a [MASK]")
    for length in (2, 9):
        with pytest.raises(InputError, match="3 to 8 tokens"):
            TextReader(tokenizer, 8, length)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "empty"), (" \n", "empty"), (b"a dog", "as bytes"), (3, "as int"), (None, "as NoneType"),
     ("what \udcff is", r"'what \\udcff is' holds bytes that are not UTF-8")],
)  # fmt: skip
def test_what_is_no_text_is_refused(tokenizer, text, message):
    with pytest.raises(InputError, match=message):
        TextReader(tokenizer, 8, None).read(text)


@pytest.mark.parametrize("text", ["a dog", "a [mask]", "a <mask>"])
def test_a_text_without_a_blank_is_refused(tokenizer, text):
    with pytest.raises(InputError, match=r"write \[MASK\]"):
        TextReader(tokenizer, 20, None).read_masked(text)


def test_words_that_the_vocabulary_lacks_are_named_once(tokenizer, caplog):
    reader = TextReader(tokenizer, 20, None)
    assert reader.read("Xyzzy plugh dogs, plugh-plugh?").tolist() == [2, 1, 1, 7, 8, 1, 1, 1, 1, 1, 3]
    assert caplog.messages == [
        "not in the vocabulary, so that the model knows nothing of them (they are read as [UNK], or letter by letter): "
        "Xyzzy, plugh, ,, -, ?"
    ]
    reader.read("a red dog")
    reader.read_masked("plugh [MASK] Xyzzy")
    assert len(caplog.messages) == 1
    reader.read_masked("a [MASK] quux ? " + " ".join(f"q{k}" for k in range(12)))
    assert caplog.messages[1].endswith(": quux, " + ", ".join(f"q{k}" for k in range(9)) + ", ...")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("abc", "abc"),
        ("red ab! dog", "ab"),
        ("a dogs b", None),
        ("abdog", None),
        ("dogsab", None),
        ("ab-dog", "ab"),
    ],
)
def test_a_word_that_is_spelt_letter_by_letter_is_unknown_too(tmp_path, caplog, text, named):
    letters = [*"bc-!", *(f"##{letter}" for letter in "abc"), "##dog"]
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS, *letters]) + "\n")
    TextReader(load_tokenizer(tmp_path / "vocab.txt"), 20, None).read(text)
    assert [message.rpartition(": ")[2] for message in caplog.messages] == [named] * (named is not None)


# --- one or many


def test_lists_are_many_and_a_record_is_one():
    record = RegionRecord("a", 1, 1, np.zeros((1, 4)), np.zeros((1, 2)), None)
    assert [are_many(x) for x in (["a"], ("a",), record, "a", b"a", np.zeros(3), None)] == [True] * 2 + [False] * 5
    assert listed(record) == [record]
    assert listed(("a", "b")) == ["a", "b"]
    assert paired(["x"], ["a", "b"], many_images=False, many_texts=True) == (["x", "x"], ["a", "b"])
    assert paired(["x", "y"], ["a"], many_images=True, many_texts=False) == (["x", "y"], ["a", "a"])
    assert paired(["x", "y"], ["a", "b"], many_images=True, many_texts=True) == (["x", "y"], ["a", "b"])
    assert paired([], ["a"], many_images=True, many_texts=False) == ([], [])


def test_lists_of_two_lengths_are_refused():
    check_counts(["x"], "a")
    with pytest.raises(InputError, match="1 images and 2 texts"):
        check_counts(["x"], ["a", "b"])


# --- printed


def test_results_print_as_people_read_them():
    assert str(Answer("red", 0.931, (Word("red", 0.931), Word("blue", 0.04)))) == "  93.1%  red\n   4.0%  blue"
    assert str(Filled("a red dog", ((Word("red", 0.5),), (Word("dog", 1.0),)))) == (
        "a red dog\n  50.0%  red\n\n 100.0%  dog"
    )
    candidates = (
        Candidate((0.0, 0.0, 20.0, 10.0), 0.5, 0),
        *[Candidate((1.0, 2.5, 3.0, 4.0), 0.25, k) for k in range(1, 8)],
    )
    lines = str(Grounded(*candidates[0], candidates)).splitlines()
    assert lines[:2] == ["  50.0%  the whole picture", "  25.0%  region 1: x 1.0 to 3.0, y 2.5 to 4.0"]
    assert lines[-1].strip() == "and 3 more"
    assert len(lines) == 6
    boxes = np.array([[0, 0, 20, 10], [1, 2, 3, 4]], np.float32)
    assert str(Attention(boxes, np.array([0.25, 0.75]))).splitlines() == [
        "  75.0%     1.0     2.0     3.0     4.0", "  25.0%  the whole picture",
    ]  # fmt: skip
    embedding = Embedding(None, np.zeros(4), np.zeros((2, 3)), ("[CLS]", "[SEP]"), None, None, None)
    assert repr(embedding) == (
        "Embedding(pair=None, text_pooled=[4], text=[2, 3], tokens=('[CLS]', '[SEP]'), regions_pooled=None, "
        "regions=None, boxes=None)"
    )


def test_results_are_json():
    found = Grounded((0.0, 1.0, 2.0, 3.0), 0.5, 1, (Candidate((0.0, 1.0, 2.0, 3.0), 0.5, 1),))
    assert json.loads(json.dumps(to_json(found))) == {
        "box": [0, 1, 2, 3], "score": 0.5, "region": 1,
        "candidates": [{"box": [0, 1, 2, 3], "score": 0.5, "region": 1}],
    }  # fmt: skip
    assert to_json([Attention(np.ones((1, 4)), np.ones(1))]) == [{"boxes": [[1.0] * 4], "shares": [1.0]}]


# --- drawn


@pytest.fixture
def draw(monkeypatch, tmp_path):
    """Draws an answer; returns its figure, once the file was seen to be a picture."""
    figures, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *args, **more: (save(figure, *args, **more), figures.append(figure))
    )

    def call(**fields):
        shown = {
            "picture": None,
            "question": "q",
            "bars": (),
            "attention": None,
            "candidates": (),
            "size": (40.0, 20.0),
        }
        draw_answer(tmp_path / "answer.png", Shown(**(shown | fields)))
        assert np.asarray(Image.open(tmp_path / "answer.png").convert("RGB")).std() > 1
        return figures[-1]

    call.path = tmp_path / "answer.png"
    return call


def colours(patches):
    return [matplotlib.colors.to_hex(patch.get_edgecolor()) for patch in patches]


def test_the_picture_of_an_answer_has_its_words_bars_and_regions(draw):
    boxes = np.array([[0, 0, 40, 20], [1, 1, 9, 9], [20, 5, 30, 15]], np.float32)
    attention = Attention(boxes, np.array([0.1, 0.1, 0.8], np.float32))
    picture = np.full((10, 20, 3), 90, np.uint8)  # of half the size that its boxes count in
    bars = (Bar("red", 0.9, "90%"), Bar("blue", 0.3, "30%"))
    left, right = draw(picture=picture, question="what is it?", bars=bars, attention=attention).axes
    assert left.images[0].get_extent() == [0, 40, 20, 0]
    assert [text.get_text() for text in left.texts] == ["80%"]
    assert colours(left.patches).count(ATTENDED) == 1
    assert [text.get_text() for text in right.texts] == ["what is it?", "90%", "red", "30%", "blue"]
    widths = [bar.get_width() for bar in right.patches]
    assert widths[0] == pytest.approx(3 * widths[1])


def test_the_picture_of_an_expression_has_the_best_box_on_top(draw):
    best = [Candidate((float(k), 0.0, float(k) + 5, 5.0), 0.9 - k / 10, k + 1) for k in range(6)]
    bars = (Bar("region", 0.9, "90%"),) * 4
    left, _ = draw(bars=bars, candidates=(*best, Candidate((0.0, 0.0, 40.0, 20.0), 0.0, 0))).axes
    assert [text.get_text() for text in left.texts] == ["4: 60%", "3: 70%", "2: 80%", "1: 90%"]  # one a bar
    assert len(left.patches) == 6 + 4  # all regions thinly, the best four with their scores
    assert colours(left.patches)[-1] == ATTENDED
    assert left.patches[-1].get_bbox().extents.tolist() == [0, 0, 5, 5]


def test_labels_are_in_the_picture_and_none_hides_another(draw):
    near = [(200.0, 100.0), (202.0, 101.0), (199.0, 99.0), (390.0, 290.0), (0.0, 0.0)]
    candidates = [Candidate((x, y, x + 10, y + 10), 0.9 - k / 10, k) for k, (x, y) in enumerate(near)]
    figure = draw(bars=(Bar("b", 0.5, "50%"),) * 5, candidates=tuple(candidates), size=(400.0, 300.0))
    left = figure.axes[0]
    assert [text.get_text() for text in left.texts] == ["4: 50%", "3: 60%", "2: 70%", "1: 80%", "whole picture: 90%"]
    picture = left.get_window_extent()
    renderer = FigureCanvasAgg(figure).get_renderer()
    extents = [text.get_window_extent(renderer) for text in left.texts]
    for k, extent in enumerate(extents):
        assert picture.x0 - 4 <= extent.x0 < extent.x1 <= picture.x1 + 4
        assert picture.y0 - 4 <= extent.y0 < extent.y1 <= picture.y1 + 4
        assert not any(extent.overlaps(other) for other in extents[:k])


def test_white_boxes_are_seen_on_white(draw):
    white = np.full((20, 40, 3), 255, np.uint8)
    draw(picture=white, candidates=(Candidate((1.0, 1.0, 39.0, 19.0), 0.9, 1),))  # no bars, so no labels either
    drawn = np.asarray(Image.open(draw.path).convert("L"))
    assert drawn[:, : drawn.shape[1] // 2].min() < 240


@pytest.mark.parametrize("size", [(10000.0, 1.0), (1.0, 10000.0), (3000.0, 2000.0)])
def test_pictures_of_any_shape_and_many_long_answers_fit(draw, size):
    bars = tuple(Bar(f"a long answer about $5^^ of it, {k} " * 4, 0.5, "50%") for k in range(8))
    figure = draw(bars=(*bars, Bar("", 0, ""), *bars), size=size, question="why " * 40)
    width, height = figure.get_size_inches()
    assert width < 12
    right = figure.axes[1]
    lowest = max(text.get_position()[1] for text in right.texts)
    assert lowest < right.get_ylim()[0] <= height * 72 + 1

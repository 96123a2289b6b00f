"""``examples.png`` of an evaluation: which examples it shows, what it says and in which colours."""

import matplotlib.colors
import numpy as np
import pytest
import toy_splits as toy
from matplotlib.figure import Figure
from PIL import Image

from vilbert_jax.evaluation.pictures import draw_results
from vilbert_jax.tasks.drawing import ATTENDED, QUIET, RIGHT, WRONG
from vilbert_jax.tasks.retrieval import best_images
from vilbert_jax.tasks.task import Scored

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    return toy.write_vocab(tmp_path_factory.mktemp("vocab"))


@pytest.fixture
def draw(monkeypatch, tmp_path):
    """Calls draw_results and returns the figure, once its file was seen to be a picture."""
    figures, save = [], Figure.savefig

    def keep(figure, *args, **kwargs):
        save(figure, *args, **kwargs)
        figures.append(figure)

    monkeypatch.setattr(Figure, "savefig", keep)

    def call(task, source, predictions, scored, *, picture=lambda image_id: None, **more):
        path = tmp_path / "examples.png"
        draw_results(task, source, predictions, scored, path, picture=picture, **more)
        assert np.asarray(Image.open(path).convert("RGB")).std() > 1
        return figures[-1]

    return call


def answers(task, source, labels):
    """Predictions of VQA whose best answers are these, and their scores."""
    labels = np.stack([labels, (labels + 1) % len(toy.ANSWERS)], axis=1)
    predictions = {"labels": labels, "shares": np.tile([0.75, 0.25], (len(labels), 1))}
    return predictions, task.score(source, predictions)


def words(axes):
    return [text.get_text() for text in axes.texts]


def verdicts(figure):
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


def questions(figure):
    return [words(axes)[0] for axes in figure.axes if words(axes)]


def colours(patches):
    return [matplotlib.colors.to_hex(patch.get_edgecolor()) for patch in patches]


def bars(axes):
    return [(matplotlib.colors.to_hex(bar.get_facecolor()), bar.get_width()) for bar in axes.patches]


@pytest.mark.parametrize(("num_right", "shown"), [(6, (4, 4)), (11, (7, 1)), (2, (2, 6)), (12, (8, 0)), (0, (0, 8))])
def test_half_are_right_and_half_are_wrong_where_there_are_both(vocab, draw, num_right, shown):
    task, source = toy.vqa(vocab, answers=("red",))
    predictions, scored = answers(task, source, (np.arange(12) >= num_right).astype(int))
    figure = draw(task, source, predictions, scored)
    assert sorted(verdicts(figure)) == ["right"] * shown[0] + ["wrong"] * shown[1]
    assert len(set(questions(figure))) == 8
    percent = f"{100 * num_right / 12:.2f}"
    assert figure.get_suptitle() == (
        f"VQA on validation: accuracy {percent} ({shown[0]} right and {shown[1]} wrong of 12)"
    )


def test_right_ones_stand_left_and_the_choice_is_spread_and_repeatable(vocab, draw):
    task, source = toy.vqa(vocab, num_questions=36)
    predictions, _ = answers(task, source, np.zeros(36, int))
    for row in range(36):
        source.examples.rows[row]["question"] = f"number {row}".encode()
    scored = Scored((np.arange(36) < 18).astype(float), {"accuracy": 50.0})
    figure = draw(task, source, predictions, scored)
    numbers = {
        half: [int(words(row[half])[0].split()[1]) for row in np.reshape(figure.axes, (4, 4))] for half in (1, 3)
    }
    assert numbers[1] == sorted(numbers[1])
    assert numbers[1][0] == 0
    assert numbers[3][-1] == 35
    assert all(number < 18 for number in numbers[1])
    assert all(number >= 18 for number in numbers[3])
    assert all(np.diff(numbers[half]).min() >= 4 for half in (1, 3))
    assert questions(draw(task, source, predictions, scored)) == questions(figure)


def test_fewer_examples_than_places(vocab, draw):
    task, source = toy.vqa(vocab, num_questions=3)
    figure = draw(task, source, *answers(task, source, np.zeros(3, int)))
    assert sorted(verdicts(figure)) == ["right", "right", "wrong"]


def test_bars_say_what_was_right(vocab, draw):
    task, source = toy.vqa(vocab, num_questions=2)  # red and blue are right
    right, wrong = draw(task, source, *answers(task, source, np.array([0, 0]))).axes[1:4:2]
    assert words(right) == ["is n0 left of the red circle", "red", "75%", "blue", "25%"]
    assert words(wrong) == ["is n1 left of the red circle", "red", "75%", "blue", "25%"]
    assert [colour for colour, _ in bars(right)] == [RIGHT, QUIET]
    assert [colour for colour, _ in bars(wrong)] == [WRONG, RIGHT]
    assert bars(right)[0][1] == pytest.approx(3 * bars(right)[1][1])


def test_the_truth_is_written_where_no_guess_is_it(vocab, draw):
    task, source = toy.vqa(vocab, num_questions=2)
    left, other = draw(task, source, *answers(task, source, np.array([0, 2]))).axes[1:4:2]
    assert not any("truth" in text for text in words(left))
    assert "truth: blue" in words(other)


def test_half_right_answers_say_how_right(vocab, draw):
    task, source = toy.vqa(vocab, num_questions=2)
    predictions, _ = answers(task, source, np.zeros(2, int))
    figure = draw(task, source, predictions, Scored(np.array([0.6, 0.3]), {"accuracy": 45.0}))
    assert verdicts(figure) == ["60% right", "30% right"]


def test_without_labels_nothing_is_called_right_or_wrong(vocab, draw):
    task, source = toy.vqa(vocab, num_questions=12, answers=())
    predictions, scored = answers(task, source, np.zeros(12, int))
    assert scored is None
    figure = draw(task, source, predictions, None, num_examples=3)
    assert not verdicts(figure)
    assert figure.get_suptitle() == "VQA on validation: 3 of 12 examples, without labels"
    assert {colour for axes in figure.axes[1::2] for colour, _ in bars(axes)} == {QUIET}


def test_long_texts_wrap_and_prices_are_no_formulas(vocab, draw):
    task, source = toy.vcr(vocab, passes="answer", choices=("$5^^ or $1 " * 20, "blue", "circle", "square"))
    source.examples.rows[0]["question"] = b"what is n0 of the red square that is left of the circle " * 3
    predictions = {"shares": np.tile([0.4, 0.3, 0.2, 0.1], (4, 1))}
    figure = draw(task, source, predictions, task.score(source, predictions))
    texts = words(figure.axes[1])
    assert "$5^^ or $1" in texts[2]  # as a formula it could not be drawn
    for text in (texts[0], texts[2]):
        assert text.count("\n") >= 3
        assert max(map(len, text.splitlines())) <= 40


def test_boxes_that_were_meant_and_chosen(vocab, draw):
    task, source = toy.grounding(vocab)
    predictions = {"region": np.array([1, 1, 1, 1, 1, 2]), "share": np.full(6, 0.5)}
    scored = task.score(source, predictions)
    assert scored.rows.tolist() == [1, 1, 1, 1, 1, 0]
    figure = draw(task, source, predictions, scored, num_examples=2, attention=lambda indices: [np.ones(7)] * 2)
    for axes, index, colour in ((figure.axes[0], 0, RIGHT), (figure.axes[2], 5, WRONG)):
        thin, (under, dashed, chosen) = axes.patches[:-3], axes.patches[-3:]
        assert len(thin) == len(source.boxes(index)) - 1
        assert dashed.get_linestyle() != "solid"
        assert under.get_bbox().extents.tolist() == pytest.approx(source.wanted(index).tolist())
        region = int(predictions["region"][index])
        assert chosen.get_bbox().extents.tolist() == pytest.approx(source.boxes(index)[region].tolist())
        assert colours([under, dashed, chosen]) == ["#000000", "#ffffff", colour]
        assert words(axes) == ["meant", "chosen"]


def test_retrieval_shows_the_pictures_that_were_found(vocab, draw):
    task, source = toy.retrieval(vocab)
    scores = RNG.random((12, toy.NUM_IMAGES))
    scores[0, 0], scores[11, 5], scores[11, 2] = 2.0, 2.0, 3.0
    asked = []

    def picture(image_id):
        asked.append(image_id)
        return np.full((10, 12, 3), 90, np.uint8)

    found, own = best_images(scores), np.arange(12) // 2
    rows = (found["best"][:, 0] == own).astype(float)
    rows[1:11] = 0.0
    metrics = {"caption_to_image/recall@1": 8.5}
    figure = draw(task, source, found, Scored(rows, metrics), picture=picture, num_examples=2)
    first, second = figure.axes[1], figure.axes[3]
    assert words(first)[0] == source.caption(0)
    frames = [[matplotlib.colors.to_hex(small.spines["top"].get_edgecolor()) for small in axes.child_axes]
              for axes in (first, second)]  # fmt: skip
    assert frames[0] == [RIGHT, QUIET, QUIET, QUIET]
    assert frames[1][0] == WRONG
    ranked = [f"image{k}" for k in found["best"][0, :4]]
    assert asked[:1] == ["image0"]
    assert asked[1:5] == ranked
    assert figure.get_suptitle().startswith("Retrieval on validation: caption_to_image/recall@1 8.50")


def test_attention_colours_the_regions_it_points_at(vocab, draw):
    task, source = toy.vqa(vocab, num_questions=6)
    asked = []

    def attention(indices):
        asked.extend(indices)
        maps = [np.full(len(source.examples.arrangement(f"image{index}").boxes), 0.1) for index in indices]
        for shares in maps[1:]:  # the first picture gets even shares
            shares[-1] = 0.7
        return maps

    figure = draw(task, source, *answers(task, source, np.zeros(6, int)), attention=attention)
    by_question = {words(text)[0]: picture for picture, text in zip(figure.axes[::2], figure.axes[1::2], strict=True)
                   if words(text)}  # fmt: skip
    assert sorted(asked) == [*range(6)]
    for place, index in enumerate(asked):
        axes = by_question[f"is n{index} left of the red circle"]
        assert colours(axes.patches).count(ATTENDED) == (place > 0)
        assert words(axes) == (["70%"] if place else [])


def test_blank_pictures_have_no_attention(vocab, draw):
    task, source = toy.vqa(vocab, blank_pictures=True)
    figure = draw(
        task, source, *answers(task, source, np.zeros(12, int)), attention=lambda indices: pytest.fail("asked")
    )
    assert len(verdicts(figure)) == 8

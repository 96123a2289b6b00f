"""``examples.png`` of an evaluation: which examples it shows, what it says and in which colours."""

import dataclasses

import jax
import matplotlib.colors
import numpy as np
import pytest
import tiny_pretraining as tiny
import toy_splits as toy
from matplotlib.figure import Figure
from PIL import Image

import vilbert_jax as vj
from vilbert_jax.evaluation.pictures import draw_results
from vilbert_jax.model import init_params
from vilbert_jax.tasks.drawing import ATTENDED, QUIET, RIGHT, WRONG
from vilbert_jax.tasks.region_attention import attended_regions
from vilbert_jax.tasks.retrieval import Retrieval, best_images
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


def small_model(source, heads, **changes):
    changes = {"vocab_size": source.examples.tokenizer.vocab_size, "num_vqa_answers": len(toy.ANSWERS), **changes}
    changes["region_feature_dim"] = source.examples.contract.feature_dim
    model = vj.ViLBERTForTasks(dataclasses.replace(tiny.CONFIG, **changes), heads)
    return model, init_params(model, jax.random.key(0))


def test_attention_is_that_of_cls_in_the_last_layer(vocab):
    task, source = toy.vqa(vocab)
    model, params = small_model(source, task.heads)
    (found,) = attended_regions(task, model, params, source, [3])
    batch = {name: value[None] for name, value in source.example(3, RNG).items()}
    apply = jax.jit(
        lambda: model.apply({"params": params}, task.inputs(batch), deterministic=True, mutable=["intermediates"])
    )
    layer = apply()[1]["intermediates"]["trunk"]["encoder"]["co_layer_1"]
    probabilities = np.asarray(layer["text_attention"]["attention_probs"][0])  # [B,N,T,S]
    np.testing.assert_allclose(found, probabilities[0, :, 0, :5].mean(axis=0), atol=1e-6)


def test_with_one_stream_attention_is_the_share_that_goes_to_regions(vocab):
    task, source = toy.vqa(vocab)
    model, params = small_model(source, task.heads, num_streams=1)
    (found,) = attended_regions(task, model, params, source, [3])
    batch = {name: value[None] for name, value in source.example(3, RNG).items()}
    _, sown = model.apply({"params": params}, task.inputs(batch), deterministic=True, mutable=["intermediates"])
    (probabilities,) = sown["intermediates"]["trunk"]["encoder"]["layer_1"]["attention"]["attention_probs"]
    length = batch["token_ids"].shape[1]
    to_regions = np.asarray(probabilities)[0, :, 0, length : length + 5].mean(axis=0)  # [CLS] over slots in use
    assert to_regions.sum() < 0.95  # the words have their share
    np.testing.assert_allclose(found, to_regions / to_regions.sum(), atol=1e-6)


@pytest.mark.parametrize(
    "changes", [{"use_coattention": False}, {"num_task_embeddings": 3}, {"num_streams": 1}], ids=str
)
def test_attention_covers_the_slots_in_use(vocab, changes):
    task, source = toy.vqa(vocab)
    found = attended_regions(task, *small_model(source, task.heads, **changes), source, [0, 4, 5])
    assert [len(shares) for shares in found] == [2, 6, 7]  # picture k has k + 1 boxes
    for shares in found:
        assert shares.sum() == pytest.approx(1, abs=1e-5)
        assert (np.ptp(shares) > 1e-3) == changes.get("use_coattention", True)


def test_attention_is_that_of_the_chosen_option(vocab):
    """In another order of the choices another row of the model is chosen, and the text in it is the same."""
    choices = ("red", "blue", "circle", "square")
    task, source = toy.vcr(vocab, passes="answer")
    model, params = small_model(source, task.heads)
    expected = attended_regions(task, model, params, source, [0, 1, 2, 3])
    for shift in (1, 2, 3):
        _, turned = toy.vcr(vocab, passes="answer", choices=choices[shift:] + choices[:shift])
        found = attended_regions(task, model, params, turned, [0, 1, 2, 3])
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_attention_of_a_caption_is_on_its_own_picture(vocab):
    task, source = toy.retrieval(vocab)
    model, params = small_model(source, task.heads)

    class ThirdIsBest(Retrieval):
        """Prefers the pair with another picture."""

        def predict(self, logits, batch):
            return {"shares": jax.numpy.array([[0.0, 0.0, 1.0, 0.0]] * 2)}

    for chosen in (task, ThirdIsBest(data=task.data)):
        found = attended_regions(chosen, model, params, source, [0, 11])
        assert [len(shares) for shares in found] == [2, 7]

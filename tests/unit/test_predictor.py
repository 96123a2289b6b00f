"""vj.Predictor: its results are those of the model on the pair alone, without padding."""

import functools

import jax
import numpy as np
import pytest
import toy_checkpoints as toys
import toy_tasks

import vilbert_jax as vj
from vilbert_jax.data.answers import AnswerLabels
from vilbert_jax.data.text import load_tokenizer
from vilbert_jax.data.transforms import relative_boxes
from vilbert_jax.errors import InputError
from vilbert_jax.tasks.grounding import Expressions, Grounding
from vilbert_jax.tasks.region_attention import last_text_attention
from vilbert_jax.tasks.task import make_predict_fn
from vilbert_jax.tasks.vqa import VQA, Questions

HEADS = ("vqa", "choice", "grounding", "tokens", "alignment")
KINDS = {"two": {}, "one": toys.ONE_STREAM, "tasks": toys.TASK_TOKENS}
TOKEN = {"tasks": 2}
PICTURES = ("kite", "lake", "moon", "tree")
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("predictor")
    toy_tasks.write_vocabulary(root)
    toy_tasks.write_regions(root, "toy_regions", toy_tasks.DETECTED)
    return root


@pytest.fixture(scope="module")
def models(root):
    """The saved models with their parameters, by kind."""
    saved = {kind: toys.save(root, kind, HEADS, **changes) for kind, changes in KINDS.items()}
    return saved | {"aligned": toys.save(root, "aligned", ("alignment", "tokens"))}


@pytest.fixture(scope="module")
def predictors(root, models):
    return {kind: vj.Predictor(root / kind, store=root / "toy_regions", task_token=TOKEN.get(kind)) for kind in models}


@pytest.fixture(scope="module")
def reference(root, models):
    """(kind, image, text) -> what the model itself makes of the pair: exact shapes, one program."""
    tokenizer, programs = load_tokenizer(root / "vocab.txt"), {}

    def call(kind, image, text):
        model, params = models[kind]
        if kind not in programs:
            apply = functools.partial(model.apply, deterministic=True, mutable=["intermediates"])
            programs[kind] = jax.jit(lambda params, inputs: apply({"params": params}, inputs))
        picture = toy_tasks.DETECTED[image]
        boxes, features = (np.array(x, np.float32) for x in (picture.boxes, picture.features))
        whole = [[0, 0, picture.width, picture.height]]
        ids = np.array([tokenizer.cls_id, *tokenizer.encode(text), tokenizer.sep_id], np.int32)[None]
        inputs = vj.Inputs(
            token_ids=ids,
            token_types=np.zeros_like(ids),
            text_mask=np.ones(ids.shape, bool),
            region_features=np.concatenate([features.mean(0, keepdims=True), features])[None],
            region_boxes=relative_boxes(np.concatenate([whole, boxes]), picture.width, picture.height)[None],
            region_mask=np.ones((1, len(boxes) + 1), bool),
            task_id=np.array([TOKEN[kind]], np.int32) if kind in TOKEN else None,
        )
        output, sown = jax.device_get(programs[kind](params, inputs))
        attention = last_text_attention(sown["intermediates"], inputs.region_mask, ids.shape[1])[0, 0]
        return {name: x[0] for name, x in output.logits.items()}, output.encoded, attention

    return call


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# --- values

TEXT = "what is a [MASK] kite and a [MASK] ?"


@pytest.mark.parametrize("kind", KINDS)
def test_every_result_is_the_models_own_without_padding(predictors, reference, kind):
    """Padded texts, regions and batches against exact shapes."""
    predictor = predictors[kind]
    logits, encoded, attention = reference(kind, "tree", TEXT)

    answer = predictor.answer("tree", TEXT, top_k=9)
    order = np.argsort(-logits["vqa"])
    assert [word.text for word in answer.top] == [toy_tasks.ANSWERS[k] for k in order]
    close([word.score for word in answer.top], sigmoid(logits["vqa"][order]))

    found = predictor.ground("tree", TEXT)
    order = np.argsort(-logits["grounding"])
    assert [candidate.region for candidate in found.candidates] == order.tolist()
    close([candidate.score for candidate in found.candidates], sigmoid(logits["grounding"][order]))
    boxes = [[0, 0, 16, 8], *toy_tasks.DETECTED["tree"].boxes]
    assert [list(candidate.box) for candidate in found.candidates] == [boxes[k] for k in order]

    close(predictor.match("tree", TEXT), logits["choice"])

    filled = predictor.fill("tree", TEXT, top_k=3)
    places = [place + (kind in TOKEN) for place in (4, 8)]  # behind [CLS], and the task token
    assert len(filled.blanks) == 2
    for place, words in zip(places, filled.blanks, strict=True):
        shares = np.asarray(jax.nn.softmax(logits["tokens"][place]))
        best = np.argsort(-shares)[:3]
        assert [word.text for word in words] == ids_to_words(best)
        close([word.score for word in words], shares[best])

    embedding = predictor.embed(image="tree", text=TEXT)
    close(embedding.text, encoded.text[0])
    close(embedding.regions, encoded.regions[0])
    close(embedding.text_pooled, encoded.text_pooled[0])
    assert len(embedding.tokens) == len(embedding.text)
    assert embedding.tokens.count("[TASK]") == (kind in TOKEN)
    assert embedding.boxes.tolist() == boxes
    if kind == "one":
        assert embedding.regions_pooled is None
        close(embedding.pair, encoded.text_pooled[0])
    else:
        close(embedding.regions_pooled, encoded.regions_pooled[0])
        close(embedding.pair, encoded.text_pooled[0] * encoded.regions_pooled[0])

    looked = predictor.attention("tree", TEXT)
    close(looked.shares, attention)
    assert looked.shares.sum() == pytest.approx(1, abs=1e-5)
    assert looked.boxes.tolist() == boxes


def ids_to_words(ids):
    return [("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *toy_tasks.WORDS)[k] for k in ids]


def test_the_task_token_changes_the_answer_and_can_be_given_a_call(root, predictors):
    default, other = (
        predictors["tasks"].answer("tree", "why ?"),
        predictors["tasks"].answer("tree", "why ?", task_token=0),
    )
    assert default != other
    assert default == predictors["tasks"].answer("tree", "why ?", task_token=2)


def test_scores_are_those_of_an_evaluation(root, models, predictors):
    """The examples as experiments/evaluate.py makes them: other padding, features decoded on the device."""
    texts = ["is it red ?", "what is it ?", "why ?", "a new kite and an old moon"]
    rows = [
        {"image_id": image, "question": text, "sentence": text, "answers": [], "box": [0, 0, 1, 1]}
        for image, text in zip(PICTURES, texts, strict=True)
    ]
    data = toy_tasks.examples_config(root, "rows", max_regions=3, text_length=12)
    examples = data.join(rows, "validation")
    model, params = models["two"]
    predictor = vj.Predictor(root / "two", store=root / "toy_regions", max_regions=3)
    sources = {
        "vqa": (VQA(data=data), Questions(examples, AnswerLabels(toy_tasks.ANSWERS))),
        "grounding": (Grounding(data=data), Expressions(examples, False, True)),
    }
    found = {}
    for head, (task, source) in sources.items():
        rng = np.random.default_rng(0)
        fields = [source.example(k, rng) for k in range(len(rows))]
        batch = {name: np.stack([row[name] for row in fields]) for name in fields[0]}
        predict = make_predict_fn(task, vj.ViLBERTForTasks(model.config, heads=(head,)))
        found[head] = jax.device_get(jax.jit(predict)(params, batch))
    answers = predictor.answer([*PICTURES], texts, top_k=9)
    for row, answer in enumerate(answers):
        assert [word.text for word in answer.top] == [toy_tasks.ANSWERS[k] for k in found["vqa"]["labels"][row]]
        close([word.score for word in answer.top], found["vqa"]["shares"][row])
    boxes = predictor.ground([*PICTURES], texts)
    assert [box.region for box in boxes] == found["grounding"]["region"].tolist()
    close([box.score for box in boxes], found["grounding"]["share"])


def test_matching_without_a_choice_head_is_the_log_odds_of_alignment(predictors, reference):
    pair = reference("aligned", "lake", "a kite")[0]["alignment"]
    found = predictors["aligned"].match([*PICTURES], ["a kite", "a lake"])
    assert (found.shape, found.dtype) == ((4, 2), np.float32)
    close(found[1, 0], pair[0] - pair[1])  # class 0 is "they belong together"


# --- one or many


def test_lists_in_lists_out_pair_by_pair(predictors):
    predictor = predictors["two"]
    texts = ["what is it ?", "why ?", "a blue kite and a red moon"]
    singles = {(image, text): predictor.answer(image, text) for image in ("kite", "tree", "lake") for text in texts[:2]}
    for images, asked in (
        (["kite", "tree"], texts[:2]), ("kite", texts[:2]), (["kite", "tree", "lake"], texts[1]), (("lake",), texts[0]),
        ([], texts[0]), ([], []),
    ):  # fmt: skip
        answers = predictor.answer(images, asked)
        assert isinstance(answers, list)
        images = [images] * len(asked) if isinstance(images, str) else [*images]
        asked = [asked] * len(images) if isinstance(asked, str) else asked
        assert len(answers) == len(images)
        for image, text, answer in zip(images, asked, answers, strict=True):
            wanted = singles[image, text]
            assert [word.text for word in answer.top] == [word.text for word in wanted.top]
            close([word.score for word in answer.top], [word.score for word in wanted.top])
    with pytest.raises(InputError, match="2 images and 3 texts"):
        predictor.answer(["kite", "tree"], texts)


def test_matching_has_an_axis_for_every_list(predictors):
    predictor, texts = predictors["two"], ["a kite", "moon"]
    both = predictor.match(["kite", "tree"], texts)
    assert both.shape == (2, 2)
    for image, row in (("kite", both[0]), ("tree", both[1])):
        close(predictor.match(image, texts), row)
    close(predictor.match(["kite", "tree"], "moon"), both[:, 1])
    assert predictor.match("kite", "moon").shape == ()
    close(float(predictor.match("kite", "moon")), both[0, 1])
    assert predictor.match([], texts).shape == (0, 2)


def test_more_pairs_than_a_batch_holds_are_the_same(root, predictors):
    small = vj.Predictor(root / "two", store=root / "toy_regions", batch_size=2)
    texts, images = ["a kite", "moon"], ["kite", "tree"]
    close(small.match(images, texts), predictors["two"].match(images, texts))
    close(small.match("lake", [*texts, "a lake"])[:2], predictors["two"].match("lake", texts))


def test_a_text_alone_and_a_picture_alone(predictors, reference):
    predictor = predictors["two"]
    text, image = predictor.embed(text="a kite"), predictor.embed(image="kite")
    assert (text.regions, text.regions_pooled, text.boxes, text.pair) == (None, None, None, None)
    assert text.tokens == ("[CLS]", "a", "kite", "[SEP]")
    assert text.text.shape == (4, 8)
    assert (image.text, image.text_pooled, image.tokens, image.pair) == (None, None, None, None)
    assert image.regions.shape == (4, 8)
    assert image.boxes.shape == (4, 4)
    with_text = predictor.embed(image="kite", text="a kite")
    assert np.abs(with_text.text_pooled - text.text_pooled).max() > 1e-3  # the streams read each other
    several = predictor.embed(text=["a kite", "moon"])
    close(several[0].text, text.text)
    assert [one.text.shape for one in several] == [(4, 8), (3, 8)]
    with pytest.raises(InputError, match="nothing to embed"):
        predictor.embed()


def test_the_whole_picture_need_not_be_a_candidate(predictors):
    all_of_them = predictors["two"].ground("tree", "a tree").candidates
    without = predictors["two"].ground("tree", "a tree", whole_image=False)
    assert without.candidates == tuple(candidate for candidate in all_of_them if candidate.region)
    assert without.region == without.candidates[0].region

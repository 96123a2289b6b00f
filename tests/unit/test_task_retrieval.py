"""Retrieval: which text goes with which picture in the four pairs, their loss, and what is kept of a ranking."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
import toy_tasks as toy

from vilbert_jax.errors import InputError
from vilbert_jax.tasks import retrieval
from vilbert_jax.tasks.retrieval import Retrieval, best_images

IMAGES = ("kite", "lake", "moon", "tree")  # in the order of the split, two captions each
NEIGHBOURS = np.array([[2, 3], [2, 2], [0, 0], [1, 1]], np.int32)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    toy.write_regions(folder, "toy_regions", toy.DETECTED)
    toy.write_annotations(folder, "toy_retrieval", toy.RETRIEVAL_FEATURES, toy.CAPTIONS)
    toy.write_vocabulary(folder)
    return folder


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """Neighbours as given above, and the arguments with which they were asked for."""
    calls = []
    monkeypatch.setattr(retrieval, "load_or_find", lambda *args, **kwargs: calls.append((args, kwargs)) or NEIGHBOURS)
    return calls


def make_task(root, head="choice", num_hard=2, num_folds=0, **fields):
    data = toy.examples_config(root, "toy_retrieval", **fields)
    return Retrieval(data=data, head=head, num_hard=num_hard, num_folds=num_folds)


def opened(root, training=False, **fields):
    return make_task(root, **fields).open("train", training=training)


def drawn(source, index, count=60):
    return [source.example(index, np.random.default_rng(seed)) for seed in range(count)]


def nouns(source, example):
    """Of the four captions, the picture that each speaks of."""
    return [source.examples.tokenizer.decode(ids).split()[1] for ids in example["token_ids"]]


def pictured(example):
    """The two pictures of an example, by their first features."""
    first = {tuple(toy.DETECTED[name].features[0]): name for name in IMAGES}
    return [first[tuple(features[0].tolist())] for features in example["stored_features"]]


# --- the four pairs


@pytest.mark.parametrize("training", [True, False])
def test_the_first_pair_is_right_and_the_others_are_not(root, training):
    source = opened(root, training)
    assert len(source) == 8
    for index in (0, 3, 7):
        own = IMAGES[index // 2]
        for example in drawn(source, index):
            texts, images = nouns(source, example), pictured(example)
            assert images[0] == texts[0] == texts[2] == own  # (image, caption) and (another image, caption)
            assert own not in (images[1], texts[1], texts[3])
            np.testing.assert_array_equal(example["token_ids"][0], example["token_ids"][2])
            caption = source.examples.text_fields(source.caption(index))["token_ids"][0]
            np.testing.assert_array_equal(example["token_ids"][0], caption)


def test_hard_negatives_are_captions_of_neighbours_in_training_alone(root):
    training, held_out = opened(root, training=True), opened(root)
    for image, name in enumerate(IMAGES):
        neighbours = {IMAGES[k] for k in NEIGHBOURS[image]}
        assert {nouns(training, example)[3] for example in drawn(training, 2 * image)} == neighbours
        others = {nouns(held_out, example)[3] for example in drawn(held_out, 2 * image)}
        assert others == set(IMAGES) - {name}


def test_other_pictures_and_captions_are_drawn_from_all_the_others(root):
    source = opened(root, training=True)
    examples = drawn(source, 2)
    others = {"kite", "moon", "tree"}
    assert {nouns(source, example)[1] for example in examples} == others
    assert {pictured(example)[1] for example in examples} == others
    assert any(nouns(source, example)[1] != pictured(example)[1] for example in examples)  # drawn apart
    texts = {tuple(example["token_ids"][1].tolist()) for example in examples}
    assert len(texts) == 6  # both captions of each of them
    one, again = (source.example(2, np.random.default_rng(3)) for _ in range(2))
    assert all(np.array_equal(one[name], again[name]) for name in one)


def test_training_asks_for_neighbours_among_the_images_of_the_split(root, asked):
    opened(root)
    assert not asked
    source = opened(root, training=True, num_hard=3)
    (((_, store, image_ids), options),) = asked
    assert store is source.examples.stores[0]
    assert tuple(image_ids) == IMAGES
    assert options == {"k": 3}


def test_the_rows_of_the_model_pair_texts_with_their_pictures(root):
    task = make_task(root)
    source = task.open("train", training=True)
    examples = [source.example(index, np.random.default_rng(9)) for index in (0, 5)]
    batch = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
    inputs = task.inputs(batch)
    for row in range(8):
        example, pair = examples[row // 4], row % 4
        image = 1 if pair == 2 else 0
        np.testing.assert_array_equal(inputs.token_ids[row], example["token_ids"][pair])
        np.testing.assert_array_equal(inputs.text_mask[row], example["text_mask"][pair])
        np.testing.assert_array_equal(inputs.region_features[row][0], example["global_feature"][image])
        np.testing.assert_array_equal(inputs.region_features[row][1:], example["stored_features"][image])
        np.testing.assert_array_equal(inputs.region_boxes[row], example["region_boxes"][image])
        np.testing.assert_array_equal(inputs.region_mask[row], example["region_mask"][image])


def test_captions_and_pictures_of_a_ranking(root):
    source = opened(root)
    assert source.caption(5) == "a moon one"
    assert source.caption_tokens(5).tolist() == [toy.CLS, *toy.ids_of("a moon one"), toy.SEP]


# --- loss and predictions


def test_the_loss_asks_for_the_first_pair(root):
    logits = jnp.asarray([1.0, 2, 3, 4, 7, 0, 0, 0, 1, 1, 1, 1])
    batch = {"example_mask": jnp.asarray([True, False, True])}
    total = make_task(root).loss({"choice": logits}, batch)
    assert float(total.sum) == pytest.approx(math.log(sum(map(math.exp, (1, 2, 3, 4)))) - 1 + math.log(4), rel=1e-6)
    assert float(total.weight) == 2


def test_the_alignment_head_counts_by_how_much_more_it_matches_than_not(root):
    task = make_task(root, head="alignment")
    assert task.heads == ("alignment",)
    # of the four pairs the differences are log 1, log 2, log 3, log 4; the first logit alone would say otherwise
    pairs = jnp.stack([jnp.log(jnp.asarray([8.0, 8.0, 6.0, 4.0])), jnp.log(jnp.asarray([8.0, 4.0, 2.0, 1.0]))], axis=1)
    np.testing.assert_allclose(task.predict({"alignment": pairs}, {})["shares"], [[0.1, 0.2, 0.3, 0.4]], rtol=1e-5)
    total = task.loss({"alignment": pairs}, {"example_mask": jnp.asarray([True])})
    assert float(total.sum) == pytest.approx(math.log(10), rel=1e-5)


def test_pairs_that_all_match_surely_are_still_told_apart(root):
    """The probability of a match is 1 in float32 for all of them."""
    logits = jnp.asarray([[20.0, -20.0], [21.0, -20.0], [23.0, -20.0], [22.0, -20.0]])
    shares = make_task(root, head="alignment").predict({"alignment": logits}, {})["shares"][0]
    assert np.argsort(-np.asarray(shares)).tolist() == [2, 3, 1, 0]


# --- scores


def test_the_score_of_a_run_is_the_accuracy_of_the_choice(root):
    task = make_task(root)
    first, last = [0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7]
    scored = task.score(task.open("train", training=False), {"shares": np.array([first] * 6 + [last] * 2)})
    assert scored.rows.tolist() == [1] * 6 + [0] * 2
    assert scored.metrics == {"accuracy": 75}
    assert task.metric in scored.metrics


def test_a_model_that_tells_no_pair_from_another_scores_as_chance_does(root):
    task = make_task(root)
    two, four = [0.4, 0.1, 0.4, 0.1], [0.25] * 4
    scored = task.score(task.open("train", training=False), {"shares": np.array([two] * 4 + [four] * 4, np.float32)})
    assert scored.rows.tolist() == [0.5] * 4 + [0.25] * 4
    assert scored.metrics == {"accuracy": 37.5}


# Captions 0..7 and their images 0..3: the own image is first for 0, 1, 2, second for 3, 4, third for 5, last for 6, 7.
SCORES = np.array(
    [[9, 1, 2, 3], [9, 1, 2, 3], [1, 9, 2, 3], [9, 8, 2, 3], [9, 1, 8, 3], [9, 8, 7, 1], [3, 2, 1, 0], [3, 2, 1, 0]],
    np.float32,
)


def test_an_evaluation_ranks_all_images_for_every_caption(root):
    task = make_task(root)
    scored = task.score_all(task.open("train", training=False), SCORES)
    assert scored.rows.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    found = {name: scored.metrics[f"caption_to_image/{name}"] for name in ("recall@1", "median_rank", "mean_rank")}
    assert found == {"recall@1": 37.5, "median_rank": 2, "mean_rank": 2.25}  # ranks are no shares
    assert scored.metrics["rsum"] == pytest.approx(37.5 + 100 + 100 + 75 + 75 + 100)


def test_folds_are_scored_by_themselves(root):
    task = make_task(root, num_folds=2)
    metrics = task.score_all(task.open("train", training=False), SCORES).metrics
    assert metrics["caption_to_image/recall@1"] == 37.5
    # among images 0 and 1 alone the captions 0, 1, 2 are right; among 2 and 3 alone 4 and 5 (8 > 3, 7 > 1)
    assert metrics["folds/caption_to_image/recall@1"] == pytest.approx(100 * (3 / 4 + 2 / 4) / 2)
    assert metrics["folds/caption_to_image/mean_rank"] == pytest.approx(1 + (1 / 4 + 2 / 4) / 2)


def test_the_best_images_come_first_and_equals_in_order():
    scores = np.array([[1.0, 3.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    found = best_images(scores, count=3)
    assert found["best"].tolist() == [[1, 2, 3], [0, 1, 2]]
    weights = np.exp([1, 3, 3, 2])
    np.testing.assert_allclose(found["shares"], [weights[[1, 2, 3]] / weights.sum(), [0.25] * 3], rtol=1e-6)
    assert best_images(scores)["best"].shape == (2, 4)


def test_the_submission_lists_the_best_images_of_every_caption(root):
    task = make_task(root)
    entries = task.submission(task.open("train", training=False), best_images(SCORES, count=2))
    assert json.loads(json.dumps(entries)) == entries
    assert len(entries) == 8
    assert entries[3] == {"image_id": "lake", "caption": 1, "images": ["kite", "lake"]}


def test_a_caption_is_shown_with_the_images_ranked_first(root):
    task = make_task(root)
    shown = task.show(task.open("train", training=False), 3, best_images(SCORES))
    assert (shown.image_id, shown.text) == ("lake", "a lake one")
    assert [(guess.text, guess.right) for guess in shown.guesses[:2]] == [("kite", False), ("lake", True)]


# --- what cannot be used


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"head": "vqa"}, "head is 'vqa'; use one of choice, alignment"),
        ({"num_hard": 0}, "num_hard is 0; draw hard negatives from at least 1 image"),
    ],
)
def test_settings_that_cannot_work_are_refused(root, fields, words):
    with pytest.raises(InputError, match=words):
        make_task(root, **fields)


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("uneven", r"has images with \[1, 2\] captions; ranking needs equally many"),
        ("single", "'single' has one image with regions"),
    ],
)
def test_splits_that_cannot_be_ranked_are_refused(root, split, words):
    with pytest.raises(InputError, match=words):
        make_task(root).open(split, training=False)

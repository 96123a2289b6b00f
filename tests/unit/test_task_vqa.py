"""VQA: soft targets, the loss, the official scores and the submission, against numbers worked out by hand."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_weights
import toy_tasks as toy
from toy_tasks import CLS, SEP, ids_of

import vilbert_jax as vj
from vilbert_jax.checkpoints.conversion import make_model
from vilbert_jax.errors import InputError
from vilbert_jax.tasks.task import make_score_fn
from vilbert_jax.tasks.vqa import VQA

ZERO, ONE, TWO, RED, BLUE = range(5)  # labels of toy.ANSWERS


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    toy.write_regions(folder, "toy_regions", toy.DETECTED)
    toy.write_annotations(folder, "toy_vqa", toy.QUESTION_FEATURES, toy.QUESTIONS, {"answers": list(toy.ANSWERS)})
    toy.write_annotations(folder, "toy_unlisted", toy.QUESTION_FEATURES, toy.QUESTIONS)
    toy.write_vocabulary(folder)
    return folder


def make_task(root, annotations="toy_vqa", rules="2021", answer_labels="", **fields):
    data = toy.examples_config(root, annotations, **fields)
    return VQA(data=data, rules=rules, answer_labels=str(answer_labels))


def predicted(*best):
    """Predictions whose first answers are these; the others follow in order."""
    labels = [[first, *(k for k in range(5) if k != first)] for first in best]
    shares = np.tile(np.float32([0.9, 0.4, 0.3, 0.2, 0.1]), (len(best), 1))
    return {"labels": np.array(labels, np.int32), "shares": shares}


def batch_of(**fields):
    return {name: jnp.asarray(values) for name, values in fields.items()}


# --- examples


def test_an_example_is_a_question_a_picture_and_soft_targets(root):
    source = make_task(root).open("validation", training=False)
    assert len(source) == 3
    example = source.example(1, np.random.default_rng(0))
    assert example["token_ids"].tolist() == [CLS, *ids_of("is it two ?"), SEP, 0, 0]
    assert example["target_labels"].tolist() == [ZERO, ONE, TWO] + [0] * 7
    np.testing.assert_allclose(example["target_scores"], [0.3, 1, 1] + [0] * 7, rtol=1e-6)
    np.testing.assert_array_equal(example["global_feature"], [3, 3, 3, 3])  # of four boxes, three of which are kept
    assert example["region_mask"].all()
    assert {name: (x.shape, x.dtype) for name, x in example.items()} == {
        "token_ids": ((8,), np.int32), "token_types": ((8,), np.int32), "text_mask": ((8,), bool),
        "stored_features": ((3, 4), np.float16), "feature_scales": ((3,), np.float32),
        "global_feature": ((4,), np.float32), "region_boxes": ((4, 5), np.float32), "region_mask": ((4,), bool),
        "target_labels": ((10,), np.int32), "target_scores": ((10,), np.float32),
    }  # fmt: skip
    for index in range(3):  # nothing is drawn, in training neither
        again = make_task(root).open("validation", training=True).example(index, np.random.default_rng(1))
        first = source.example(index, np.random.default_rng(0))
        assert all(np.array_equal(first[name], again[name]) for name in first)


def test_targets_count_the_answers_as_they_are_written(root):
    example = make_task(root).open("train", training=True).example(0, np.random.default_rng(0))
    assert example["target_labels"].tolist() == [RED, BLUE] + [0] * 8  # "old red" is another answer, and no label
    np.testing.assert_allclose(example["target_scores"], [1, 0.3] + [0] * 8, rtol=1e-6)


def test_a_question_without_a_known_answer_stays_without_a_target(root):
    for split, index in (("validation", 2), ("test", 0)):
        example = make_task(root).open(split, training=False).example(index, np.random.default_rng(0))
        assert not example["target_scores"].any()
        assert not example["target_labels"].any()


# --- loss and predictions


def test_the_loss_of_undecided_logits_is_log_2_for_every_answer(root):
    batch = batch_of(target_labels=[[3, 0], [0, 0]], target_scores=[[1.0, 0.0], [0.0, 0.0]], example_mask=[True, True])
    total = make_task(root).loss({"vqa": jnp.zeros((2, 5))}, batch)
    assert float(total.sum) == pytest.approx(2 * 5 * math.log(2), rel=1e-6)
    assert float(total.weight) == 2


def test_the_loss_is_the_sigmoid_cross_entropy_against_dense_targets(root):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (4, 5)).astype(np.float32)
    labels = np.array([[0, 2, 0, 0], [3, 4, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]], np.int32)
    scores = np.array([[0.3, 1, 0, 0], [0.6, 0.9, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]], np.float32)
    dense = np.array([[0.3, 0, 1, 0, 0], [0, 0, 0, 0.6, 0.9], [0] * 5, [0, 1, 0, 0, 0]])
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    each = -(dense * np.log(probabilities) + (1 - dense) * np.log(1 - probabilities)).sum(axis=1)
    mask = np.array([True, True, True, False])
    batch = batch_of(target_labels=labels, target_scores=scores, example_mask=mask)
    total = make_task(root).loss({"vqa": jnp.asarray(logits)}, batch)
    assert float(total.sum) == pytest.approx(each[:3].sum(), rel=1e-5)
    assert float(total.weight) == 3
    padded = batch | batch_of(
        target_labels=np.pad(labels, ((0, 0), (0, 6))), target_scores=np.pad(scores, ((0, 0), (0, 6)))
    )
    assert float(make_task(root).loss({"vqa": jnp.asarray(logits)}, padded).sum) == float(total.sum)


def test_the_best_eight_answers_are_kept_with_their_sigmoids(root):
    logits = jnp.asarray([[0.0, 3.0, -1.0, 3.0, 1.0, -9.0, 2.0, -2.0, -3.0, -4.0], np.arange(10.0)])
    found = make_task(root).predict({"vqa": logits}, {})
    assert found["labels"].tolist() == [[1, 3, 6, 4, 0, 2, 7, 8], [9, 8, 7, 6, 5, 4, 3, 2]]  # the first of equals first
    assert found["labels"].dtype == jnp.int32
    assert float(found["shares"][0, 0]) == pytest.approx(1 / (1 + math.exp(-3)), rel=1e-6)
    assert float(found["shares"][0, 4]) == 0.5
    few = make_task(root).predict({"vqa": logits[:, :5]}, {})
    assert few["labels"].shape == few["shares"].shape == (2, 5)


# --- scores


def test_scores_are_the_official_ones(root):
    """``blue``, given by 2 of 10: (2 * 1/3 + 8 * 2/3) / 10. ``zero``, by 1: (0 + 9 * 1/3) / 10. ``red``: nobody."""
    task = make_task(root)
    scored = task.score(task.open("validation", training=False), predicted(BLUE, ZERO, RED))
    np.testing.assert_allclose(scored.rows, [0.6, 0.3, 0])
    assert scored.metrics == pytest.approx(
        {"accuracy": 30, "soft_accuracy": 30, "accuracy/yes/no": 60, "accuracy/number": 30, "accuracy/other": 0}
    )
    assert task.metric in scored.metrics


def test_the_rules_of_2017_score_number_words_differently(root):
    """They write the prediction as ``0``, and leave the human ``zero`` as it is."""
    task = make_task(root, rules="2017")
    scored = task.score(task.open("validation", training=False), predicted(BLUE, ZERO, RED))
    np.testing.assert_allclose(scored.rows, [0.6, 0, 0])
    assert scored.metrics["accuracy"] == 20
    assert scored.metrics["soft_accuracy"] == pytest.approx(30)


def test_a_split_without_labels_has_no_score_and_chooses_no_checkpoint(root):
    task = make_task(root)
    source = task.open("test", training=False)
    assert task.score(source, predicted(RED, BLUE)) is None
    with pytest.raises(InputError, match="split 'test' of 'toy_vqa' has rows without labels.*--config.eval_split"):
        make_score_fn(task, source)(predicted(RED, BLUE))
    labelled = task.open("validation", training=False)
    assert make_score_fn(task, labelled)(predicted(BLUE, ZERO, RED))["accuracy"] == 30


def test_the_submission_names_every_question_once(root):
    task = make_task(root)
    entries = task.submission(task.open("test", training=False), predicted(RED, TWO))
    assert json.loads(json.dumps(entries)) == [
        {"question_id": 31, "answer": "red"},
        {"question_id": 32, "answer": "two"},
    ]


def test_an_example_is_shown_with_its_best_guesses(root):
    task = make_task(root)
    shown = task.show(task.open("validation", training=False), 1, predicted(RED, ONE, RED))
    assert (shown.image_id, shown.text, shown.truth) == ("tree", "is it two ?", "two, one, zero")
    assert [guess.text for guess in shown.guesses] == ["one", "zero", "two", "red"]
    assert [guess.right for guess in shown.guesses] == [True, True, True, False]
    assert [guess.share for guess in shown.guesses] == pytest.approx([0.9, 0.4, 0.3, 0.2])
    unlabelled = task.show(task.open("test", training=False), 0, predicted(RED, ONE))
    assert unlabelled.truth == ""
    assert not any(guess.right for guess in unlabelled.guesses)


# --- which answer each output is


def test_answers_come_from_the_data_set_or_from_a_file(root, tmp_path):
    task = make_task(root)
    assert task.outputs(task.open("validation", training=False)) == {"vqa": toy.ANSWERS}
    (tmp_path / "answers.json").write_text('["blue", "red"]')
    stated = make_task(root, answer_labels=tmp_path / "answers.json")
    source = stated.open("validation", training=False)
    assert stated.outputs(source) == {"vqa": ("blue", "red")}
    assert source.example(0, np.random.default_rng(0))["target_labels"].tolist()[:2] == [0, 1]
    unlisted = make_task(root, annotations="toy_unlisted", answer_labels=tmp_path / "answers.json")
    assert unlisted.outputs(unlisted.open("validation", training=False)) == {"vqa": ("blue", "red")}


def test_answers_come_from_a_checkpoint(root, tmp_path):
    model = make_model(tiny_weights.CONFIG, ("vqa",))
    params = tiny_weights.nested(tiny_weights.random_params(model))
    answers = tuple(f"answer {k}" for k in range(tiny_weights.CONFIG.num_vqa_answers))
    vj.save_pretrained(tmp_path / "with", model, params, outputs={"vqa": answers})
    vj.save_pretrained(tmp_path / "without", model, params)
    task = make_task(root, answer_labels=tmp_path / "with")
    assert task.outputs(task.open("validation", training=False)) == {"vqa": answers}
    for folder in ("without", "."):
        with pytest.raises(InputError, match="does not say what the outputs of a vqa head are: give a fine-tuned run"):
            make_task(root, answer_labels=tmp_path / folder).open("validation", training=False)


def test_without_a_list_of_answers_there_is_no_task(root, tmp_path):
    with pytest.raises(InputError, match="'toy_unlisted' does not say which answers .*--config.answer_labels"):
        make_task(root, annotations="toy_unlisted").open("validation", training=False)
    with pytest.raises(InputError, match="no answer list .*absent.json"):
        make_task(root, answer_labels=tmp_path / "absent.json").open("validation", training=False)

"""Referring expressions: candidates, soft targets, and both rules of being right; overlaps worked out by hand."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
import toy_tasks as toy
from toy_tasks import CLS, SEP, ids_of

from vilbert_jax.errors import InputError
from vilbert_jax.tasks.grounding import Grounding
from vilbert_jax.tasks.task import Guess

# Of the slots of "kite" (all of it, and three boxes) with the box 11, 1, 29, 19, in inclusive pixels: 19 x 19 of
# 41 x 21, nothing (the columns 0..10 end before 11), 19 x 19 of 21 x 21, and 10 x 10 with 21 x 11.
KITE = [361 / 861, 0, 361 / 441, 100 / (361 + 231 - 100)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    toy.write_regions(folder, "toy_regions", toy.DETECTED)
    toy.write_regions(folder, "toy_given", toy.GIVEN)
    toy.write_annotations(folder, "toy_expressions", toy.EXPRESSION_FEATURES, toy.EXPRESSIONS)
    toy.write_vocabulary(folder)
    return folder


def make_task(root, whole_image=True, **fields):
    return Grounding(data=toy.examples_config(root, "toy_expressions", **fields), whole_image=whole_image)


def opened(root, split="validation", training=False, **fields):
    return make_task(root, **fields).open(split, training=training)


def example(source, index=0):
    return source.example(index, np.random.default_rng(0))


def chosen(*regions):
    return {"region": np.array(regions, np.int32), "share": np.full(len(regions), 0.75, np.float32)}


# --- candidates and targets


def test_evaluation_keeps_every_overlap_of_the_detected_regions_and_the_whole_picture(root):
    found = example(opened(root, max_regions=5, given_regions="toy_given"))
    np.testing.assert_allclose(found["overlaps"], [*KITE, 0, 0], rtol=1e-6)
    assert found["overlaps"].dtype == np.float32
    assert found["region_mask"].tolist() == [True] * 4 + [False] * 2
    assert found["token_ids"].tolist() == [CLS, *ids_of("a blue kite"), SEP, 0, 0, 0]


def test_training_drops_small_overlaps_and_adds_the_annotated_boxes(root):
    found = example(opened(root, "train", training=True, max_regions=6, given_regions="toy_given"))
    np.testing.assert_allclose(found["overlaps"], [0, 0, 361 / 441, 0, 0, 1, 0], rtol=1e-6)
    np.testing.assert_array_equal(found["stored_features"][3:], [[0, 0, 0, 1], [0, 0, 0, 3], [0] * 4])
    np.testing.assert_array_equal(found["global_feature"], [2, 2, 1, 0])
    assert found["region_mask"].tolist() == [True] * 6 + [False]
    without = example(opened(root, "train", training=True, max_regions=6))
    assert without["region_mask"].sum() == 4


def test_annotated_boxes_are_cut_first_and_their_targets_with_them(root):
    found = example(opened(root, "train", training=True, max_regions=4, given_regions="toy_given"))
    np.testing.assert_allclose(found["overlaps"], [0, 0, 361 / 441, 0, 0], rtol=1e-6)  # the box that is meant is gone
    found = example(opened(root, "train", training=True, max_regions=1, given_regions="toy_given"))
    assert not found["overlaps"].any()


def test_an_overlap_of_a_half_counts_in_training(root, tmp_path):
    """4 x 4 pixels from 0 to 3 of 0..3 x 0..7: exactly a half. One more row of pixels: 16 / 36."""
    toy.write_regions(tmp_path, "toy_regions", {"tree": toy.Picture(8, 8, [[0, 0, 3, 7], [0, 0, 3, 8]], [[1] * 4] * 2)})
    rows = [(1, 1, "tree", "a tree", np.array([0, 0, 3, 3], np.float32))]
    toy.write_annotations(tmp_path, "toy_expressions", toy.EXPRESSION_FEATURES, {"train": rows})
    toy.write_vocabulary(tmp_path)
    np.testing.assert_array_equal(example(opened(tmp_path, "train", training=True))["overlaps"], [0, 0.5, 0, 0])
    overlaps = example(opened(tmp_path, "train"))["overlaps"]
    np.testing.assert_allclose(overlaps, [16 / 81, 0.5, 16 / 36, 0], rtol=1e-6)


def test_without_the_whole_picture_its_overlap_is_no_target(root):
    np.testing.assert_allclose(example(opened(root, whole_image=False))["overlaps"], [0, *KITE[1:]], rtol=1e-6)


# --- loss and predictions


def test_the_loss_is_the_sigmoid_cross_entropy_summed_over_slots(root):
    rng = np.random.default_rng(0)
    logits, overlaps = rng.normal(0, 2, (3, 4)).astype(np.float32), rng.uniform(0, 1, (3, 4)).astype(np.float32)
    shares = 1 / (1 + np.exp(-logits.astype(np.float64)))
    each = -(overlaps * np.log(shares) + (1 - overlaps) * np.log(1 - shares))
    batch = {"overlaps": jnp.asarray(overlaps), "example_mask": jnp.asarray([True, False, True])}
    total = make_task(root).loss({"grounding": jnp.asarray(logits)}, batch)
    assert float(total.sum) == pytest.approx(each[[0, 2]].sum(), rel=1e-5)
    assert float(total.weight) == 2
    overlaps[:, 0] = 0
    batch["overlaps"] = jnp.asarray(overlaps)
    total = make_task(root, whole_image=False).loss({"grounding": jnp.asarray(logits)}, batch)
    assert float(total.sum) == pytest.approx(each[[0, 2], 1:].sum(), rel=1e-5)


def test_padding_costs_nothing(root):
    logits = jnp.asarray([[1.0, -1.0], [0.5, 2.0]])
    batch = {"overlaps": jnp.asarray([[0.0, 1.0], [0.7, 0.0]]), "example_mask": jnp.ones(2, bool)}
    padded = {"overlaps": jnp.pad(batch["overlaps"], ((0, 0), (0, 3))), "example_mask": jnp.ones(2, bool)}
    wide = jnp.pad(logits, ((0, 0), (0, 3)), constant_values=-9999.0)
    task = make_task(root)
    assert float(task.loss({"grounding": wide}, padded).sum) == float(task.loss({"grounding": logits}, batch).sum)


def test_the_best_slot_is_chosen_the_first_of_equals(root):
    logits = {"grounding": jnp.asarray([[2.0, 2.0, 1.0], [5.0, 0.0, 1.0], [0.0, 3.0, 3.0]])}
    found = make_task(root).predict(logits, {})
    assert found["region"].tolist() == [0, 0, 1]
    assert found["region"].dtype == jnp.int32
    np.testing.assert_allclose(found["share"], [1 / (1 + math.exp(-x)) for x in (2, 5, 3)], rtol=1e-6)
    assert make_task(root, whole_image=False).predict(logits, {})["region"].tolist() == [1, 2, 1]


# --- scores


def test_scores_by_both_rules(root):
    """Of the kite one candidate of 4 is right, of the moon one of 3; nothing meets a box one pixel wide officially."""
    task = make_task(root)
    scored = task.score(task.open("validation", training=False), chosen(2, 0, 0))
    assert scored.rows.tolist() == [1, 1, 0]
    assert scored.metrics == pytest.approx(
        {
            "accuracy": 200 / 3,
            "accuracy_vilbert_rule": 200 / 3,
            "possible": 200 / 3,
            "chance": 100 * (1 / 4 + 1 / 3) / 3,
        }
    )
    wrong = task.score(task.open("validation", training=False), chosen(1, 1, 1))
    assert wrong.rows.tolist() == [0, 0, 0]
    assert (wrong.metrics["accuracy"], wrong.metrics["possible"]) == (0, pytest.approx(200 / 3))


def test_without_the_whole_picture_it_is_no_candidate(root):
    task = make_task(root, whole_image=False)
    scored = task.score(task.open("validation", training=False), chosen(2, 1, 1))
    assert scored.metrics == pytest.approx(
        {"accuracy": 100 / 3, "accuracy_vilbert_rule": 100 / 3, "possible": 100 / 3, "chance": 100 / 9}
    )


def test_the_rules_differ_where_they_are_known_to(root):
    """4 x 1.9 of 4 x 4 is 0.475 officially, 5 x 2.9 of 5 x 5 is 0.58.

    5 x 10 of the picture's 10 x 10 is a half, right officially if the box is taken as it is in the file: as corners in
    float32 it would be 4.9999995 wide. 6 x 11 of 11 x 11 is more than a half.
    """
    task = make_task(root)
    scored = task.score(task.open("close", training=False), chosen(1, 0))
    assert scored.rows.tolist() == [0, 1]
    assert (scored.metrics["accuracy"], scored.metrics["accuracy_vilbert_rule"]) == (50, 100)


def test_a_blanked_picture_offers_slots_without_boxes_that_stand_for_all_of_it(root):
    task = make_task(root, max_regions=9, blank_pictures=True)
    source = task.open("validation", training=False)
    assert example(source)["region_mask"].all()
    np.testing.assert_allclose(example(source)["overlaps"][:4], KITE, rtol=1e-6)
    scored = task.score(source, chosen(9, 9, 9))
    assert scored.rows.tolist() == [0, 1, 0]  # the whole picture is what "a moon" means


# --- submission


def test_the_submission_has_one_box_for_every_expression(root):
    task = make_task(root)
    entries = task.submission(task.open("validation", training=False), chosen(2, 0, 1))
    assert json.loads(json.dumps(entries)) == entries
    assert entries == [
        {"id": "kite", "sent_id": 3, "target": 2, "IOU": pytest.approx(324 / 400), "box": [10, 0, 20, 20]},
        {"id": "moon", "sent_id": 4, "target": 0, "IOU": 1, "box": [0, 0, 10, 10]},
        {"id": "lake", "sent_id": 5, "target": 1, "IOU": 0, "box": [5, 5, 10, 10]},
    ]


def test_an_example_is_shown_with_what_was_meant_and_what_was_chosen(root):
    task = make_task(root)
    source = task.open("validation", training=False)
    shown = task.show(source, 0, chosen(2, 0, 0))
    assert (shown.image_id, shown.text) == ("kite", "a blue kite")
    assert shown.guesses == (Guess("region 2", 0.75, True),)
    meant, picked = shown.boxes
    assert (meant.right, picked.right) == (None, True)
    assert (meant.corners.tolist(), picked.corners.tolist()) == ([11, 1, 29, 19], [10, 0, 30, 20])
    missed = task.show(source, 2, chosen(2, 0, 0))
    assert missed.guesses == (Guess("the whole picture", 0.75, False),)
    assert missed.boxes[1].right is False


def test_annotations_of_another_task_are_refused(root):
    data = toy.examples_config(root, "toy_regions")
    with pytest.raises(InputError, match="'toy_regions' has no feature 'sent_id'"):
        Grounding(data=data).open("train", training=False)

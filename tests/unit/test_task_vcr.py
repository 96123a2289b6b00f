"""VCR: what the model reads of a question with four choices, the names of persons, and the three accuracies."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
import toy_tasks as toy
from toy_tasks import CLS, SEP, ids_of

from vilbert_jax.data.person_names import NAMES
from vilbert_jax.errors import InputError
from vilbert_jax.tasks.vcr import VCR


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    toy.write_all(folder)
    return folder


def make_task(root, annotations="toy_choice", passes="answer", names="", answer_predictions="", **fields):
    data = toy.examples_config(root, annotations, **({"text_length": 20} | fields))
    return VCR(data=data, passes=passes, names=str(names), answer_predictions=str(answer_predictions))


def opened(root, split="train", **fields):
    return make_task(root, **fields).open(split, training=True)


def rows_of(example):
    """The words of every choice's row, by id, padding left out."""
    return [ids[mask].tolist() for ids, mask in zip(example["token_ids"], example["text_mask"], strict=True)]


def shares(*best):
    """[N,4], the best choices as given."""
    return {"shares": np.where(np.arange(4) == np.array(best)[:, None], 0.7, 0.1)}


# --- what the model reads


def test_a_question_stands_before_each_of_its_answers(root):
    example = opened(root).example(0, np.random.default_rng(0))
    what = [CLS, *ids_of("what is it ?"), SEP]
    assert rows_of(example) == [[*what, *ids_of(text), SEP] for text in ("a kite", "red", "blue", "a lake")]
    assert example["token_types"][0].tolist() == [0] * 6 + [1] * 3 + [0] * 11
    assert example["labels"] == 0
    assert example["labels"].dtype == np.int32
    assert opened(root).example(1, np.random.default_rng(0))["labels"] == 2


def test_reasons_are_asked_for_after_the_right_answer(root):
    source = opened(root, passes="rationale")
    assert len(source) == 2
    example = source.example(1, np.random.default_rng(0))
    query = [CLS, *ids_of("why is it ?"), SEP, *ids_of("red"), SEP]  # the right answer, of the turned list
    assert rows_of(example) == [[*query, *ids_of(t), SEP] for t in ("it is old", "why", "it is", "because")]
    assert example["token_types"][0].tolist() == [0] * 8 + [1] * 4 + [0] * 8  # the inner [SEP] starts no second text
    assert example["labels"] == 1


def test_both_passes_are_answers_first_and_then_reasons(root):
    source = opened(root, passes="both")
    assert len(source) == 4
    assert source.labels().tolist() == [0, 2, 3, 1]
    for passes, indices in (("answer", (0, 1)), ("rationale", (2, 3))):
        alone = opened(root, passes=passes)
        for place, index in enumerate(indices):
            one, other = (s.example(k, np.random.default_rng(k)) for s, k in ((alone, place), (source, index)))
            assert all(np.array_equal(one[name], other[name]) for name in one)


def test_without_labels_reasons_are_asked_for_after_every_answer(root):
    source = opened(root, "test", passes="both")
    assert len(source) == 5
    assert source.labels().tolist() == [-1] * 5
    queries = [source.texts(index)[0] for index in range(5)]
    assert queries == [["what is it ?"], *(["what is it ?", answer] for answer in ("a kite", "red", "blue", "a lake"))]


def test_each_choice_is_cut_by_itself(root):
    example = opened(root, text_length=8).example(0, np.random.default_rng(0))
    what, short = ids_of("what is it"), ids_of("what is it ?")
    kite, lake = ids_of("a kite"), ids_of("a lake")
    assert rows_of(example) == [
        [CLS, *what, SEP, *kite, SEP], [CLS, *short, SEP, *ids_of("red"), SEP],
        [CLS, *short, SEP, *ids_of("blue"), SEP], [CLS, *what, SEP, *lake, SEP],
    ]  # fmt: skip


def test_annotated_boxes_stand_behind_the_detected_ones(root):
    example = opened(root, given_regions="toy_given", max_regions=4).example(0, np.random.default_rng(0))
    np.testing.assert_array_equal(example["stored_features"], [[1, 2, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 3]])
    np.testing.assert_allclose(example["global_feature"], np.array([8, 8, 4, 6]) / 7, rtol=1e-6)
    without = opened(root, max_regions=4).example(0, np.random.default_rng(0))
    np.testing.assert_array_equal(without["global_feature"], [2, 2, 1, 0])


def test_the_rows_of_the_model_are_the_choices_of_each_example_with_its_picture(root):
    task = make_task(root)
    source = task.open("train", training=True)
    examples = [source.example(k, np.random.default_rng(k)) for k in (0, 1)]
    batch = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
    inputs = task.inputs(batch)
    for row in range(8):
        example, choice = examples[row // 4], row % 4
        for name in ("token_ids", "token_types", "text_mask"):
            np.testing.assert_array_equal(getattr(inputs, name)[row], example[name][choice])
        np.testing.assert_array_equal(inputs.region_features[row][0], example["global_feature"])
        np.testing.assert_array_equal(inputs.region_features[row][1:], example["stored_features"])
        np.testing.assert_array_equal(inputs.region_boxes[row], example["region_boxes"])
        np.testing.assert_array_equal(inputs.region_mask[row], example["region_mask"])


# --- names


def tagged(root, split="train", **fields):
    return opened(root, split, annotations="toy_tagged", **fields)


def people(source, index):
    """The names of objects 0 and 2 of an item, taken from its first answer: ``A and C are old .``."""
    first, conjunction, second, *rest = source.texts(index)[1][0].split()
    assert (conjunction, rest) == ("and", ["are", "old", "."])
    return first, second


def test_tags_become_names_and_classes_alike_in_every_text_of_an_item(root):
    source = tagged(root, passes="both")
    first, second = people(source, 0)
    assert first != second
    assert {first, second} <= set(NAMES)
    assert source.texts(0) == (
        [f"Why is {first} petting dog ?"],
        [f"{first} and {second} are old .", "dog is red", second, "a kite"],
    )
    query, reasons = source.texts(3)  # of the same item
    assert query == [f"Why is {first} petting dog ?", f"{first} and {second} are old ."]
    assert reasons == [f"{second} is new", first, "it", f"dog and {first}"]


def test_names_are_the_same_whoever_asks_when_and_in_which_order(root):
    source, turned = tagged(root), tagged(root, "turned")
    assert people(source, 0) == people(tagged(root), 0) == people(turned, 1)
    assert people(source, 1) == people(turned, 0)
    assert people(source, 0) != people(source, 1)
    examples = [source.example(0, np.random.default_rng(seed)) for seed in (1, 2)]
    assert all(np.array_equal(examples[0][name], examples[1][name]) for name in examples[0])


def test_another_seed_gives_other_names(root):
    assert len({people(tagged(root, seed=seed), 0) for seed in range(6)}) > 3


def test_all_persons_have_names_of_their_own_while_there_are_names(root, tmp_path):
    source = tagged(root)  # item 2 has 61 persons
    spell = source._speller(source.examples.rows[2])
    called = [spell(json.dumps([[k]])) for k in range(61)]
    assert sorted(called[: len(NAMES)]) == sorted(NAMES)
    assert called[len(NAMES) :] == called[: 61 - len(NAMES)]
    assert called[: len(NAMES)] != list(NAMES)
    (tmp_path / "names.csv").write_text("name\nKim\nJo\n")
    assert set(people(tagged(root, names=tmp_path / "names.csv"), 0)) == {"Kim", "Jo"}


def test_plain_texts_are_read_as_they_are(root):
    assert opened(root).texts(0) == (["what is it ?"], ["a kite", "red", "blue", "a lake"])


# --- loss and predictions


def test_the_loss_is_the_cross_entropy_over_the_four_pairs_of_an_example(root):
    logits = np.array([1.0, 2, 3, 4, 0, 0, 0, 0, 5, 1, 1, 1, 9, 0, 0, 0], np.float32)
    labels = np.array([2, 1, -1, 0], np.int32)
    batch = {"labels": jnp.asarray(labels), "example_mask": jnp.asarray([True, True, True, False])}
    total = make_task(root).loss({"choice": jnp.asarray(logits)}, batch)
    first = math.log(sum(math.exp(x) for x in (1, 2, 3, 4))) - 3
    assert float(total.sum) == pytest.approx(first + math.log(4), rel=1e-6)
    assert float(total.weight) == 2  # one has no label, one is no example


def test_predictions_are_shares_of_the_four_choices(root):
    found = make_task(root).predict({"choice": jnp.log(jnp.asarray([1.0, 2, 3, 4, 4, 3, 2, 1]))}, {})
    np.testing.assert_allclose(found["shares"], [[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]], rtol=1e-6)


# --- scores


@pytest.mark.parametrize(
    ("passes", "best", "rows", "metrics"),
    [
        ("answer", (0, 1), [1, 0], {"answer_accuracy": 50}),
        ("rationale", (3, 1), [1, 1], {"rationale_accuracy": 100}),
        # the first item has the right answer alone, the second the right reason alone
        ("both", (0, 1, 2, 1), [1, 0, 0, 1], {"answer_accuracy": 50, "rationale_accuracy": 50, "joint_accuracy": 0}),
        ("both", (0, 1, 3, 0), [1, 0, 1, 0], {"answer_accuracy": 50, "rationale_accuracy": 50, "joint_accuracy": 50}),
        ("both", (0, 2, 3, 1), [1] * 4, {"answer_accuracy": 100, "rationale_accuracy": 100, "joint_accuracy": 100}),
    ],
)
def test_scores_are_the_three_accuracies(root, passes, best, rows, metrics):
    task = make_task(root, passes=passes)
    scored = task.score(task.open("train", training=False), shares(*best))
    assert scored.rows.tolist() == rows
    assert scored.metrics == metrics
    assert task.metric in metrics


def test_answers_of_another_evaluation_complete_the_reasons(root, tmp_path):
    path = tmp_path / "predictions.json"
    answers = make_task(root)
    entries = answers.submission(answers.open("train", training=False), shares(0, 1))
    path.write_text(json.dumps(entries[::-1]))  # the order of the file does not matter
    task = make_task(root, passes="rationale", answer_predictions=path)
    source = task.open("train", training=False)
    scored = task.score(source, shares(3, 1))
    assert scored.metrics == {"rationale_accuracy": 100, "joint_accuracy": 50}
    first, second = task.submission(source, shares(3, 1))
    assert first["annot_id"] == "train-0"
    assert first["answer"] == pytest.approx([0.7, 0.1, 0.1, 0.1])
    assert second["answer"] == pytest.approx([0.1, 0.7, 0.1, 0.1])
    assert first["rationale"] == pytest.approx([0.1, 0.1, 0.1, 0.7])


def test_without_labels_there_is_no_score(root):
    task = make_task(root, passes="both")
    assert task.score(task.open("test", training=False), shares(0, 1, 2, 3, 0)) is None


def test_the_submission_has_every_pass_of_an_item_in_one_entry(root):
    task = make_task(root, passes="both")
    labelled = task.submission(task.open("train", training=False), shares(0, 1, 2, 3))
    assert [sorted(entry) for entry in labelled] == [["annot_id", "answer", "rationale"]] * 2
    assert [int(np.argmax(entry[kind])) for kind in ("answer", "rationale") for entry in labelled] == [0, 1, 2, 3]
    (entry,) = task.submission(task.open("test", training=False), shares(3, 0, 1, 2, 3))
    assert json.loads(json.dumps(entry)) == entry
    assert entry.pop("annot_id") == "test-0"
    assert int(np.argmax(entry.pop("answer"))) == 3
    assert {name: int(np.argmax(row)) for name, row in entry.items()} == {
        f"rationale_conditioned_on_a{k}": k for k in range(4)
    }


def test_an_example_is_shown_with_its_choices_best_first(root):
    task = make_task(root, passes="rationale")
    predictions = {"shares": np.array([[0.1, 0.4, 0.3, 0.2], [0.25] * 4])}
    shown = task.show(task.open("train", training=False), 0, predictions)
    assert (shown.image_id, shown.text, shown.truth) == ("kite", "what is it ? - a kite", "it is old")
    assert [(guess.text, guess.right) for guess in shown.guesses] == [
        ("it is", False), ("why", False), ("it is old", True), ("because", False),
    ]  # fmt: skip
    assert task.show(task.open("test", training=False), 0, predictions).truth == ""


# --- what cannot be used


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"passes": "all"}, "passes is 'all'; use one of answer, rationale, both"),
        ({"passes": "answer", "answer_predictions": "x.json"}, "passes is 'answer', which predicts answers itself"),
        ({"passes": "both", "answer_predictions": "x.json"}, "--config.passes=rationale"),
    ],
)
def test_passes_that_cannot_work_are_refused(root, fields, words):
    with pytest.raises(InputError, match=words):
        make_task(root, **fields)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be used"),
        ("{", "cannot be used"),
        ("{}", "lacks 2 of 2 items, first 'train-0': evaluate Q->A on the same split"),
        ('{"annot_id": 1}', "cannot be used"),
        ('[{"annot_id": "train-0"}]', "cannot be used .*give the predictions.json"),
        ('[{"annot_id": "train-0", "answer": [0.5, 0.5]}]', "cannot be used"),
        ('[{"annot_id": "train-0", "answer": "yes"}]', "cannot be used"),
        ('[{"annot_id": "train-0", "answer": [1, 0, 0, 0]}]', "lacks 1 of 2 items, first 'train-1'"),
    ],
)
def test_answers_that_do_not_belong_to_the_split_are_refused(root, tmp_path, content, words):
    path = tmp_path / "predictions.json"
    if content is not None:
        path.write_text(content)
    task = make_task(root, passes="rationale", answer_predictions=path)
    with pytest.raises(InputError, match=words):
        task.score(task.open("train", training=False), shares(3, 1))


def test_annotations_of_another_task_are_refused(root):
    with pytest.raises(InputError, match="'toy_vqa' has no feature 'annot_id'"):
        opened(root, annotations="toy_vqa")

"""What a checkpoint says of its training: kept where its vocabulary is, and what a predictor makes of it."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import toy_checkpoints as toys
import toy_tasks

import vilbert_jax as vj
from vilbert_jax.checkpoints.sources import open_source
from vilbert_jax.checkpoints.trained_for import TrainedFor
from vilbert_jax.data.answers import AnswerLabels
from vilbert_jax.errors import InputError
from vilbert_jax.tasks.grounding import Expressions, Grounding
from vilbert_jax.tasks.retrieval import Retrieval
from vilbert_jax.tasks.task import make_predict_fn, trained_for
from vilbert_jax.tasks.vcr import VCR
from vilbert_jax.tasks.vqa import VQA, Questions

HEADS = ("vqa", "grounding", "choice")
PICTURES = ("kite", "lake", "moon", "tree")
TEXTS = ["is it red ?", "what is a blue lake and why is it ?", "why ?", "a new kite and an old moon"]
READING = {"text_length": 6, "max_regions": 2, "truncation": "cut", "task_token": 2}
GIVEN = {name: READING[name] for name in ("text_length", "max_regions")}  # what a user can say
OTHERS = {"text_length": 12, "max_regions": 100, "task_token": 1}


def data(root, **fields):
    return toy_tasks.examples_config(root, "rows", **{**READING, **fields})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A store, and one model saved several times: for tasks, and without a word on what it is for."""
    root = tmp_path_factory.mktemp("settings")
    toy_tasks.write_vocabulary(root)
    toy_tasks.write_regions(root, "toy_regions", toy_tasks.DETECTED)
    tasks = {
        "vqa": VQA(data=data(root)),
        "grounding": Grounding(data=data(root), whole_image=False),
        "retrieval": Retrieval(data=data(root)),
        "vcr": VCR(data=data(root)),
    }
    for name, task in tasks.items():
        changes = toys.TASK_TOKENS if name in ("vqa", "grounding") else {}
        model, _ = toys.make(HEADS, **changes)
        toys.save(root, name, HEADS, trained_for=trained_for(model.config, task), **changes)
    toys.save(root, "silent", HEADS, **toys.TASK_TOKENS)
    return root


def predictor(root, name, **options):
    return vj.Predictor(root / name, store=root / "toy_regions", **options)


def evaluated(root, kind):
    """What experiments/evaluate.py computes with the settings of the fine-tuning, by name, a row an example."""
    rows = [
        {"image_id": image, "question": text, "sentence": text, "answers": [], "box": [0, 0, 1, 1]}
        for image, text in zip(PICTURES, TEXTS, strict=True)
    ]
    examples = data(root).join(rows, "validation")
    if kind is VQA:
        task, source = VQA(data=data(root)), Questions(examples, AnswerLabels(toy_tasks.ANSWERS))
    else:
        task, source = Grounding(data=data(root), whole_image=False), Expressions(examples, False, False)
    fields = [source.example(k, np.random.default_rng(0)) for k in range(len(rows))]
    batch = {name: np.stack([row[name] for row in fields]) for name in fields[0]}
    model, params = toys.make(HEADS, **toys.TASK_TOKENS)
    predict = make_predict_fn(task, vj.ViLBERTForTasks(model.config, heads=task.heads))
    return jax.device_get(jax.jit(predict)(params, batch))


def shares(answers):
    return [[word.score for word in answer.top] for answer in answers]


# --- the predictor


def test_answers_are_an_evaluations_without_a_word_on_its_settings(root):
    wanted = evaluated(root, VQA)
    found = predictor(root, "vqa").answer([*PICTURES], TEXTS, top_k=9)
    for answer, labels in zip(found, wanted["labels"], strict=True):
        assert [word.text for word in answer.top] == [toy_tasks.ANSWERS[k] for k in labels]
    np.testing.assert_allclose(shares(found), wanted["shares"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("missing", ["text_length", "max_regions", "task_token"])
def test_each_of_the_settings_matters(root, missing):
    """A file that states none, told all but one."""
    given = {name: READING[name] for name in ("text_length", "max_regions", "task_token") if name != missing}
    given.setdefault("task_token", 1)
    told = predictor(root, "silent", **given).answer([*PICTURES], TEXTS, top_k=9)
    wanted = predictor(root, "vqa").answer([*PICTURES], TEXTS, top_k=9)
    assert np.abs(np.sort(shares(told)) - np.sort(shares(wanted))).max() > 1e-3


def test_how_a_long_text_is_cut_matters(root):
    """Told all that can be told; a file that states nothing keeps the [SEP]."""
    told, recorded = predictor(root, "silent", **GIVEN, task_token=2), predictor(root, "vqa")
    fits = [len(text.split()) + 2 <= READING["text_length"] for text in TEXTS]
    same = [one == other for one, other in zip(*(p.answer([*PICTURES], TEXTS) for p in (told, recorded)), strict=True)]
    assert same == fits == [True, False, True, False]


def test_boxes_are_an_evaluations_without_a_word_on_its_settings(root):
    wanted = evaluated(root, Grounding)
    found = predictor(root, "grounding").ground([*PICTURES], TEXTS)
    assert [box.region for box in found] == wanted["region"].tolist()
    np.testing.assert_allclose([box.score for box in found], wanted["share"], rtol=1e-4, atol=1e-5)
    assert all(candidate.region for box in found for candidate in box.candidates)


def test_what_is_given_goes_before_what_is_recorded(root):
    given, silent = (predictor(root, name, **OTHERS) for name in ("grounding", "silent"))
    found = given.ground([*PICTURES], "a tree", whole_image=True)
    assert found == silent.ground([*PICTURES], "a tree")
    assert found != given.ground([*PICTURES], "a tree")
    of_call = predictor(root, "vqa").answer([*PICTURES], "why ?", task_token=1)
    assert of_call == predictor(root, "silent", **GIVEN, task_token=1).answer([*PICTURES], "why ?")


def test_a_checkpoint_that_says_nothing_is_read_as_ever(root):
    silent = predictor(root, "silent", task_token=0)
    spelt_out = predictor(root, "silent", task_token=0, max_regions=100, text_length=silent.config.max_text_length)
    assert silent.answer([*PICTURES], TEXTS) == spelt_out.answer([*PICTURES], TEXTS)
    assert silent.ground([*PICTURES], "a tree") == silent.ground([*PICTURES], "a tree", whole_image=True)
    with pytest.raises(InputError, match="task_token=NUMBER"):
        predictor(root, "silent").answer("tree", "why ?")


def test_a_choice_head_of_vcr_does_not_match_captions(root):
    asked = predictor(root, "vcr")
    with pytest.raises(InputError, match=r"was trained for VCR \(vilbert_jax.tasks.vcr:VCR\).*answer to a question"):
        asked.match("kite", "a kite")
    scores = predictor(root, "retrieval").match([*PICTURES], ["a kite", "moon"])
    toys.save(root, "unknown", HEADS)
    told = predictor(root, "unknown", **GIVEN)
    np.testing.assert_allclose(scores, told.match([*PICTURES], ["a kite", "moon"]), rtol=1e-5)


# --- the record


def test_what_was_saved_is_read_again(root):
    assert open_source(root / "grounding").trained_for == {
        "task": "vilbert_jax.tasks.grounding:Grounding",
        "text_length": 6,
        "truncation": "cut",
        "max_regions": 2,
        "task_token": 2,
        "whole_image": False,
    }
    assert open_source(root / "silent").trained_for is None
    found = TrainedFor.from_json(open_source(root / "vcr").trained_for, "it")
    assert found == TrainedFor(
        task="vilbert_jax.tasks.vcr:VCR", text_length=6, truncation="cut", max_regions=2, task_token=None
    )  # no token: the model has none
    assert TrainedFor.from_json({}, "it") == TrainedFor()


def change_contents(folder, trained_for):
    contents = json.loads((folder / "contents.json").read_text())
    contents["identity"]["trained_for"] = trained_for
    (folder / "contents.json").write_text(json.dumps(contents))


def test_what_this_version_does_not_know_is_refused_where_it_counts(root):
    """Loading the parameters needs none of it."""
    toys.save(root, "newer", ("vqa",))
    change_contents(root / "newer", {"task": "a:B", "mirrored": True, "angle": 3})
    with pytest.raises(InputError, match="newer .*does not know, angle, mirrored; known are task, text_length"):
        predictor(root, "newer")
    vj.load_pretrained(root / "newer")


@pytest.mark.parametrize(
    ("name", "value"),
    [("task", 3), ("text_length", 2), ("text_length", "30"), ("truncation", "none"), ("max_regions", 0),
     ("max_regions", True), ("task_token", -1), ("whole_image", 1)],
)  # fmt: skip
def test_damaged_records_are_refused(name, value):
    with pytest.raises(InputError, match=f"what that file says of its training is damaged, {name} is {value!r}"):
        TrainedFor.from_json({name: value}, "that file")


def test_a_length_that_the_model_does_not_have_is_refused(root):
    toys.save(root, "too_long", ("vqa",), trained_for=TrainedFor(text_length=9999))
    with pytest.raises(InputError, match="text_length is 9999; the model reads 3 to"):
        predictor(root, "too_long")
    predictor(root, "too_long", text_length=8)


def test_boxes_by_another_rule_are_said(root, caplog):
    """They are no reason to refuse: fine-tuning on other boxes than pre-training is the paper's own recipe."""
    predictor(root, "retrieval")
    assert not caplog.messages
    other = dataclasses.replace(toy_tasks.CONTRACT, selection_rule="the best 7")
    toys.save(root, "other_rule", ("vqa",), contract=other)
    predictor(root, "other_rule")
    (message,) = caplog.messages
    assert "was trained on boxes by the rule 'the best 7', the region store" in message
    assert f"gives {toy_tasks.CONTRACT.selection_rule!r}" in message


def test_it_is_said_that_a_file_does_not_know_its_features(root, caplog):
    toys.save(root, "silent_on_features", ("vqa",), contract=None)
    predictor(root, "silent_on_features")
    (message,) = caplog.messages
    assert "silent_on_features does not say which features it was trained on: if the region store" in message

"""A checkpoint and the data it meets: answers, vocabulary and features agree, or one message says what does not."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_weights
from tiny_weights import CONFIG, CONTRACT, nested, random_params

import vilbert_jax as vj
from vilbert_jax.checkpoints.agreement import check_data, check_outputs, outputs_of
from vilbert_jax.checkpoints.conversion import PRETRAINING_HEADS, make_model
from vilbert_jax.checkpoints.exporting import export_released
from vilbert_jax.checkpoints.pretrained import InitConfig, prepare_init, starting_point
from vilbert_jax.checkpoints.sources import open_source
from vilbert_jax.data.feature_contract import NOT_READ_BY_TASKS
from vilbert_jax.data.text import load_tokenizer
from vilbert_jax.errors import InputError
from vilbert_jax.paths import named_leaves

ANSWERS = tuple(f"answer {k}" for k in range(CONFIG.num_vqa_answers))
TURNED = (ANSWERS[1], ANSWERS[0], *ANSWERS[2:])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints with a list of answers, without one, of pre-training, and a released file."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tokenizer = load_tokenizer(tiny_weights.write_vocabulary(folder / "vocab.txt"))
    model, facts = make_model(CONFIG, ("vqa", "choice")), {"tokenizer": tokenizer, "contract": CONTRACT}
    params = random_params(model)
    vj.save_pretrained(folder / "listed", model, nested(params), outputs={"vqa": ANSWERS}, **facts)
    vj.save_pretrained(folder / "silent", model, nested(params))
    pretraining = make_model(CONFIG, PRETRAINING_HEADS)
    vj.save_pretrained(folder / "pretrained", pretraining, nested(random_params(pretraining)), **facts)
    export_released(folder / "released.safetensors", CONFIG, ("vqa", "choice"), params)
    tiny_weights.write_bert(folder / "bert")
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder / "vocab.txt")


# --- what the outputs of a head mean


def test_a_checkpoint_says_what_its_outputs_mean(folder):
    assert outputs_of(folder / "listed", "vqa") == ANSWERS
    assert open_source(folder / "listed").outputs == {"vqa": list(ANSWERS)}
    assert open_source(folder / "silent").outputs == {}
    for name, head in (("silent", "vqa"), ("listed", "gqa"), (".", "vqa"), ("released.safetensors", "vqa")):
        with pytest.raises(InputError, match=f"does not say what the outputs of a {head} head are"):
            outputs_of(folder / name, head)


@pytest.mark.parametrize(
    ("name", "loaded", "answers", "stated"),
    [
        ("listed", ["vqa", "choice"], ANSWERS, False),
        ("listed", ["choice"], TURNED, False),  # the head that differs is not loaded
        ("listed", [], TURNED, False),
        ("silent", ["vqa"], ANSWERS, True),  # the user says that this list belongs to it
        ("released.safetensors", ["vqa"], ANSWERS, True),
    ],
)
def test_outputs_that_agree_are_accepted(folder, name, loaded, answers, stated):
    check_outputs(open_source(folder / name), loaded, {"vqa": answers}, stated=stated)


@pytest.mark.parametrize(
    ("name", "answers", "stated", "words"),
    [
        ("listed", TURNED, False, ["11 answers, the data 11", "the first at output 0: 'answer 0', here 'answer 1'"]),
        ("listed", TURNED, True, ["--config.answer_labels=", "--config.fresh_heads=vqa"]),
        ("listed", ANSWERS[:9], False, ["11 answers, the data 9", "not the same"]),
        ("silent", ANSWERS, False, ["does not say which answer", "--config.answer_labels=FILE", "fresh_heads=vqa"]),
        ("released.safetensors", ANSWERS, False, ["does not say which answer"]),
        ("released.safetensors", ANSWERS[:9], True, ["11", "9"]),
        ("silent", (*ANSWERS, "more"), True, ["11", "12"]),
    ],
)
def test_outputs_that_differ_or_are_unknown_are_refused(folder, name, answers, stated, words):
    with pytest.raises(InputError) as error:
        check_outputs(open_source(folder / name), ["vqa"], {"vqa": answers}, stated=stated)
    for word in (*words, str(folder / name)):
        assert word in str(error.value)


# --- vocabulary and features


def test_vocabulary_and_features_must_be_those_of_the_checkpoint(folder, tokenizer, tmp_path):
    source = open_source(folder / "listed")
    check_data(source, tokenizer=tokenizer, contract=CONTRACT, allow_other_features=False)
    other = load_tokenizer(tiny_weights.write_vocabulary(tmp_path / "vocab.txt", words="zyxwvutsrqponmlkjihgfedcba"))
    with pytest.raises(InputError, match="another vocabulary .*--config.vocab=.*tokenizer.json"):
        check_data(source, tokenizer=other, contract=CONTRACT, allow_other_features=True)
    contract = dataclasses.replace(CONTRACT, layer="fc6")
    with pytest.raises(InputError, match="layer: 'fc6' here, 'c' there"):
        check_data(source, tokenizer=tokenizer, contract=contract, allow_other_features=False)
    check_data(source, tokenizer=tokenizer, contract=contract, allow_other_features=True)
    check_data(open_source(folder / "silent"), tokenizer=other, contract=contract, allow_other_features=False)


def test_for_tasks_boxes_may_be_chosen_otherwise_and_have_no_classes(folder, tokenizer):
    source = open_source(folder / "listed")
    unread = {"selection_rule": "more of them", "background": "absent", "num_classes": 0, "class_names": ()}
    contract, facts = dataclasses.replace(CONTRACT, **unread), {"tokenizer": tokenizer, "allow_other_features": False}
    check_data(source, contract=contract, ignoring=NOT_READ_BY_TASKS, **facts)
    with pytest.raises(InputError, match="selection_rule: 'more of them' here"):
        check_data(source, contract=contract, **facts)
    other = dataclasses.replace(contract, weights_hash="other")
    with pytest.raises(InputError, match="weights_hash: 'other' here") as error:
        check_data(source, contract=other, ignoring=NOT_READ_BY_TASKS, **facts)
    assert "selection_rule" not in str(error.value)


# --- where fine-tuning starts


def start(folder, name, heads, outputs, recipe=CONFIG, **fields):
    config = InitConfig(init_from=str(folder / name) if name else "", **fields)
    config, model, opened = starting_point(config, recipe, heads, outputs, folder / "a new run")
    assert (opened.origin if opened else "") == config.init_from
    return config, model


def test_a_start_at_random_takes_the_recipes_model_and_the_datas_answers(folder):
    config, model = start(folder, "", ("vqa",), {"vqa": ANSWERS[:5]})
    assert config == InitConfig()
    assert model == dataclasses.replace(CONFIG, num_vqa_answers=5)


def test_a_vilbert_brings_its_own_model_and_what_it_lacks_starts_fresh(folder):
    recipe = dataclasses.replace(CONFIG, initializer_range=0.5, vocab_size=99)
    config, model = start(folder, "pretrained", ("vqa",), {"vqa": ANSWERS[:5]}, recipe)
    assert config.fresh_heads == "vqa"
    assert model == dataclasses.replace(CONFIG, num_vqa_answers=5)
    config, model = start(folder, "listed", ("vqa", "grounding"), {"vqa": ANSWERS})
    assert config.fresh_heads == "grounding"
    assert model == CONFIG
    config, _ = start(folder, "listed", ("vqa",), {"vqa": ANSWERS}, fresh_heads="vqa")
    assert config.fresh_heads == "vqa"


def test_a_bert_leaves_the_model_to_the_recipe(folder):
    config, model = start(folder, "bert", ("grounding",), {})
    assert config.fresh_heads == ""
    assert model == CONFIG


def initial(folder, tokenizer, tmp_path, name, heads, outputs, **fields):
    """The parameters that a run on these data starts from; fresh ones are all 7."""
    config, model_config = start(folder, name, heads, outputs, **fields)
    model = vj.ViLBERTForTasks(model_config, heads)
    initialise = prepare_init(config, model, tmp_path / "run", tokenizer=tokenizer, contract=CONTRACT, outputs=outputs)
    fresh = {path: jnp.full(x.shape, 7.0) for path, x in random_params(model).items()}
    return {path: np.asarray(x) for path, x in named_leaves(initialise(nested(fresh)).params).items()}


def test_a_head_with_the_same_answers_is_loaded_one_of_pretraining_starts_fresh(folder, tokenizer, tmp_path):
    found = initial(folder, tokenizer, tmp_path, "listed", ("vqa",), {"vqa": ANSWERS})
    expected = random_params(make_model(CONFIG, ("vqa", "choice")))
    assert all(np.array_equal(x, expected[path]) for path, x in found.items())
    found = initial(folder, tokenizer, tmp_path, "pretrained", ("vqa",), {"vqa": ANSWERS[:5]})
    expected = random_params(make_model(CONFIG, PRETRAINING_HEADS))
    for path, values in found.items():
        if path.startswith("vqa_head/"):
            assert (values == 7).all(), path
        else:
            np.testing.assert_array_equal(values, expected[path], err_msg=path)
    assert found["vqa_head/logits/bias"].shape == (5,)


@pytest.mark.parametrize("answers", [TURNED, ANSWERS[:9]], ids=["other order", "fewer"])
def test_a_head_with_other_answers_is_refused_until_it_starts_fresh(folder, tokenizer, tmp_path, answers):
    with pytest.raises(InputError, match=f"has 11 answers, the data {len(answers)}.*--config.fresh_heads=vqa"):
        initial(folder, tokenizer, tmp_path, "listed", ("vqa",), {"vqa": answers})
    found = initial(folder, tokenizer, tmp_path, "listed", ("vqa",), {"vqa": answers}, fresh_heads="vqa")
    assert (found["vqa_head/logits/bias"] == 7).all()
    assert not (found["trunk/text_pooler/kernel"] == 7).any()

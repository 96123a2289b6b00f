"""What a predictor refuses, and what it says: heads, features, vocabularies and answers that do not belong together."""

import dataclasses
import json

import numpy as np
import pytest
import toy_checkpoints as toys
import toy_tasks
from test_predictor_regions import FakeExtractor

import vilbert_jax as vj
from vilbert_jax.checkpoints.exporting import export_released
from vilbert_jax.data.text import load_tokenizer
from vilbert_jax.errors import InputError
from vilbert_jax.paths import named_leaves

HEADS = ("vqa", "choice", "grounding", "tokens", "alignment")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A store, and models of several heads."""
    root = tmp_path_factory.mktemp("refusals")
    toy_tasks.write_vocabulary(root)
    toy_tasks.write_regions(root, "toy_regions", toy_tasks.DETECTED)
    toys.save(root, "two", HEADS)
    toys.save(root, "tasks", ("vqa",), **toys.TASK_TOKENS)
    toys.save(root, "grounder", ("grounding",))
    toys.save(root, "aligned", ("alignment", "tokens"))
    return root


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda p: p.answer("kite", "why ?"), r"cannot answer questions.*head vqa or gqa.*it has grounding.*vqa.py"),
        (lambda p: p.match("kite", "why ?"), r"head choice or alignment.*it has grounding.*flickr30k.py.*pre-train"),
        (lambda p: p.fill("kite", "a [MASK]"), r"cannot fill a blank.*head tokens.*it has grounding.*pre-train"),
    ],
)
def test_a_missing_head_says_which_there_are_and_what_makes_one(root, ask, message):
    with pytest.raises(InputError, match=message):
        ask(vj.Predictor(root / "grounder", store=root / "toy_regions"))
    with pytest.raises(InputError, match=r"head grounding.*it has alignment, tokens.*refcoco_plus.py"):
        vj.Predictor(root / "aligned").ground("kite", "a kite")


OTHER = dataclasses.replace(toy_tasks.CONTRACT, colour_order="bgr", weights_hash="xyz", selection_rule="10 boxes")


def test_a_detector_that_the_checkpoint_was_not_trained_with_is_refused(root):
    with pytest.raises(InputError, match="(?s)other region features.*colour_order: 'bgr' here, 'rgb' there") as error:
        vj.Predictor(root / "two", FakeExtractor(contract=OTHER))
    assert "weights_hash: 'xyz' here, 'abc' there" in str(error.value)
    assert "selection_rule" not in str(error.value)  # which boxes there are is no matter of their features
    assert "or allow_other_features to go on regardless" in str(error.value)
    vj.Predictor(root / "two", FakeExtractor(contract=OTHER), allow_other_features=True)
    vj.Predictor(root / "two", FakeExtractor(contract=dataclasses.replace(toy_tasks.CONTRACT, selection_rule="all")))


def test_a_store_that_the_checkpoint_was_not_trained_with_is_refused(root):
    toy_tasks.write_regions(root, "other_regions", toy_tasks.DETECTED, contract=OTHER)
    with pytest.raises(InputError, match="(?s)other_regions.*weights_hash"):
        vj.Predictor(root / "two", store=root / "other_regions")
    vj.Predictor(root / "two", store=root / "other_regions", allow_other_features=True)


def test_features_of_another_width_are_always_refused(root):
    wide = dataclasses.replace(toy_tasks.CONTRACT, feature_dim=2048)
    with pytest.raises(InputError, match="the detector gives 2048 features a region.*reads 4"):
        vj.Predictor(root / "two", FakeExtractor(contract=wide), allow_other_features=True)


def test_task_tokens_must_be_named_and_exist(root):
    unnamed = vj.Predictor(root / "tasks", store=root / "toy_regions")
    with pytest.raises(InputError, match=r"has 4 of them.*task_token=NUMBER"):
        unnamed.answer("kite", "why ?")
    with pytest.raises(InputError, match="task_token is 4, but .* has task tokens 0 to 3"):
        unnamed.answer("kite", "why ?", task_token=4)
    with pytest.raises(InputError, match="task_token is 1, but .* has no task tokens"):
        vj.Predictor(root / "two", task_token=1)


@pytest.mark.parametrize("wrong", ["3", 1.5, True, float("nan")])
@pytest.mark.parametrize(
    ("name", "least"),
    [("max_regions", 1), ("batch_size", 1), ("cache_size", 0), ("text_length", 3), ("task_token", 0)],
)
def test_sizes_must_be_possible_whole_numbers(root, name, least, wrong):
    for value in (wrong, least - 1):
        with pytest.raises(InputError, match=f"{name} is {value!r}; it must be a whole number, at least {least}"):
            vj.Predictor(root / "two", **{name: value})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"checkpoint": None}, "checkpoint is given as NoneType: give a path"),
        ({"detector": 5}, "detector is given as int: give a path or a Detector or a RegionExtractor"),
        ({"store": 5}, "store is given as int: give a path or a RegionStore"),
        ({"vocab": b"vocab.txt"}, "vocab is given as bytes: give a path"),
        ({"answer_labels": ["yes", "no"]}, "answer_labels is given as list: give a path"),
        ({"allow_other_features": "no"}, "allow_other_features is 'no'; it must be True or False"),
        ({"batch_size": None}, "batch_size is None; it must be a whole number"),
    ],
)
def test_things_of_another_kind_are_refused_by_name(root, given, message):
    with pytest.raises(InputError, match=message):
        vj.Predictor(**({"checkpoint": root / "two"} | given))


@pytest.fixture(scope="module")
def two(root):
    return vj.Predictor(root / "two", store=root / "toy_regions")


ASKS = {
    "answer": lambda p, image, text: p.answer(image, text),
    "ground": lambda p, image, text: p.ground(image, text),
    "match": lambda p, image, text: p.match(image, text),
    "fill": lambda p, image, text: p.fill(image, text),
    "attention": lambda p, image, text: p.attention(image, text),
    "embed": lambda p, image, text: p.embed(image=image, text=text),
}


@pytest.mark.parametrize("ask", ASKS)
def test_no_picture_and_no_text_stand_for_nothing_blank(root, two, ask):
    """Only ``embed`` reads one side alone; an empty list is no reason to pass over what goes with it."""
    text, call = "a [MASK]", ASKS[ask]
    pictures = [["kite", None], [None], 3, {"kite": 1}, [["kite"]]] + [None] * (ask != "embed")
    for image in pictures:
        with pytest.raises(InputError, match="a picture is given as (NoneType|int|dict|list): give a path"):
            call(two, image, text)
    texts = [[text, None], [None], 3, {text: 1}, [[text]]] + [None] * (ask != "embed")
    for wrong in texts:
        with pytest.raises(InputError, match="a text is given as (NoneType|int|dict|list): give str"):
            call(two, ["kite"] * len(wrong) if isinstance(wrong, list) else "kite", wrong)
    with pytest.raises(InputError, match="a picture is given as NoneType"):
        call(vj.Predictor(root / "two"), [None], text)  # where there is no detector, either


@pytest.mark.parametrize("top_k", [0, -1, "3", 2.5, None, True])
def test_top_k_is_a_count(two, top_k):
    for ask in (two.answer, two.fill):
        with pytest.raises(InputError, match=f"top_k is {top_k!r}; it must be a whole number, at least 1"):
            ask("kite", "a [MASK]", top_k=top_k)
    assert two.answer("kite", "why ?", top_k=np.int64(2)) == two.answer("kite", "why ?", top_k=2)


def test_a_call_checks_its_settings(root, two):
    with pytest.raises(InputError, match="whole_image is 'no'; it must be True or False"):
        two.ground("kite", "a kite", whole_image="no")
    for token in ("1", 1.5, True):
        with pytest.raises(InputError, match=f"task_token is {token!r}; it must be a whole number"):
            vj.Predictor(root / "tasks", store=root / "toy_regions").answer("kite", "why ?", task_token=token)


def test_an_id_that_is_no_utf8_is_in_no_store(root, two):
    assert "kite\udcff" not in vj.RegionStore(root / "toy_regions")
    with pytest.raises(InputError, match=r"'a\\udcff.png' is no image of the region store"):
        two.answer("a\udcff.png", "why ?")


def test_results_that_are_not_numbers_are_refused(root):
    model, broken = toys.make(("vqa",))
    broken["vqa_head"]["logits"]["bias"][0] = np.nan
    tokenizer, contract = load_tokenizer(root / "vocab.txt"), toy_tasks.CONTRACT
    vj.save_pretrained(
        root / "broken", model, broken, tokenizer=tokenizer, contract=contract, outputs={"vqa": toy_tasks.ANSWERS}
    )
    with pytest.raises(InputError, match="NaN or infinity"):
        vj.Predictor(root / "broken", store=root / "toy_regions").answer("kite", "why ?")


# --- released files


@pytest.fixture(scope="module")
def released(root):
    """A file without vocabulary and list of answers; with the parameters of a model of all its heads."""
    heads = ("vqa", "choice", "grounding", "tokens", "regions", "alignment")
    model, params = toys.make(heads)
    export_released(root / "released.safetensors", model.config, heads, named_leaves(params))
    return root / "released.safetensors"


def test_a_released_file_needs_its_vocabulary_and_its_answers(root, released):
    with pytest.raises(InputError, match="without its vocabulary.*vocab=.*bert-base-uncased"):
        vj.Predictor(released)
    given = {"store": root / "toy_regions", "vocab": root / "vocab.txt"}
    with pytest.raises(InputError, match="does not say which answer.*answer_labels=FILE"):
        vj.Predictor(released, **given).answer("kite", "why ?")
    labels = root / "labels.json"
    labels.write_text(json.dumps(["1", "2", "3", "4", "5"]))
    answer = vj.Predictor(released, answer_labels=labels, **given).answer("kite", "why ?", top_k=9)
    assert sorted(word.text for word in answer.top) == ["1", "2", "3", "4", "5"]
    # A checkpoint of this project, too, is a list of answers.
    assert vj.Predictor(released, answer_labels=root / "two", **given).answer("kite", "why ?").text in toy_tasks.ANSWERS
    labels.write_text(json.dumps(["1", "2", "3"]))
    with pytest.raises(InputError, match="has 5 answers, the list .* 3"):
        vj.Predictor(released, answer_labels=labels, **given)


def test_what_a_checkpoint_says_of_itself_cannot_be_overruled(root):
    labels = root / "turned.json"
    labels.write_text(json.dumps(toy_tasks.ANSWERS[::-1]))
    with pytest.raises(InputError, match="says which answers its vqa head gives"):
        vj.Predictor(root / "two", answer_labels=labels)
    with pytest.raises(InputError, match="no head that answers"):
        vj.Predictor(root / "grounder", answer_labels=labels)
    other = root / "other.txt"
    words = (root / "vocab.txt").read_text().split()
    other.write_text("\n".join([*words[:5], *reversed(words[5:])]) + "\n")
    with pytest.raises(InputError, match="another vocabulary"):
        vj.Predictor(root / "two", vocab=other)
    vj.Predictor(root / "two", vocab=root / "vocab.txt")


def test_a_detector_and_a_store_must_agree_where_the_file_says_nothing(root, released):
    given = {"store": root / "toy_regions", "vocab": root / "vocab.txt"}
    with pytest.raises(InputError, match="(?s)the detector gives.*toy_regions.*weights_hash: 'xyz' here, 'abc' there"):
        vj.Predictor(released, FakeExtractor(contract=OTHER), **given)
    vj.Predictor(released, FakeExtractor(contract=toy_tasks.CONTRACT), **given)

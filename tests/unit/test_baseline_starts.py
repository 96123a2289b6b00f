"""Where a single-stream model starts: a BERT of any depth, its own kind, and one error for the other kind."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_weights import (
    CONFIG,
    CONTRACT,
    ONE_STREAM,
    changed,
    nested,
    random_params,
    released_state_dict,
    write_bert,
    write_vocabulary,
)

import vilbert_jax as vj
from vilbert_jax.checkpoints import folder as checkpoint_folder
from vilbert_jax.checkpoints import pretrained
from vilbert_jax.checkpoints.conversion import PRETRAINING_HEADS, abstract_params, make_model, to_source
from vilbert_jax.checkpoints.exporting import export_bert
from vilbert_jax.checkpoints.hf_bert import bert_config, bert_table, in_bert, parts_in
from vilbert_jax.checkpoints.plan import make_plan, summary
from vilbert_jax.checkpoints.pretrained import InitConfig, prepare_init, starting_point
from vilbert_jax.checkpoints.sources import open_source
from vilbert_jax.checkpoints.tensor_files import open_tensors, write_safetensors
from vilbert_jax.data.text import load_tokenizer
from vilbert_jax.errors import InputError
from vilbert_jax.evaluation import checkpoint
from vilbert_jax.model import HEADS, init_params
from vilbert_jax.paths import named_leaves
from vilbert_jax.released_config import to_released

SMALL = changed(ONE_STREAM, text_num_layers=1)  # where something is initialised, which has to be compiled
MODEL = vj.ViLBERTForPretraining(ONE_STREAM)
PARTS = ("tokens", "pooler", "alignment")


def state_dict(config=ONE_STREAM, parts=PARTS, seed=0):
    """What ``BertForPreTraining`` with a model's numbers would save, or a BERT with some of its parts."""
    params = random_params(vj.ViLBERTForPretraining(config), seed)
    return to_source({path: x for path, x in params.items() if in_bert(path, 1)}, bert_table(config, parts))


def bert(folder, config=ONE_STREAM, parts=PARTS):
    return write_bert(folder, state_dict(config, parts), **bert_config(config, parts))


def refusal(source, **options):
    with pytest.raises(InputError) as error:
        vj.load_pretrained(source, **options)
    return str(error.value)


def initialised(model, seed=0):
    return named_leaves(jax.jit(init_params, static_argnums=0)(model, jax.random.key(seed)))


def assert_same(params, expected):
    params = named_leaves(params)
    assert params.keys() == expected.keys()
    for path, array in params.items():
        np.testing.assert_array_equal(np.asarray(array), np.asarray(expected[path]), err_msg=path)


def origins(table):
    """Part of the model -> where the printed table says that it comes from, without the source's name."""
    return {line.split("  ")[1]: line.split("  ")[-1].split(" ")[0] for line in table.split("\n")}


def table_of(source, model, fresh=()):
    source = open_source(source).for_model(model.config)
    return origins(summary(make_plan(source, model, fresh), abstract_params(model), "BERT"))


# --- from a BERT


def test_a_bert_gives_its_layers_its_pooler_and_both_heads(tmp_path):
    model = vj.ViLBERTForPretraining(SMALL)
    loaded, params = vj.load_pretrained(bert(tmp_path / "bert", SMALL), config=SMALL, seed=3)
    assert loaded == model
    source, fresh = random_params(model), initialised(model, seed=3)
    assert_same(params, {path: (source if in_bert(path, 1) else fresh)[path] for path in source})
    assert {path.rpartition("/")[0] for path in source if not in_bert(path, 1)} == {
        "trunk/region_embeddings/features", "trunk/region_embeddings/boxes", "trunk/region_embeddings/norm",
        "trunk/region_embeddings/token_type_embeddings", "region_head/transform", "region_head/transform_norm",
        "region_head/logits",
    }  # fmt: skip


def test_the_table_names_the_parts(tmp_path):
    assert table_of(bert(tmp_path), MODEL) == {
        "text embeddings": "from", "joint layers": "from", "pooler": "from", "alignment head": "from",
        "token head": "from", "region embeddings": "fresh", "region head": "fresh",
    }  # fmt: skip


@pytest.mark.parametrize("parts", [("tokens",), ("tokens", "pooler"), ("tokens", "alignment")])
def test_pooler_and_next_sentence_head_start_fresh_where_the_bert_has_none(tmp_path, parts):
    table = table_of(bert(tmp_path, parts=parts), MODEL)
    assert table["pooler"] == ("from" if "pooler" in parts else "fresh")
    assert table["alignment head"] == ("from" if "alignment" in parts else "fresh")
    assert table["joint layers"] == table["token head"] == "from"


def test_half_a_pooler_is_refused(tmp_path):
    tensors = state_dict()
    del tensors["bert.pooler.dense.bias"]
    folder = write_bert(tmp_path, tensors)
    assert open_source(folder).kind == "BERT"  # two streams do not read it
    assert "missing: bert.pooler.dense.bias" in refusal(folder, config=ONE_STREAM)


def test_the_word_head_must_be_there_or_named_as_fresh(tmp_path):
    folder = bert(tmp_path, parts=("pooler",))
    message = refusal(folder, config=ONE_STREAM)
    assert "in 5 places" in message
    assert "missing: token_head/bias [23] (to start it at random, name it as fresh: tokens)" in message
    assert table_of(folder, MODEL, fresh=("tokens",))["token head"] == "fresh"


def test_a_head_that_the_bert_has_can_start_fresh(tmp_path):
    assert table_of(bert(tmp_path), MODEL, fresh=("alignment",))["alignment head"] == "fresh"


def test_a_bert_gives_task_models_too(tmp_path):
    model = vj.ViLBERTForTasks(ONE_STREAM, heads=("vqa", "alignment"))
    table = table_of(bert(tmp_path), model)
    assert (table["vqa head"], table["alignment head"], table["pooler"]) == ("fresh", "from", "from")
    assert "token head" not in table


def test_a_deeper_model_takes_the_layers_as_its_first_and_says_so(tmp_path):
    config = changed(SMALL, text_num_layers=3)
    model = vj.ViLBERTForPretraining(config)
    folder = bert(tmp_path, SMALL)
    _, params = vj.load_pretrained(folder, config=config, seed=2)
    source, fresh = random_params(vj.ViLBERTForPretraining(SMALL)), initialised(model, seed=2)
    assert_same(params, {path: source[path] if path in source and in_bert(path, 1) else fresh[path] for path in fresh})
    table = table_of(folder, model)
    assert (table["joint layers 0 to 0"], table["joint layers 1 to 2"]) == ("from", "fresh")
    assert "joint layers" not in table


def test_a_bert_deeper_than_the_model_or_than_two_streams_is_an_error(tmp_path):
    folder = bert(tmp_path)
    message = refusal(folder, config=changed(ONE_STREAM, text_num_layers=2))
    assert "without a place in the model: trunk/encoder/layer_2/attention/key/bias" in message
    assert "missing: trunk/encoder/text_layer_3/attention/key/bias" in refusal(
        folder, config=changed(text_num_layers=4)
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"text_num_heads": 2}, "config: text.num_heads is 3, the model has 2"),
        ({"text_activation": "relu"}, "config: text.activation is gelu, the model has relu"),
        ({"text_width": 15}, "misshaped: trunk/pooler/kernel is [12, 12], the model has [15, 15]"),
        ({"num_token_types": 3}, "misshaped: trunk/text_embeddings/token_type_embeddings/embedding is [2, 12]"),
    ],
)
def test_a_bert_must_fit_the_stream(tmp_path, fields, expected):
    assert expected in refusal(bert(tmp_path), config=changed(ONE_STREAM, **fields))


def test_without_a_config_a_bert_becomes_two_streams(tmp_path):
    source = open_source(bert(tmp_path))
    assert source.config.num_streams == 2
    assert source.heads == ("tokens",)
    one = source.for_model(ONE_STREAM)
    assert one.heads == ("tokens", "alignment")
    assert one.config.text == ONE_STREAM.text
    assert one.assumed == ("2048 features and 1601 classes a region",)
    assert "BERT's next-sentence head" in source.unused
    assert "BERT's next-sentence head" not in one.unused
    assert one.for_model(ONE_STREAM) is one
    assert one.for_model(CONFIG).shapes == source.shapes


# --- to a BERT


@pytest.mark.parametrize(
    ("heads", "architecture"),
    [
        (PRETRAINING_HEADS, "BertForPreTraining"),
        (("vqa", "tokens"), "BertForMaskedLM"),
        (("alignment",), "BertForNextSentencePrediction"),
        (("vqa", "grounding"), "BertModel"),
    ],
)
def test_what_a_bert_has_comes_back_bit_for_bit(tmp_path, heads, architecture):
    params = random_params(make_model(ONE_STREAM, heads))
    export_bert(tmp_path / "bert", ONE_STREAM, dict(params), None)
    assert json.loads((tmp_path / "bert" / "config.json").read_text())["architectures"] == [architecture]
    back = open_source(tmp_path / "bert").for_model(ONE_STREAM)
    assert set(back.heads) == set(heads) & {"tokens", "alignment"}
    expected = {path: array for path, array in params.items() if in_bert(path, 1)}
    assert "trunk/pooler/kernel" in expected
    assert_same(back.read({path: np.empty(shape, np.float32) for path, shape in back.shapes.items()}), expected)


def test_a_bert_goes_through_a_model_unchanged(tmp_path):
    before = bert(tmp_path / "before", SMALL)
    model, params = vj.load_pretrained(before, config=SMALL)
    export_bert(tmp_path / "after", model.config, dict(named_leaves(params)), None)
    first, second = ({n: t.read(()) for n, t in open_tensors(f / "model.safetensors").tensors.items()}
                     for f in (before, tmp_path / "after"))  # fmt: skip
    table = bert_table(SMALL, PARTS)
    assert second.keys() == first.keys() - table.ties.keys()
    assert all(second[name].tobytes() == first[name].tobytes() for name in second)
    assert parts_in(second) == PARTS


# --- of its own kind, and of the other


def test_saved_and_released_models_load_bit_for_bit(tmp_path):
    model = make_model(ONE_STREAM, HEADS)
    params = random_params(model)
    vj.save_pretrained(tmp_path / "saved", model, nested(params))
    loaded, again = vj.load_pretrained(tmp_path / "saved")
    assert loaded == model
    assert_same(again, params)
    write_safetensors(tmp_path / "m.safetensors", released_state_dict(ONE_STREAM))
    (tmp_path / "m.json").write_text(json.dumps(to_released(ONE_STREAM)))
    loaded, again = vj.load_pretrained(tmp_path / "m.safetensors")
    assert isinstance(loaded, vj.ViLBERTForPretraining)
    assert loaded.config.num_streams == 1
    assert_same(again, random_params(MODEL))


def test_fields_that_one_stream_does_not_read_may_differ(tmp_path):
    vj.save_pretrained(tmp_path / "saved", MODEL, nested(random_params(MODEL)))
    config = changed(ONE_STREAM, fusion="sum", regions_num_heads=2, text_co_layers=(0,), region_co_layers=(0,))
    assert vj.load_pretrained(tmp_path / "saved", config=config)[0].config == config
    message = refusal(tmp_path / "saved", config=changed(ONE_STREAM, text_num_heads=2))
    assert "config: text.num_heads is 3, the model has 2" in message


@pytest.fixture
def kinds(tmp_path):
    """A saved pre-trained model of each kind, by number of streams."""
    vocabulary = load_tokenizer(write_vocabulary(tmp_path / "vocab.txt"))
    for config in (CONFIG, ONE_STREAM):
        model = vj.ViLBERTForPretraining(config)
        facts = {"tokenizer": vocabulary, "contract": CONTRACT}
        vj.save_pretrained(tmp_path / str(config.num_streams), model, nested(random_params(model)), **facts)
    return {number: tmp_path / str(number) for number in (1, 2)}


@pytest.mark.parametrize(("theirs", "ours"), [(CONFIG, ONE_STREAM), (ONE_STREAM, CONFIG)], ids=["two", "one"])
def test_one_kind_does_not_start_from_the_other(kinds, tmp_path, theirs, ours):
    source = kinds[theirs.num_streams]
    tokenizer = load_tokenizer(tmp_path / "vocab.txt")
    with pytest.raises(InputError) as error:
        prepare_init(
            InitConfig(init_from=str(source)), vj.ViLBERTForPretraining(ours), tmp_path / "run", tokenizer, CONTRACT
        )
    for message in (str(error.value), refusal(source, config=ours)):
        counts = {1: "one stream", 2: "two streams"}
        assert f"has {counts[theirs.num_streams]}, the model config {counts[ours.num_streams]}" in message
        assert f"--config.model.num_streams={theirs.num_streams}" in message
        assert "\n" not in message


# --- fine-tuning


def start(init_from, recipe, tmp_path, heads=("vqa",)):
    return starting_point(InitConfig(init_from=str(init_from)), recipe, heads, {}, tmp_path / "run")


@pytest.mark.parametrize(("theirs", "recipe"), [(ONE_STREAM, CONFIG), (CONFIG, ONE_STREAM)], ids=["one", "two"])
def test_fine_tuning_takes_the_number_of_streams_from_its_source(kinds, tmp_path, theirs, recipe):
    config, model, opened = start(kinds[theirs.num_streams], recipe, tmp_path)
    assert model == theirs
    assert config.fresh_heads == "vqa"
    assert opened is not None


def test_fine_tuning_from_a_bert_takes_it_from_the_recipe(tmp_path):
    folder = bert(tmp_path / "bert")
    config, model, opened = start(folder, ONE_STREAM, tmp_path)
    assert model == ONE_STREAM
    vocabulary = load_tokenizer(write_vocabulary(tmp_path / "vocab.txt"))
    task_model = vj.ViLBERTForTasks(model, heads=("vqa",))
    initialise = prepare_init(config, task_model, tmp_path / "run", vocabulary, CONTRACT, opened=opened)
    assert initialise is not None
    fresh = {path: jnp.full(leaf.shape, 7.0) for path, leaf in abstract_params(task_model).items()}
    initial = initialise(nested(fresh))
    source = random_params(MODEL)
    assert_same(initial.params, {path: source[path] if in_bert(path, 1) else fresh[path] for path in fresh})
    assert "joint layers" in initial.summary


@pytest.fixture
def checked(monkeypatch):
    """Checkpoint folders whose files were read whole and compared with their checksums, in order."""
    found = []
    monkeypatch.setattr(checkpoint_folder, "find_damage", found.append)  # which returns None: no damage
    return found


def test_fine_tuning_opens_its_source_once(kinds, tmp_path, monkeypatch, checked):
    tokenizer = load_tokenizer(tmp_path / "vocab.txt")
    config, model_config, opened = start(kinds[1], CONFIG, tmp_path)
    model = vj.ViLBERTForTasks(model_config, ("vqa",))
    assert prepare_init(config, model, tmp_path / "run", tokenizer, CONTRACT, opened=opened) is not None
    assert checked == [kinds[1]]
    monkeypatch.setattr(pretrained, "open_source", None)
    assert start("", CONFIG, tmp_path)[2] is None
    assert prepare_init(InitConfig(), model, tmp_path / "run", tokenizer, CONTRACT) is None


def test_an_evaluation_opens_its_checkpoint_once(kinds, tmp_path, monkeypatch, checked):
    monkeypatch.setattr(checkpoint, "check_fit", lambda *_: None)
    data = types.SimpleNamespace(tokenizer=load_tokenizer(tmp_path / "vocab.txt"), contract=CONTRACT)
    task = types.SimpleNamespace(heads=("alignment",))
    how = {"outputs_stated": False, "allow_other_features": False, "dtype": "bfloat16"}
    loaded = checkpoint.load_for(task, str(kinds[1]), data, {}, **how)
    assert checked == [kinds[1]]
    assert (loaded.model.config.dtype, loaded.facts["dtype"]) == ("bfloat16", "bfloat16")  # the checkpoint's is float32
    expected = random_params(MODEL)
    assert_same(loaded.params, {path: expected[path] for path in abstract_params(loaded.model)})

"""load_pretrained and save_pretrained: whole models from any source, on any mesh, or one clear error."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_pretraining
from tiny_weights import (
    CONFIG,
    CONTRACT,
    bert_state_dict,
    changed,
    nested,
    random_params,
    released_state_dict,
    write_bert,
    write_vocabulary,
)

import vilbert_jax as vj
from vilbert_jax.checkpoints import saving, sources
from vilbert_jax.checkpoints.conversion import (
    DECODER,
    PRETRAINING_HEADS,
    fingerprint,
    head_of,
    make_model,
)
from vilbert_jax.checkpoints.folder import read_contents
from vilbert_jax.checkpoints.hf_bert import bert_config, in_bert
from vilbert_jax.checkpoints.pretrained import InitConfig, prepare_init
from vilbert_jax.checkpoints.released import released_table
from vilbert_jax.checkpoints.sources import open_source
from vilbert_jax.checkpoints.tensor_files import TensorFile, open_tensors, write_safetensors
from vilbert_jax.data.text import load_tokenizer
from vilbert_jax.errors import InputError
from vilbert_jax.model import HEADS, init_params
from vilbert_jax.paths import named_leaves
from vilbert_jax.released_config import to_released
from vilbert_jax.sharding import MeshConfig, make_mesh, param_spec, state_shardings
from vilbert_jax.training.checkpointing import Checkpoints
from vilbert_jax.training.state import TrainState

WORD_TABLE = "trunk/text_embeddings/word_embeddings/embedding"
TASK_TABLE = "trunk/text_embeddings/task_embeddings/embedding"
PRETRAINING = vj.ViLBERTForPretraining(CONFIG)
ONE_LAYER = {
    "text_num_layers": 1, "text_co_layers": (0,), "regions_num_layers": 1, "region_co_layers": (0,),
}  # fmt: skip
SMALLER = changed(**ONE_LAYER)  # where something is initialised, which has to be compiled
ROOT = pathlib.Path(vj.__file__).parents[1]


def assert_same(params, expected):
    """Nested or flat parameters, bit for bit."""
    params, expected = named_leaves(params), named_leaves(expected)
    assert params.keys() == expected.keys()
    for path, array in params.items():
        np.testing.assert_array_equal(np.asarray(array), np.asarray(expected[path]), err_msg=path, strict=True)


def refusal(source, **options):
    with pytest.raises(InputError) as error:
        vj.load_pretrained(source, **options)
    return str(error.value)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(write_vocabulary(tmp_path_factory.mktemp("vocabulary") / "vocab.txt"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tokenizer):
    """A saved folder with everything in it, not to be touched."""
    path = tmp_path_factory.mktemp("saved") / "model"
    provenance = {"source": "a file", "files": {"a.bin": "sha256:0"}, "licence": "MIT"}
    vj.save_pretrained(
        path, PRETRAINING, nested(random_params(PRETRAINING)),
        tokenizer=tokenizer, contract=CONTRACT, provenance=provenance,
    )  # fmt: skip
    return path


@pytest.fixture
def released(tmp_path):
    """A released pre-training file with its JSON."""
    return write_released(tmp_path / "released.safetensors")


def write_released(path, config=CONFIG, heads=PRETRAINING_HEADS, seed=0):
    write_safetensors(path, released_state_dict(config, heads, seed))
    path.with_suffix(".json").write_text(json.dumps(to_released(config)))
    return path


def write_run(folder, *steps, identity=None):
    """Checkpoints of a run, with an optimizer's state; parameters of step n are drawn from seed n."""
    model = {"model": CONFIG.to_dict(), "heads": [*PRETRAINING_HEADS], "features": None, "vocabulary": None}
    with Checkpoints(folder / "checkpoints", keep=9, identity=identity or model) as checkpoints:
        for step in steps:
            params = jax.tree.map(jnp.asarray, nested(random_params(PRETRAINING, step)))
            checkpoints.save(step, TrainState(jnp.int32(step), params, {"mu": jax.tree.map(jnp.zeros_like, params)}))
    return folder


# --- from released files


@pytest.mark.parametrize(
    "folder", ["pretrain_a", "pretrain_beta", "pretrain_nce", "pretrain_nocoattention", "tasks_a", "tasks_beta"]
)
def test_golden_folders_load(data_dir, folder):
    model, params = vj.load_pretrained(data_dir / "golden" / folder)
    heads = PRETRAINING_HEADS if folder.startswith("pretrain") else model.heads
    assert isinstance(model, vj.ViLBERTForPretraining) == folder.startswith("pretrain")
    tensors = open_tensors(data_dir / "golden" / folder / "weights.safetensors").tensors
    expected = {
        entry.path: tensors[entry.source].read(()).T if entry.transpose else tensors[entry.source].read(())
        for entry in released_table(model.config, heads).entries
    }
    assert_same(params, nested(expected))
    assert all(isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    assert {head_of(path) for path in expected} == {None, *heads}


def test_a_config_given_as_such_is_that_of_the_file(tmp_path):
    path = write_released(tmp_path / "released.safetensors", changed(text_co_layers=(0, 2)))
    path.with_suffix(".json").unlink()
    config = changed(text_co_layers=(0, 2), fusion="sum")
    model, params = vj.load_pretrained(path, config=config)
    assert model == vj.ViLBERTForPretraining(config)
    assert_same(params, nested(random_params(PRETRAINING)))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_become_float32(tmp_path, released, dtype):
    tensors = {name: tensor.read(()).astype(dtype) for name, tensor in open_tensors(released).tensors.items()}
    write_safetensors(tmp_path / "other.safetensors", tensors)
    _, params = vj.load_pretrained(tmp_path / "other.safetensors", config=CONFIG)
    expected = {path: array.astype(dtype).astype(np.float32) for path, array in random_params(PRETRAINING).items()}
    assert_same(params, nested(expected))


@pytest.mark.parametrize("form", ["safetensors", "zip"])
def test_parameters_outlive_the_file(released, form):
    if form == "zip":  # which is mapped into memory, where JAX would use it as it is
        torch = pytest.importorskip("torch")
        tensors = {name: torch.tensor(tensor.read(())) for name, tensor in open_tensors(released).tensors.items()}
        released = released.with_suffix(".bin")
        torch.save(tensors, released)
    _, params = vj.load_pretrained(released)
    with released.open("r+b") as file:  # in place
        file.write(bytes(released.stat().st_size))
    assert_same(params, nested(random_params(PRETRAINING)))


# --- heads


def test_heads_can_be_chosen(released):
    model, params = vj.load_pretrained(released, heads=("alignment",))
    assert isinstance(model, vj.ViLBERTForTasks)
    assert model.heads == ("alignment",)
    assert params.keys() == {"trunk", "alignment_head"}
    expected = random_params(PRETRAINING)
    assert_same(params, nested({path: expected[path] for path in named_leaves(params)}))


def test_a_head_that_the_source_lacks_must_be_named_as_fresh(released):
    message = refusal(released, config=CONFIG, heads=("vqa", "choice", "tokens"))
    assert "does not fit the model, in 8 places" in message
    assert "missing: vqa_head/logits/kernel [16, 11] (to start it at random, name it as fresh: vqa)" in message
    assert "missing: choice_head/bias [1] (to start it at random, name it as fresh: choice)" in message
    assert "fresh: choice" not in refusal(released, heads=("vqa", "choice", "tokens"), fresh=("choice",))


def initialised(model, seed=0):
    return named_leaves(jax.jit(init_params, static_argnums=0)(model, jax.random.key(seed)))


def test_fresh_heads_are_initialised_and_the_rest_is_loaded(tmp_path):
    path = write_released(tmp_path / "released.safetensors", SMALLER)
    options = {"config": SMALLER, "heads": ("vqa", "choice", "tokens"), "fresh": ("vqa", "choice")}
    model, params = vj.load_pretrained(path, **options)
    flat, source = named_leaves(params), random_params(vj.ViLBERTForPretraining(SMALLER))
    loaded = {path for path in flat if head_of(path) in (None, "tokens")}
    assert_same({path: flat[path] for path in loaded}, {path: source[path] for path in loaded})
    fresh = initialised(model)
    drawn = flat.keys() - loaded
    assert len(drawn) == 8
    assert_same({path: flat[path] for path in drawn}, {path: fresh[path] for path in drawn})
    other = named_leaves(vj.load_pretrained(path, **options, seed=1)[1])
    assert {path for path in flat if not np.array_equal(flat[path], other[path])} == {
        path for path in drawn if path.endswith("kernel")
    }


def test_a_head_that_the_source_has_can_start_fresh(tmp_path):
    path = write_released(tmp_path / "released.safetensors", heads=("vqa", *PRETRAINING_HEADS))
    config = changed(num_vqa_answers=5)
    model, params = vj.load_pretrained(path, config=config, heads=("vqa",), fresh=("vqa",))
    assert model.config.num_vqa_answers == 5
    assert params["vqa_head"]["logits"]["kernel"].shape == (16, 5)
    assert not params["vqa_head"]["logits"]["bias"].any()


def test_answer_heads_that_are_loaded_keep_kind_and_size(tmp_path):
    beta = changed(answer_head="weight_norm")
    path = write_released(tmp_path / "released.safetensors", beta, heads=("vqa", *PRETRAINING_HEADS))
    model, params = vj.load_pretrained(path, config=changed(num_vqa_answers=5))
    assert (model.config.answer_head, model.config.num_vqa_answers) == ("weight_norm", 11)
    assert params["vqa_head"]["logits"]["gain"].shape == ()
    model, _ = vj.load_pretrained(path, config=changed(num_vqa_answers=5), heads=("alignment",))
    assert (model.config.answer_head, model.config.num_vqa_answers) == ("mlp", 5)  # of a head that is not there


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"fresh": ("vqa",)}, "fresh names vqa; this model has the heads tokens, regions, alignment"),
        ({"fresh": ("vcr", "task_tokens")}, "fresh names task_tokens, vcr; this model has the heads"),
        ({"heads": ("vcr",)}, r"unknown ['vcr']; choose from vqa"),
        ({"heads": ()}, "heads []"),
    ],
)
def test_unknown_names_are_refused(released, options, expected):
    assert expected in refusal(released, **options)


def test_task_tokens_can_start_fresh(saved):
    config = changed(num_task_embeddings=20)
    message = refusal(saved, config=config)
    assert f"missing: {TASK_TABLE} [20, 12] (to start it at random, name it as fresh: task_tokens)" in message
    model, params = vj.load_pretrained(saved, config=config, fresh=("task_tokens",))
    assert model.config == config
    flat = named_leaves(params)
    assert flat.pop(TASK_TABLE).shape == (20, 12)
    assert_same(nested(flat), nested(random_params(PRETRAINING)))


def test_task_tokens_of_the_source_cannot_be_dropped(tmp_path):
    config = changed(num_task_embeddings=20)
    model = vj.ViLBERTForPretraining(config)
    vj.save_pretrained(tmp_path / "model", model, nested(random_params(model)))
    message = refusal(tmp_path / "model", config=CONFIG)
    assert f"without a place in the model: {TASK_TABLE}" in message


# --- configs that do not fit


OTHER_FUNCTIONS = {
    "text.num_heads": ({"text_num_heads": 2}, "text.num_heads is 3, the model has 2"),
    "text.activation": ({"text_activation": "relu"}, "text.activation is gelu, the model has relu"),
    "regions.num_heads": ({"regions_num_heads": 5}, "regions.num_heads is 2, the model has 5"),
    "regions.activation": ({"regions_activation": "swish"}, "regions.activation is gelu, the model has swish"),
    "co_num_heads": ({"co_num_heads": 2}, "co_num_heads is 4, the model has 2"),
    "text_co_layers": ({"text_co_layers": (0, 2)}, "text_co_layers is (1, 2), the model has (0, 2)"),
    "region_co_layers": ({"region_co_layers": (0, 0)}, "region_co_layers is (0, 1), the model has (0, 0)"),
    "fusion": ({"fusion": "sum"}, "fusion is mul, the model has sum"),
}


@pytest.mark.parametrize(("fields", "expected"), OTHER_FUNCTIONS.values(), ids=OTHER_FUNCTIONS.keys())
def test_a_config_that_silently_computes_something_else_is_refused(saved, fields, expected):
    message = refusal(saved, config=changed(**fields))
    assert f"config: {expected}" in message
    assert "in 1 places" in message


def test_what_no_parameter_depends_on_may_differ(saved):
    config = changed(
        text_dropout_rate=0.0, regions_attention_dropout_rate=0.5, dtype="bfloat16", initializer_range=0.1,
        num_vqa_answers=3,
    )  # fmt: skip
    model, params = vj.load_pretrained(saved, config=config)
    assert model.config == config
    assert_same(params, nested(random_params(PRETRAINING)))


def test_every_disagreement_is_listed_at_once(saved):
    config = changed(vocab_size=24, text_num_layers=2, text_co_layers=(0, 1), regions_num_layers=3, fusion="sum")
    message = refusal(saved, config=config)
    assert f"misshaped: {WORD_TABLE} is [23, 12], the model has [24, 12]" in message
    assert "missing: trunk/encoder/region_layer_2/mlp/output/kernel [14, 10]" in message
    assert "without a place in the model: trunk/encoder/text_layer_2/attention/query/bias" in message
    assert "config: fusion is mul" in message
    assert "config: text_co_layers is (1, 2), the model has (0, 1)" in message
    assert message.count("\n") == int(message.partition("in ")[2].partition(" places")[0])


def test_the_exchange_may_be_left_out_but_not_made_up(tmp_path, saved):
    off = changed(use_coattention=False)
    model, params = vj.load_pretrained(saved, config=off)
    assert not any("co_layer" in path for path in named_leaves(params))
    vj.save_pretrained(tmp_path / "off", model, params)
    assert "missing: trunk/encoder/co_layer_1/text_attention/key/bias [8]" in refusal(tmp_path / "off", config=CONFIG)


# --- from a BERT


def test_a_bert_gives_the_text_stream_and_all_else_starts_fresh(tmp_path):
    write_bert(tmp_path / "bert", bert_state_dict(SMALLER), **bert_config(SMALLER))
    model, params = vj.load_pretrained(tmp_path / "bert", config=SMALLER, seed=3)
    assert model == vj.ViLBERTForPretraining(SMALLER)
    flat, source, fresh = named_leaves(params), random_params(model), initialised(model, seed=3)
    assert_same(flat, {path: source[path] if in_bert(path) else fresh[path] for path in flat})
    assert sum(map(in_bert, flat)) == 5 + 16 + 5
    assert not any("decoder" in path for path in flat)  # one array is both


def test_a_bert_makes_a_model_of_its_own_where_none_is_given(tmp_path):
    write_bert(tmp_path / "bert", bert_state_dict(SMALLER), **bert_config(SMALLER) | {"num_attention_heads": 2})
    model, params = vj.load_pretrained(tmp_path / "bert")
    assert model.config.text.num_heads == 2
    assert model.config.regions.width == 1024
    np.testing.assert_array_equal(params["token_head"]["bias"], bert_state_dict(SMALLER)["cls.predictions.bias"])


def test_a_bert_gives_task_models_too(tmp_path):
    write_bert(tmp_path / "bert", bert_state_dict(SMALLER), **bert_config(SMALLER))
    config = changed(SMALLER, num_task_embeddings=20)
    model, params = vj.load_pretrained(tmp_path / "bert", config=config, heads=("vqa",))
    assert model.heads == ("vqa",)
    assert params.keys() == {"trunk", "vqa_head"}
    assert named_leaves(params)[TASK_TABLE].shape == (20, 12)


def test_a_bert_without_the_word_head_needs_it_named_as_fresh(tmp_path):
    write_bert(tmp_path / "bert", bert_state_dict(SMALLER, with_head=False), **bert_config(SMALLER))
    message = refusal(tmp_path / "bert", config=SMALLER)
    assert "in 5 places" in message
    assert "missing: token_head/bias [23] (to start it at random, name it as fresh: tokens)" in message
    _, params = vj.load_pretrained(tmp_path / "bert", config=SMALLER, fresh=("tokens",))
    assert not params["token_head"]["bias"].any()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"text_num_heads": 2}, "config: text.num_heads is 3, the model has 2"),
        ({"text_activation": "swish"}, "config: text.activation is gelu, the model has swish"),
        ({"text_num_layers": 4}, "missing: trunk/encoder/text_layer_3/"),
        ({"text_num_layers": 2, "text_co_layers": (0, 1)}, "without a place in the model: trunk/encoder/text_layer_2/"),
        ({"max_text_length": 10}, "misshaped: trunk/text_embeddings/position_embeddings/embedding is [9, 12]"),
        ({"num_token_types": 1}, "misshaped: trunk/text_embeddings/token_type_embeddings/embedding is [2, 12]"),
    ],
)
def test_a_bert_must_fit_the_text_stream(tmp_path, fields, expected):
    assert expected in refusal(write_bert(tmp_path / "bert"), config=changed(**fields))


# --- save and load


@pytest.mark.parametrize(
    ("config", "heads"),
    [
        (CONFIG, HEADS),
        (changed(answer_head="weight_norm", num_task_embeddings=20), ("vqa", "grounding")),
        (changed(use_coattention=False, fusion="sum", dtype="bfloat16"), PRETRAINING_HEADS),
    ],
)
@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_what_is_saved_is_loaded_bit_for_bit(tmp_path, config, heads, kind):
    model = make_model(config, heads)
    params = nested({path: kind(array) for path, array in random_params(model).items()})
    vj.save_pretrained(tmp_path / "new" / "model", model, params)
    loaded, again = vj.load_pretrained(tmp_path / "new" / "model")
    assert loaded == model
    assert_same(again, params)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model"]


def test_the_saved_folder_needs_nothing_else(saved, tmp_path, tokenizer, monkeypatch):
    elsewhere = shutil.copytree(saved, tmp_path / "elsewhere" / "renamed")
    monkeypatch.chdir(tmp_path)
    source = open_source("elsewhere/renamed")
    assert source.config == CONFIG
    assert source.heads == PRETRAINING_HEADS
    assert load_tokenizer(source.vocab).fingerprint == tokenizer.fingerprint
    assert load_tokenizer(source.vocab).encode("a b").tolist() == tokenizer.encode("a b").tolist()
    assert vj.FeatureContract.from_json(dict(source.features)) == CONTRACT
    provenance = source.described_provenance()
    assert provenance["source"] == "a file"
    assert provenance["files"] == {"a.bin": "sha256:0"}
    assert provenance["licence"] == "MIT"
    assert provenance["saved_by"].startswith("vilbert-jax ")
    assert read_contents(elsewhere).identity["vocabulary"] == tokenizer.fingerprint
    assert_same(vj.load_pretrained("elsewhere/renamed")[1], nested(random_params(PRETRAINING)))


def test_a_folder_without_vocabulary_and_contract_says_so(tmp_path):
    model = vj.ViLBERTForTasks(CONFIG, heads=("choice",))
    vj.save_pretrained(tmp_path / "model", model, nested(random_params(model)))
    source = open_source(tmp_path / "model")
    assert source.vocab is None
    assert source.features is None
    assert source.provenance.keys() == {"saved_by"}


def test_an_empty_folder_may_be_there(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    model = vj.ViLBERTForTasks(CONFIG, heads=("choice",))
    vj.save_pretrained("~/model", model, nested(random_params(model)))
    assert vj.load_pretrained("~/model")[0] == model


@pytest.mark.parametrize("what", ["a file", "a folder with a file", "a checkpoint"])
def test_what_is_there_already_is_left_alone(tmp_path, saved, what):
    target = tmp_path / "model"
    if what == "a file":
        target.write_text("mine")
    elif what == "a checkpoint":
        shutil.copytree(saved, target)
    else:
        target.mkdir()
        (target / "mine.txt").write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(InputError, match="model exists already; nothing was written"):
        vj.save_pretrained(target, PRETRAINING, nested(random_params(PRETRAINING, 1)))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_leftover_of_a_killed_save_is_cleared_away(tmp_path):
    leftover = tmp_path / ".model.part" / "model.orbax-checkpoint-tmp"
    leftover.mkdir(parents=True)
    (leftover / "half").write_bytes(b"0")
    model = vj.ViLBERTForTasks(CONFIG, heads=("choice",))
    vj.save_pretrained(tmp_path / "model", model, nested(random_params(model)))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def save_refusal(path, kind=InputError, params=None, **options):
    """The message of a refused save, after which nothing is there."""
    with pytest.raises(kind) as error:
        vj.save_pretrained(path, PRETRAINING, nested(params or random_params(PRETRAINING)), **options)
    assert [*path.parent.iterdir()] == []
    return str(error.value)


def test_a_vocabulary_of_another_size_is_refused(tmp_path):
    other = write_vocabulary(tmp_path / "other" / "vocab.txt", CONFIG.vocab_size + 1)
    (tmp_path / "out").mkdir()
    message = save_refusal(tmp_path / "out" / "model", tokenizer=load_tokenizer(other))
    assert "the vocabulary has 24 entries, the model's word table 23 rows" in message


def test_features_of_another_size_are_refused(tmp_path):
    contract = dataclasses.replace(CONTRACT, feature_dim=2048)
    message = save_refusal(tmp_path / "model", contract=contract)
    assert "the features have 2048 values, the model reads 7" in message


def test_parameters_of_another_model_are_refused(tmp_path):
    params = random_params(PRETRAINING)
    params["alignment_head/bias"] = np.zeros(3, np.float32)
    params["vqa_head/bias"] = params.pop("region_head/logits/bias")
    assert save_refusal(tmp_path / "model", params=params).split("\n") == [
        "these parameters are not the model's, in 3 places:",
        "  alignment_head/bias: the model has [2], params [3]",
        "  region_head/logits/bias: the model has [6], params none",
        "  vqa_head/bias: the model has none, params [6]",
    ]


def test_a_provenance_that_json_cannot_say_is_refused_before_anything_is_written(tmp_path):
    assert "not JSON serializable" in save_refusal(tmp_path / "model", TypeError, provenance={"path": tmp_path})


def test_arrays_larger_than_what_is_written_at_once_are_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "_WRITE_BYTES", 1)
    params = jax.tree.map(jnp.asarray, nested(random_params(PRETRAINING)))  # the limit is on copies from devices
    vj.save_pretrained(tmp_path / "model", PRETRAINING, params)
    assert_same(vj.load_pretrained(tmp_path / "model")[1], params)


# --- a disk that does not take it


def fail(*args, **options):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("where", ["write_contents", "_check_space"])
def test_a_failure_to_write_leaves_nothing(tmp_path, monkeypatch, where):
    monkeypatch.setattr(saving, where, fail)
    message = save_refusal(tmp_path / "model", OSError)
    assert message.startswith(f"{tmp_path / 'model'} could not be written")
    assert "No space left on device" in message


@pytest.mark.parametrize("noticed", ["before", "while Orbax writes"])
def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path, noticed):
    """Files that cannot grow: in another process, since the limit cannot be taken back."""
    program = f"""
import pathlib, resource, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from tiny_weights import changed, nested, random_params
import vilbert_jax as vj
from vilbert_jax.checkpoints import saving
if {noticed!r} != "before":
    saving._check_space = lambda folder, num_bytes: None
model = vj.ViLBERTForTasks(changed(vocab_size=9000), heads=("tokens",))
params = nested(random_params(model))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    vj.save_pretrained("model", model, params)
except OSError as error:
    print(error)
"""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert f"{tmp_path / 'model'} could not be written" in done.stdout, done.stderr
    assert [*tmp_path.iterdir()] == []
    if noticed == "before":  # Orbax is not as quiet
        assert done.stdout.count("\n") == 1
        assert "File too large" in done.stdout
        assert done.stderr == ""


# --- damage


@pytest.mark.parametrize("how", ["missing", "truncated", "flipped"])
def test_a_damaged_folder_is_refused_with_the_file_that_is(saved, tmp_path, how):
    files = [path for path in (saved / "state").rglob("*") if path.is_file() and path.stat().st_size]
    for file in [*files, saved / "tokenizer.json"]:
        copy = shutil.copytree(saved, tmp_path / "copy", dirs_exist_ok=True)
        target, content = copy / file.relative_to(saved), file.read_bytes()
        if how == "missing":
            target.unlink()
        else:
            half = len(content) // 2
            target.write_bytes(
                content[:half]
                if how == "truncated"
                else content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
            )
        message = refusal(copy)
        assert f"the checkpoint {copy} is damaged: {target}" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", "is damaged: .*contents.json is missing or unreadable"), (None, "is neither a checkpoint of this project")],
)
def test_a_folder_without_its_contents_is_refused(saved, tmp_path, content, expected):
    copy = shutil.copytree(saved, tmp_path / "copy")
    (copy / "contents.json").unlink()
    if content is not None:
        (copy / "contents.json").write_bytes(content)
    with pytest.raises(InputError, match=expected):
        vj.load_pretrained(copy)


# --- runs


def test_a_run_is_loaded_by_any_of_its_folders(tmp_path):
    run = write_run(tmp_path / "run", 5, 12)
    for path, seed in [(run, 12), (run / "checkpoints", 12), (run / "checkpoints/12", 12), (run / "checkpoints/5", 5)]:
        model, params = vj.load_pretrained(path)
        assert model == PRETRAINING
        assert_same(params, nested(random_params(PRETRAINING, seed)))
        source = open_source(path)
        assert source.kind == f"checkpoint of this project of step {seed}"
        assert not any(path.startswith("opt_state") for path in source.shapes)


def test_the_newest_intact_checkpoint_of_a_run_is_loaded(tmp_path, caplog):
    run = write_run(tmp_path / "run", 5, 12)
    (run / "checkpoints/12/contents.json").unlink()
    _, params = vj.load_pretrained(run)
    assert_same(params, nested(random_params(PRETRAINING, 5)))
    assert "checkpoints/12 is damaged" in caplog.text
    (run / "checkpoints/5/contents.json").unlink()
    assert "no usable checkpoint" in refusal(run)


def test_a_run_of_another_kind_of_model_is_refused(tmp_path):
    run = write_run(tmp_path / "run", 1, identity={"features": None})
    assert "is a checkpoint of another model" in refusal(run)


# --- on a mesh

MESHES = {"fsdp": MeshConfig(fsdp=8), "mixed": MeshConfig(data=2, fsdp=2, tensor=2), "data": MeshConfig(data=8)}
ON_MESH = changed(tiny_pretraining.CONFIG, **ONE_LAYER)  # eight devices divide its widths
meshes = pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES.keys())


def assert_placed(params, mesh):
    leaves = named_leaves(params)
    expected = named_leaves(state_shardings(params, mesh))
    for path, leaf in leaves.items():
        assert leaf.sharding == expected[path], path
        assert leaf.sharding.spec == param_spec(path, leaf.shape, mesh.shape), path
        whole = np.asarray(leaf)
        for shard in leaf.addressable_shards:
            np.testing.assert_array_equal(shard.data, whole[shard.index])
    return sum(not leaf.sharding.is_fully_replicated for leaf in leaves.values())


@meshes
def test_a_file_is_read_once_in_all_onto_the_shards(tmp_path, monkeypatch, mesh):
    tensors = released_state_dict(ON_MESH)
    write_safetensors(tmp_path / "released.safetensors", {n: x for n, x in tensors.items() if n != DECODER})
    _, unsharded = vj.load_pretrained(tmp_path / "released.safetensors", config=ON_MESH)
    num_read, largest = {}, {}

    def counting(path):
        def counted(name, tensor):
            def read(index):
                part = tensor.read(index)
                num_read[name] = num_read.get(name, 0) + part.size
                largest[name] = max(largest.get(name, 0), part.size)
                return part

            return tensor._replace(read=read)

        found = open_tensors(path)
        return TensorFile({name: counted(name, tensor) for name, tensor in found.tensors.items()}, found.left_out)

    monkeypatch.setattr(sources, "open_tensors", counting)
    device_mesh = make_mesh(mesh)
    with jax.set_mesh(device_mesh):
        _, params = vj.load_pretrained(tmp_path / "released.safetensors", config=ON_MESH)
    num_sharded = assert_placed(params, device_mesh)
    assert (num_sharded > 30) == (mesh.fsdp > 1)
    assert_same(params, unsharded)
    table = {entry.path: entry.source for entry in released_table(ON_MESH).entries}
    assert num_read.keys() == set(table.values())
    for path, leaf in named_leaves(params).items():
        assert num_read[table[path]] == leaf.size, path
        assert largest[table[path]] == leaf.addressable_shards[0].data.size, path


@meshes
@pytest.mark.parametrize("saved_on", [None, MeshConfig(fsdp=8)], ids=["saved whole", "saved sharded"])
def test_our_own_checkpoints_are_loaded_onto_the_shards(tmp_path, mesh, saved_on):
    model = vj.ViLBERTForPretraining(ON_MESH)
    params = nested(random_params(model))
    if saved_on is not None:
        params = jax.device_put(params, state_shardings(params, make_mesh(saved_on)))
    vj.save_pretrained(tmp_path / "model", model, params)
    device_mesh = make_mesh(mesh)
    with jax.set_mesh(device_mesh):
        _, loaded = vj.load_pretrained(tmp_path / "model")
    assert_placed(loaded, device_mesh)
    assert_same(loaded, nested(random_params(model)))


def bytes_read():
    """What this process has read from files so far."""
    try:
        lines = pathlib.Path("/proc/self/io").read_text().splitlines()
    except OSError:
        pytest.skip("Linux counts the bytes that a process reads, this system does not")
    return int(dict(line.split(": ") for line in lines)["rchar"])


def test_eight_shards_do_not_read_our_own_checkpoint_eight_times(tmp_path):
    model = vj.ViLBERTForTasks(dataclasses.replace(ON_MESH, vocab_size=1 << 17), heads=("choice",))
    vj.save_pretrained(tmp_path / "model", model, nested(random_params(model)))
    size = sum(path.stat().st_size for path in (tmp_path / "model").rglob("*") if path.is_file())
    assert size > 7e6
    before = bytes_read()
    with jax.set_mesh(make_mesh(MeshConfig(fsdp=8))):
        vj.load_pretrained(tmp_path / "model")
    assert bytes_read() - before < 3.5 * size  # once for the checksums, once for the arrays, and a margin


@meshes
def test_what_starts_fresh_on_a_mesh_is_what_starts_fresh_without(tmp_path, mesh):
    write_bert(tmp_path / "bert", bert_state_dict(ON_MESH), **bert_config(ON_MESH))
    _, unsharded = vj.load_pretrained(tmp_path / "bert", config=ON_MESH, seed=5)
    device_mesh = make_mesh(mesh)
    with jax.set_mesh(device_mesh):
        _, params = vj.load_pretrained(tmp_path / "bert", config=ON_MESH, seed=5)
    assert_placed(params, device_mesh)
    assert_same(params, unsharded)


def test_without_a_mesh_parameters_are_on_the_first_device(released):
    _, params = vj.load_pretrained(released)
    assert {leaf.sharding for leaf in jax.tree.leaves(params)} == {
        jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    }


def test_a_mesh_with_other_axes_is_refused(released):
    with jax.set_mesh(jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))):
        assert "the active mesh has the axes model" in refusal(released)


def test_parameters_on_a_mesh_are_saved_whole(tmp_path):
    model = vj.ViLBERTForPretraining(ON_MESH)
    flat = random_params(model)
    params = nested(flat)
    sharded = jax.device_put(params, state_shardings(params, make_mesh(MESHES["mixed"])))
    vj.save_pretrained(tmp_path / "model", model, sharded)
    assert fingerprint(named_leaves(vj.load_pretrained(tmp_path / "model")[1])) == fingerprint(flat)


# --- where a run starts


def start(init_from, workdir, tokenizer, model=PRETRAINING, contract=CONTRACT, **fields):
    config = InitConfig(init_from=str(init_from), **fields)
    return prepare_init(config, model, workdir, tokenizer=tokenizer, contract=contract)


def fresh_params(model=PRETRAINING):
    return jax.tree.map(jnp.asarray, nested(random_params(model, seed=9)))


def test_nothing_to_start_from_or_a_run_that_resumes(tmp_path, tokenizer):
    assert start("", tmp_path, tokenizer) is None
    write_run(tmp_path, 1)
    assert start(tmp_path / "absent", tmp_path, tokenizer) is None  # not looked for again


def test_a_run_starts_from_a_saved_folder(saved, tmp_path, tokenizer):
    initialise = start(saved, tmp_path, tokenizer, fresh_heads="regions")
    assert initialise is not None
    initial = initialise(fresh_params())
    source, fresh = random_params(PRETRAINING), random_params(PRETRAINING, seed=9)
    assert_same(
        named_leaves(initial.params), {path: (fresh if head_of(path) == "regions" else source)[path] for path in source}
    )
    assert initial.provenance["init_from"]["source"] == "a file"
    assert f"starting from {saved}, a checkpoint of this project" in initial.summary
    lines = initial.summary.split("\n")
    assert [line.split("  ")[1] for line in lines[1:]][-1] == "region head"
    assert lines[-1].endswith("fresh")
    assert sum(line.endswith(f"from {saved}") for line in lines) == len(lines) - 2


def test_the_table_of_a_bert_is_short_and_adds_up(tmp_path, tokenizer):
    initialise = start(write_bert(tmp_path / "bert"), tmp_path, tokenizer)
    assert initialise is not None
    initial = initialise(fresh_params())
    lines = initial.summary.split("\n")[1:]
    assert [line.strip().split("  ")[0] for line in lines] == [
        "text embeddings", "text layers", "token head",
        "region embeddings", "region layers", "co-attention layers", "text pooler", "region pooler", "alignment head",
        "region head",
    ]  # fmt: skip
    assert initial.provenance["init_from"]["kind"] == "BERT"
    assert "model.safetensors" in initial.provenance["init_from"]["files"]
    fresh, source = random_params(PRETRAINING, seed=9), random_params(PRETRAINING)
    assert_same(named_leaves(initial.params), {p: (source if in_bert(p) else fresh)[p] for p in source})


def test_the_start_is_placed_like_the_fresh_parameters(tmp_path):
    vocabulary = write_vocabulary(tmp_path / "vocab.txt", ON_MESH.vocab_size, words="abcdefghijklmnopqrstuvwxyz0")
    model = vj.ViLBERTForPretraining(ON_MESH)
    vj.save_pretrained(tmp_path / "model", model, nested(random_params(model)))
    contract = dataclasses.replace(CONTRACT, feature_dim=ON_MESH.region_feature_dim)
    initialise = start(tmp_path / "model", tmp_path, load_tokenizer(vocabulary), model, contract)
    mesh = make_mesh(MESHES["mixed"])
    fresh = fresh_params(model)
    initial = initialise(jax.device_put(fresh, state_shardings(fresh, mesh)))
    assert_placed(initial.params, mesh)


def test_another_vocabulary_of_the_same_size_is_refused(saved, tmp_path):
    other = load_tokenizer(write_vocabulary(tmp_path / "vocab.txt", words="zyxwvutsrqponmlkjihgfedcba"))
    assert other.vocab_size == CONFIG.vocab_size
    with pytest.raises(InputError, match="another vocabulary than config.vocab names.*set --config.vocab="):
        start(saved, tmp_path, other)


def test_other_features_are_refused_unless_allowed(saved, tmp_path, tokenizer):
    other = dataclasses.replace(CONTRACT, detector="another")
    with pytest.raises(InputError, match="detector: 'another' here, 'a' there") as error:
        start(saved, tmp_path, tokenizer, contract=other)
    assert "--config.allow_other_features=True" in str(error.value)
    assert start(saved, tmp_path, tokenizer, contract=other, allow_other_features=True) is not None


def test_a_start_that_does_not_fit_is_refused_before_the_run(saved, tmp_path, tokenizer):
    with pytest.raises(InputError, match="config: fusion is mul, the model has sum"):
        start(saved, tmp_path, tokenizer, vj.ViLBERTForPretraining(changed(fusion="sum")))
    with pytest.raises(InputError, match="fresh names vqa"):
        start(saved, tmp_path, tokenizer, fresh_heads="vqa")
    with pytest.raises(InputError, match="there is nothing at"):
        start(tmp_path / "absent.bin", tmp_path, tokenizer)

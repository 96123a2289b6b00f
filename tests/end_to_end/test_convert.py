"""experiments/convert_checkpoint.py as a user runs it: there, back, and through every mishap."""

import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import pathlib
import pickle
import re
import runpy
import shutil
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import test_region_store
import tiny_pretraining
from flax import traverse_util

import vilbert_jax as vj
from vilbert_jax.checkpoints import convert, exporting
from vilbert_jax.checkpoints.conversion import abstract_params
from vilbert_jax.checkpoints.exporting import export_bert
from vilbert_jax.checkpoints.folder import RUN_CHECKPOINTS, read_contents
from vilbert_jax.checkpoints.released import released_table
from vilbert_jax.checkpoints.sources import open_source
from vilbert_jax.checkpoints.trained_for import TrainedFor
from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.text import load_tokenizer
from vilbert_jax.model import init_params
from vilbert_jax.paths import named_leaves
from vilbert_jax.tasks import pretraining
from vilbert_jax.training.checkpointing import Checkpoints
from vilbert_jax.training.optimizer import OptimizerConfig, make_optimizer
from vilbert_jax.training.state import TrainState

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = ROOT / "experiments" / "convert_checkpoint.py"
GOLDEN = ROOT / "tests" / "data" / "golden"
CONFIG = tiny_pretraining.CONFIG
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTRACT = FeatureContract(
    detector="toy", weights_hash="abc", layer="last", colour_order="rgb", resize_rule="none", selection_rule="all",
    feature_dim=CONFIG.region_feature_dim, num_classes=CONFIG.region_target_dim,
)  # fmt: skip


def run(**flags):
    """Runs the command in this process; returns its exit code."""
    main = runpy.run_path(str(COMMAND))
    given = [f"--{name}" if value is True else f"--{name}={value}" for name, value in flags.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(COMMAND), *given])
        with pytest.raises(SystemExit) as exit_info:
            main["cli"].guarded(main["main"])
    return exit_info.value.code


def golden(folder):
    """The flags of one recorded model, which has no vocabulary."""
    return {"input": GOLDEN / folder / "weights.safetensors", "model_config": GOLDEN / folder / "config.json"}


def assert_refused(capfd, tmp_path, *words, before=()):
    """One message with these words, and nothing in ``tmp_path`` but what was there."""
    message = capfd.readouterr().err
    assert message.startswith("error: ")
    assert "Traceback" not in message
    for word in words:
        assert word in message
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(before)


def write_vocabulary(path, size):
    path.write_text("\n".join([*SPECIAL, *(f"word{i}" for i in range(size - len(SPECIAL)))]) + "\n")
    return path


def tensors_of(path):
    if path.suffix == ".safetensors":
        return safetensors.numpy.load_file(path)
    torch = pytest.importorskip("torch")
    return {name: tensor.numpy() for name, tensor in torch.load(path, weights_only=True).items()}


def params_of(path):
    source = open_source(path)
    return source.read({name: np.empty(shape, np.float32) for name, shape in source.shapes.items()})


def random_params(model, seed=0):
    rng = np.random.default_rng(seed)
    return {path: rng.standard_normal(leaf.shape, np.float32) for path, leaf in abstract_params(model).items()}


def assert_same_params(first, second):
    assert first.keys() == second.keys()
    for path in first:
        assert np.asarray(first[path]).tobytes() == np.asarray(second[path]).tobytes(), path


def fingerprints(capfd):
    return [line.split()[1] for line in capfd.readouterr().out.splitlines() if line.startswith("  fingerprint")]


# --- released files, there and back


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.parametrize("folder", ["pretrain_a", "pretrain_nocoattention", "tasks_a", "tasks_beta"])
def test_there_and_back_every_live_tensor_is_identical(folder, ending, tmp_path, capfd):
    if ending == "bin":
        pytest.importorskip("torch")
    source = golden(folder)
    ours, back = tmp_path / "ours", tmp_path / f"back.{ending}"
    assert run(**source, output=ours, vocab="") == 0
    assert run(input=ours, output=back, verify=True) == 0
    first, second = fingerprints(capfd)
    assert first == second

    before, after = tensors_of(source["input"]), tensors_of(back)
    config = vj.ViLBERTConfig.from_json(source["model_config"])
    dead = released_table(config, open_source(ours).heads).unused.keys()
    assert before.keys() == after.keys()
    for name in before:
        assert before[name].shape == after[name].shape, name
        if name in dead:
            assert not after[name].any(), name
        else:
            assert before[name].tobytes() == after[name].tobytes(), name
    assert dead < before.keys()
    assert any(before[name].any() for name in dead)  # zeros would not show which tensors are dead
    assert vj.ViLBERTConfig.from_json(tmp_path / "back.json") == config


def test_a_bin_is_of_the_kind_that_the_released_code_can_read(tmp_path):
    torch = pytest.importorskip("torch")
    assert run(**golden("pretrain_a"), output=tmp_path / "back.bin") == 0
    assert (tmp_path / "back.bin").read_bytes()[:2] == b"\x80\x02"  # not the zip archive that needs torch 1.6
    state = torch.load(tmp_path / "back.bin", weights_only=True)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert all(tensor.is_contiguous() for tensor in state.values())


def test_one_model_in_both_formats_shares_its_config(tmp_path):
    pytest.importorskip("torch")
    assert run(**golden("pretrain_a"), output=tmp_path / "m.safetensors") == 0
    assert run(**golden("pretrain_a"), output=tmp_path / "m.bin") == 0
    assert run(input=tmp_path / "m.bin", output=tmp_path / "ours", vocab="") == 0
    assert_same_params(params_of(tmp_path / "ours"), params_of(tmp_path / "m.safetensors"))


def test_what_a_source_does_not_show_is_said_and_can_be_given(tmp_path, capfd):
    stream = dataclasses.replace(CONFIG.text, width=128)
    config = dataclasses.replace(
        CONFIG,
        text=dataclasses.replace(stream, num_heads=2),
        regions=dataclasses.replace(stream, num_heads=1),
        co_width=128,
        co_num_heads=1,
        text_co_layers=(0,),
        region_co_layers=(1,),
    )
    model = vj.ViLBERTForPretraining(config)
    exporting.export_released(
        tmp_path / "m.safetensors", config, ("tokens", "regions", "alignment"), random_params(model)
    )
    (tmp_path / "m.json").rename(tmp_path / "config.json")
    assert run(input=tmp_path / "m.safetensors", output=tmp_path / "ours", vocab="") == 0
    said = capfd.readouterr().out
    assert "assumed        text.num_heads=2 (64 features a head)" in said
    assert "assumed        text_co_layers=(1,), region_co_layers=(0,)" in said
    assert "--model_config" in said
    assert open_source(tmp_path / "ours").config.text_co_layers == (1,)
    flags = {"model_config": tmp_path / "config.json", "vocab": ""}
    assert run(input=tmp_path / "m.safetensors", output=tmp_path / "given", **flags) == 0
    assert "assumed" not in capfd.readouterr().out
    assert open_source(tmp_path / "given").config.text_co_layers == (0,)


def test_the_report_names_what_is_used_and_why_the_rest_is_not(tmp_path, capfd):
    assert run(**golden("pretrain_a"), output=tmp_path / "ours", vocab="") == 0
    lines = capfd.readouterr().out.splitlines()
    num_used = len(params_of(tmp_path / "ours"))
    assert lines[0].endswith("released ViLBERT (pre-training), 0.25 M parameters, heads: tokens, regions, alignment")
    assert f"  used       {num_used} tensors" in lines
    assert any(
        "not used     8 (dead: no forward pass calls it): bert.encoder.c_layer.0.biOutput.q_d" in x for x in lines
    )
    assert any("cls.predictions.decoder.weight" in line for line in lines)
    assert "  saved without  vocabulary (--vocab), feature contract (--features)" in lines


def test_what_it_was_trained_for_is_kept_where_there_is_a_place(tmp_path, capfd):
    model, settings = vj.ViLBERTForTasks(CONFIG, ("choice",)), TrainedFor(task="a:B", text_length=12, whole_image=False)
    params = traverse_util.unflatten_dict(random_params(model), sep="/")
    vj.save_pretrained(tmp_path / "one", model, params, trained_for=settings)
    assert run(input=tmp_path / "one", output=tmp_path / "two") == 0
    assert "task settings" not in capfd.readouterr().out
    assert open_source(tmp_path / "two").trained_for == settings.to_json()
    assert run(input=tmp_path / "two", output=tmp_path / "m.safetensors") == 0
    assert re.search("left out +task settings\n", capfd.readouterr().out)
    assert open_source(tmp_path / "m.safetensors").trained_for is None


def test_where_it_came_from_is_kept_through_every_step(tmp_path):
    source = golden("pretrain_a")
    assert run(**source, output=tmp_path / "one", vocab="") == 0
    assert run(input=tmp_path / "one", output=tmp_path / "two") == 0
    provenance = open_source(tmp_path / "two").provenance
    assert provenance["source"] == str(source["input"])
    assert provenance["files"] == {
        "weights.safetensors": "sha256:" + hashlib.sha256(source["input"].read_bytes()).hexdigest()
    }
    assert "MIT" in provenance["licence"]
    assert run(input=tmp_path / "two", output=tmp_path / "three", licence="of my own") == 0
    assert open_source(tmp_path / "three").provenance["licence"] == "of my own"


def test_a_difference_after_writing_is_exit_code_1(tmp_path, capfd, monkeypatch):
    def export_another(path, config, heads, params):
        params["alignment_head/bias"] = params["alignment_head/bias"] + np.float32(1e-6)
        exporting.export_released(path, config, heads, params)

    monkeypatch.setattr(convert, "export_released", export_another)
    assert run(**golden("pretrain_a"), output=tmp_path / "m.safetensors", verify=True) == 1
    assert "DIFFERENT" in capfd.readouterr().out


# --- heads and tokens that the released models have or have not


def test_heads_that_the_released_task_model_would_miss_are_named(tmp_path, capfd):
    model = vj.ViLBERTForTasks(CONFIG, heads=("vqa",))
    params = random_params(model)
    vj.save_pretrained(tmp_path / "ours", model, traverse_util.unflatten_dict(params, sep="/"))
    assert run(input=tmp_path / "ours", output=tmp_path / "m.safetensors") == 0
    assert "lacks heads    choice, grounding, token_score" in capfd.readouterr().out
    assert_same_params(params_of(tmp_path / "m.safetensors"), params)


@pytest.mark.parametrize(("num_tokens", "code"), [(20, 0), (5, 2)])
def test_task_tokens_are_exported_where_the_released_model_has_as_many(num_tokens, code, tmp_path, capfd):
    model = vj.ViLBERTForTasks(dataclasses.replace(CONFIG, num_task_embeddings=num_tokens), heads=("vqa",))
    vj.save_pretrained(tmp_path / "ours", model, traverse_util.unflatten_dict(random_params(model), sep="/"))
    assert run(input=tmp_path / "ours", output=tmp_path / "m.safetensors", verify=True) == code
    if code:
        assert_refused(capfd, tmp_path, "5 task tokens", "none or 20", before=["ours"])


# --- a BERT


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A BERT folder of the tiny model's sizes, the config of a ViLBERT around it, and its parameters by path."""
    folder = tmp_path_factory.mktemp("bert")
    params = random_params(vj.ViLBERTForPretraining(CONFIG), seed=1)
    vocabulary = load_tokenizer(write_vocabulary(folder / "vocab.txt", CONFIG.vocab_size))
    export_bert(folder / "bert", CONFIG, dict(params), vocabulary)
    (folder / "model.json").write_text(json.dumps(CONFIG.to_dict()))
    return folder / "bert", folder / "model.json", params


def test_a_bert_becomes_the_text_stream_and_the_rest_is_listed_as_fresh(bert, tmp_path, capfd):
    folder, config, params = bert
    assert run(input=folder, model_config=config, output=tmp_path / "ours", seed=3) == 0
    table = [line.split("  ") for line in capfd.readouterr().out.splitlines() if " M  " in line]
    origins = {columns[1]: columns[-1] for columns in table}
    from_bert = {"text embeddings", "text layers", "token head"}
    assert {part for part, origin in origins.items() if origin == f"from {folder}"} == from_bert
    assert {part for part, origin in origins.items() if origin == "fresh"} == {
        "region embeddings", "region layers", "co-attention layers", "text pooler", "region pooler",
        "alignment head", "region head",
    }  # fmt: skip
    found = params_of(tmp_path / "ours")
    init = jax.jit(functools.partial(init_params, vj.ViLBERTForPretraining(CONFIG)))
    fresh = named_leaves(init(jax.random.key(3)))
    for path, array in found.items():
        if path.startswith(("trunk/text_embeddings", "trunk/encoder/text_layer", "token_head")):
            np.testing.assert_array_equal(array, params[path], err_msg=path)
        else:  # compiled alone there: the last bit may differ
            np.testing.assert_allclose(array, fresh[path], rtol=1e-6, err_msg=path)
    source = open_source(tmp_path / "ours")
    assert source.vocab is not None
    assert load_tokenizer(source.vocab).fingerprint == load_tokenizer(folder).fingerprint
    assert "Apache-2.0" in source.provenance["licence"]


def test_and_back_it_is_the_same_bert(bert, tmp_path, capfd):
    folder, config, _ = bert
    assert run(input=folder, model_config=config, output=tmp_path / "ours") == 0
    assert run(input=tmp_path / "ours", output=tmp_path / "back", format="bert") == 0
    assert "tensors outside the text stream" in capfd.readouterr().out
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "back" / name).read_bytes() == (folder / name).read_bytes(), name


def test_verify_runs_the_bert_in_transformers(bert, tmp_path, capfd, monkeypatch):
    pytest.importorskip("torch")
    folder, config, _ = bert
    assert run(input=folder, model_config=config, output=tmp_path / "ours", verify=True) == 0
    assert capfd.readouterr().out.count("largest difference") == 2
    assert run(input=tmp_path / "ours", output=tmp_path / "back", format="bert", verify=True) == 0
    assert capfd.readouterr().out.count("largest difference") == 2
    monkeypatch.setattr(convert, "compare_with_transformers", lambda *_: {"hidden states": 2e-4, "word logits": 0.0})
    assert run(input=folder, model_config=config, output=tmp_path / "again", verify=True) == 1


def test_verify_without_torch_is_refused_before_anything_is_written(bert, tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    folder, config, _ = bert
    assert run(input=folder, model_config=config, output=tmp_path / "ours", verify=True) == 2
    assert_refused(capfd, tmp_path, "pip install transformers", "leave --verify out")


def test_a_bert_without_the_word_head_needs_it_named_as_fresh(bert, tmp_path, capfd):
    _, config, params = bert
    trunk = {path: array for path, array in params.items() if not path.startswith("token_head")}
    export_bert(tmp_path / "bare", CONFIG, trunk, None)
    flags = {"input": tmp_path / "bare", "model_config": config, "output": tmp_path / "ours", "vocab": ""}
    assert run(**flags) == 2
    assert_refused(capfd, tmp_path, "missing: token_head/bias", "fresh: tokens", before=["bare"])
    assert run(**flags, fresh="tokens") == 0
    assert params_of(tmp_path / "ours").keys() == params.keys()


def test_a_checkpoint_of_ours_takes_no_model_config(run_folder, bert, tmp_path, capfd):
    assert run(input=run_folder, model_config=bert[1], output=tmp_path / "ours") == 2
    assert_refused(capfd, tmp_path, "holds its own config")


# --- what is saved with a model


def test_the_vocabulary_is_saved_with_the_model(tmp_path):
    vocab = write_vocabulary(tmp_path / "vocab.txt", 128)
    assert run(**golden("pretrain_a"), output=tmp_path / "ours", vocab=vocab) == 0
    vocab_file = open_source(tmp_path / "ours").vocab
    assert vocab_file is not None
    assert load_tokenizer(vocab_file).fingerprint == load_tokenizer(vocab).fingerprint
    assert run(**golden("pretrain_a"), output=tmp_path / "without", vocab="") == 0
    assert open_source(tmp_path / "without").vocab is None


@pytest.fixture
def hub_cache(tmp_path_factory, monkeypatch):
    """An empty cache of the hub, which cannot be reached."""
    cache = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return cache


def test_the_default_vocabulary_is_bert_base_uncased_or_an_error(hub_cache, tmp_path, capfd):
    flags = {**golden("pretrain_a"), "output": tmp_path / "ours"}
    assert run(**flags) == 2
    assert_refused(capfd, tmp_path, "bert-base-uncased", "--vocab= to save the model without one")
    snapshot = hub_cache / "models--bert-base-uncased" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    write_vocabulary(snapshot / "vocab.txt", 128)
    assert run(**flags) == 0
    assert "  vocabulary     bert-base-uncased" in capfd.readouterr().out
    assert open_source(tmp_path / "ours").vocab is not None


def test_a_vocabulary_that_is_not_the_models_is_refused(tmp_path, capfd):
    vocab = write_vocabulary(tmp_path / "vocab.txt", 127)
    assert run(**golden("pretrain_a"), output=tmp_path / "ours", vocab=vocab) == 2
    assert_refused(capfd, tmp_path, "127 entries", "128 rows", before=["vocab.txt"])
    assert run(**golden("pretrain_a"), output=tmp_path / "bert", format="bert", vocab=vocab) == 2
    assert_refused(capfd, tmp_path, "127 entries", "128 rows", before=["vocab.txt"])
    assert run(**golden("pretrain_a"), output=tmp_path / "ours", vocab=tmp_path / "absent.txt") == 2
    assert_refused(capfd, tmp_path, "absent.txt", before=["vocab.txt"])


def test_the_feature_contract_is_saved_with_the_model(tmp_path):
    contract = dataclasses.replace(CONTRACT, feature_dim=40)
    (tmp_path / "contract.json").write_text(json.dumps(contract.to_json()))
    flags = {**golden("pretrain_a"), "vocab": "", "features": tmp_path / "contract.json"}
    assert run(**flags, output=tmp_path / "ours") == 0
    assert open_source(tmp_path / "ours").features == contract.to_json()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", ["contract.json is not a feature contract"]),
        ("[1]", ["contract.json is not a feature contract"]),
        ("{}", ["lacks", "'detector'"]),
        (json.dumps(CONTRACT.to_json() | {"detektor": 1}), ["unknown fields ['detektor']"]),
        (json.dumps(CONTRACT.to_json()), ["the features have 8 values, the model reads 40"]),
        (json.dumps(CONTRACT.to_json() | {"feature_dim": "40"}), ["contract.json is not a feature contract"]),
        (None, ["contract.json"]),
    ],
    ids=["broken", "list", "missing", "unknown", "other_width", "type", "absent"],
)
def test_a_feature_contract_that_is_none_or_anothers_is_refused(text, words, tmp_path, capfd):
    if text is not None:
        (tmp_path / "contract.json").write_text(text)
    flags = {**golden("pretrain_a"), "vocab": "", "features": tmp_path / "contract.json"}
    assert run(**flags, output=tmp_path / "ours") == 2
    assert_refused(capfd, tmp_path, *words, before=["contract.json"] if text is not None else [])


# --- a run


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """The work directory of a pre-training run, as the loop leaves it: two checkpoints with the optimizer's moments."""
    folder = tmp_path_factory.mktemp("run")
    tokenizer = load_tokenizer(write_vocabulary(folder / "vocab.txt", CONFIG.vocab_size))
    source = types.SimpleNamespace(coverage=None, contract=CONTRACT, tokenizer=tokenizer)
    identity = pretraining.identity(CONFIG, source)
    places = {"keep": 2, "identity": identity, "tokenizer_json": tokenizer.to_json()}
    with Checkpoints(folder / RUN_CHECKPOINTS, **places) as checkpoints:
        checkpoints.provenance = {"init_from": {"source": "somewhere"}}
        for step in (1, 2):
            flat = random_params(vj.ViLBERTForPretraining(CONFIG), seed=step)
            params = traverse_util.unflatten_dict({path: jnp.asarray(x) for path, x in flat.items()}, sep="/")
            moments = make_optimizer(OptimizerConfig(), 10).init(params)
            checkpoints.save(step, TrainState(jnp.int32(step), params, moments))
    return folder


def test_a_run_becomes_a_saved_folder_without_the_optimizer(run_folder, tmp_path, capfd):
    assert run(input=run_folder, output=tmp_path / "ours", verify=True) == 0
    assert "checkpoint of this project of step 2" in capfd.readouterr().out
    checkpoint = run_folder / RUN_CHECKPOINTS / "2"
    assert_same_params(params_of(tmp_path / "ours"), random_params(vj.ViLBERTForPretraining(CONFIG), seed=2))
    saved, before = read_contents(tmp_path / "ours"), read_contents(checkpoint)
    assert {name.partition("/")[0] for name in before.shapes} == {"params", "opt_state", "step"}
    assert {name.partition("/")[0] for name in saved.shapes} == {"params"}
    assert saved.identity == before.identity
    assert saved.provenance["init_from"] == {"source": "somewhere"}
    assert (tmp_path / "ours" / "tokenizer.json").read_bytes() == (checkpoint / "tokenizer.json").read_bytes()


def test_a_run_becomes_a_released_file_and_that_a_model_again(run_folder, tmp_path, capfd):
    assert run(input=run_folder, output=tmp_path / "m.safetensors", verify=True) == 0
    assert "left out       vocabulary, feature contract" in capfd.readouterr().out
    assert run(input=tmp_path / "m.safetensors", output=tmp_path / "ours", vocab=run_folder / "vocab.txt") == 0
    assert_same_params(params_of(tmp_path / "ours"), random_params(vj.ViLBERTForPretraining(CONFIG), seed=2))
    assert open_source(tmp_path / "ours").config == dataclasses.replace(CONFIG, dtype="float32")


def test_the_contract_of_a_region_store_replaces_the_runs(run_folder, tmp_path):
    contract = dataclasses.replace(test_region_store.CONTRACT, feature_dim=CONFIG.region_feature_dim)
    store = test_region_store.build(tmp_path / "stores", CONTRACT=contract)
    assert run(input=run_folder, output=tmp_path / "ours", features=store) == 0
    assert open_source(tmp_path / "ours").features == contract.to_json() != CONTRACT.to_json()


# --- what cannot be done


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"output": "m.bin", "format": "bert"}, ["--format=bert", "do not go together"]),
        ({"output": "m.bin", "format": "vilbert_jax"}, ["--format=vilbert_jax", "do not go together"]),
        ({"output": "m", "format": "released"}, ["--format=released", ".safetensors or .bin"]),
        ({"output": "m.bin", "vocab": "v", "features": "f"}, ["has no place for --vocab and --features"]),
        ({"output": "m", "format": "bert", "licence": "x"}, ["has no place for --licence"]),
        ({"output": "m", "fresh": "tokens,vcr"}, ["fresh names vcr", "tokens, regions, alignment"]),
    ],
)
def test_flags_that_contradict_each_other(flags, words, tmp_path, capfd):
    assert run(**golden("pretrain_a"), **{**flags, "output": tmp_path / flags["output"]}) == 2
    assert_refused(capfd, tmp_path, *words)


def test_an_output_that_exists_is_left_alone(tmp_path, capfd):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("mine")
    (tmp_path / "file.safetensors").write_text("mine")
    (tmp_path / "beside.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    before = ["used", "file.safetensors", "beside.json", "empty"]
    for output, named in (
        ("used", "used"),
        ("file.safetensors", "file.safetensors"),
        ("beside.safetensors", "beside.json"),
    ):
        assert run(**golden("pretrain_a"), output=tmp_path / output, **({} if "." in output else {"vocab": ""})) == 2
        assert_refused(capfd, tmp_path, f"{named} exists already; nothing was written", before=before)
    assert (tmp_path / "file.safetensors").read_text() == (tmp_path / "used" / "file").read_text() == "mine"
    assert run(**golden("pretrain_a"), output=tmp_path / "empty", vocab="") == 0
    assert run(**golden("pretrain_a"), output=tmp_path / "file.safetensors" / "below", vocab="") == 2  # not a folder
    assert "error: " in capfd.readouterr().err


def test_weights_without_their_config_are_not_left(tmp_path, capfd):
    (tmp_path / "m.json").mkdir()  # nothing is in it, but no file can be written over it
    assert run(**golden("pretrain_a"), output=tmp_path / "m.safetensors") == 2
    assert_refused(capfd, tmp_path, "m.json", before=["m.json"])


class RunsCode:
    """What an attacker would pickle."""

    def __reduce__(self):
        return os.system, ("touch it_ran",)


def change(tensors, **changes):
    """The golden tensors with some replaced or, with None, removed; names with two underscores for dots."""
    changes = {name.replace("__", "."): tensor for name, tensor in changes.items()}
    return {name: tensor for name, tensor in {**tensors, **changes}.items() if tensor is not None}


def bad_inputs(folder):
    """Files that cannot be converted, by name, with words of the message."""
    weights = GOLDEN / "pretrain_a" / "weights.safetensors"
    tensors = safetensors.numpy.load_file(weights)
    narrow, pooler = np.zeros((2, 3), np.float32), "bert__t_pooler__dense__weight"
    for name, changed, words in (
        ("missing", {pooler: None}, ["missing: bert.t_pooler.dense.weight"]),
        ("extra", {"bert__extra": narrow}, ["not understood: bert.extra [2, 3]"]),
        ("misshaped", {pooler: narrow}, ["misshaped: bert.t_pooler.dense.weight: [2, 3] in the file"]),
        ("both", {pooler: None, "bert__extra": narrow}, ["in 2 places", "missing", "not understood"]),
    ):
        safetensors.numpy.save_file(change(tensors, **changed), folder / f"{name}.st")
        yield f"{name}.st", words
    (folder / "truncated.st").write_bytes(weights.read_bytes()[:-100])
    yield "truncated.st", ["truncated.st is a damaged or truncated safetensors file"]
    (folder / "page.bin").write_text("<html>not found</html>")
    yield "page.bin", ["neither a safetensors nor a PyTorch file"]
    for kind in ("roberta", "albert"):
        (folder / kind).mkdir()
        (folder / kind / "config.json").write_text(json.dumps({"model_type": kind}))
        shutil.copy(weights, folder / kind / "model.safetensors")
        yield kind, [f"model of type '{kind}'", "bert-base-uncased"]
    (folder / "empty").mkdir()
    yield "empty", ["neither a checkpoint of this project", "nor a transformers folder"]
    yield "absent.bin", ["there is nothing at"]


def test_every_bad_input_is_one_message_and_nothing_is_written(tmp_path, capfd):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    flags = {"model_config": golden("pretrain_a")["model_config"], "vocab": ""}
    for name, words in bad_inputs(tmp_path / "in"):
        assert run(input=tmp_path / "in" / name, output=tmp_path / "out" / "ours", **flags) == 2, name
        assert_refused(capfd, tmp_path / "out", *words)


def test_a_config_that_contradicts_the_shapes_is_refused(tmp_path, capfd):
    flags = golden("pretrain_a")
    fields = json.loads(flags["model_config"].read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | {"hidden_size": 44, "v_num_hidden_layers": 2}))
    assert run(input=flags["input"], model_config=tmp_path / "config.json", output=tmp_path / "ours", vocab="") == 2
    words = ["[48, 48] in the file, [44, 44] by the config", "not understood: bert.encoder.v_layer.2."]
    assert_refused(capfd, tmp_path, *words, before=["config.json"])


def test_bad_pytorch_files_are_one_message_and_no_code_runs(tmp_path, capfd, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.bin").write_bytes(pickle.dumps({"weight": RunsCode()}, protocol=2))
    torch.save({"weight": RunsCode()}, tmp_path / "zip.bin")
    torch.save({"weight": torch.zeros(1000)}, tmp_path / "cut.bin")
    (tmp_path / "cut.bin").write_bytes((tmp_path / "cut.bin").read_bytes()[:-500])
    before = ["plain.bin", "zip.bin", "cut.bin"]
    for name, word in (("plain.bin", "run code"), ("zip.bin", "run code"), ("cut.bin", "damaged or truncated")):
        assert run(input=tmp_path / name, output=tmp_path / "ours", vocab="") == 2
        assert_refused(capfd, tmp_path, name, word, before=before)


FULL_DISK = """
import resource, runpy, sys
command, source, *conversions = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))  # bytes that a file may have
for flags in conversions:
    sys.argv = [command, f"--input={source}", *flags.split()]
    try:
        runpy.run_path(command, run_name="__main__")
    except SystemExit as error:
        print("exit code", error.code)
"""


def test_a_full_disk_is_one_message_and_nothing_is_left(tmp_path):
    """In a process of its own, whose files cannot become large."""
    source = tmp_path / "ours"
    assert run(**golden("pretrain_a"), output=source, vocab="") == 0
    out = tmp_path / "out"
    out.mkdir()
    conversions = [f"--output={out}/m.safetensors", f"--output={out}/again", f"--output={out}/bert --format=bert"]
    if "torch" in sys.modules or importlib.util.find_spec("torch"):
        conversions.append(f"--output={out}/m.bin")
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # it could not be written to either
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, COMMAND, source, *conversions],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines().count("exit code 2") == len(conversions), done.stderr
    messages = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(messages) == len(conversions)
    assert all("could not be written" in line and "space left" in line for line in messages)
    assert "Traceback" not in done.stderr
    assert "wrote" not in done.stdout
    assert list(out.iterdir()) == []

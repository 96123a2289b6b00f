"""experiments/convert_checkpoint.py on the single-stream baseline: there, back, around a BERT, and what cannot be."""

import json

import numpy as np
import pytest
import tiny_pretraining
from flax import traverse_util
from test_convert import (
    assert_refused,
    assert_same_params,
    golden,
    params_of,
    random_params,
    run,
    tensors_of,
    write_vocabulary,
)

import vilbert_jax as vj
from vilbert_jax.checkpoints.exporting import export_bert
from vilbert_jax.checkpoints.hf_bert import in_bert
from vilbert_jax.checkpoints.sources import open_source
from vilbert_jax.data.text import load_tokenizer
from vilbert_jax.released_config import to_released

CONFIG = vj.ViLBERTConfig.single_stream(
    text=tiny_pretraining.CONFIG.text,
    vocab_size=tiny_pretraining.CONFIG.vocab_size,
    max_text_length=tiny_pretraining.CONFIG.max_text_length,
    region_feature_dim=tiny_pretraining.CONFIG.region_feature_dim,
    region_target_dim=tiny_pretraining.CONFIG.region_target_dim,
)
MODEL = vj.ViLBERTForPretraining(CONFIG)


def write_json(path, config=CONFIG, **text):
    fields = to_released(config) | text
    path.write_text(json.dumps(fields))
    return path


def fingerprints(said):
    return [line.split()[1] for line in said.splitlines() if line.startswith("  fingerprint")]


def origins(said):
    rows = [line.split("  ") for line in said.splitlines() if " M  " in line]
    return {row[1]: row[-1].split(" ")[0] for row in rows}


# --- released files, there and back


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.parametrize("folder", ["single_stream", "single_stream_tasks"])
def test_there_and_back_every_tensor_is_identical(folder, ending, tmp_path, capfd):
    if ending == "bin":
        pytest.importorskip("torch")
    source = golden(folder)
    ours, back = tmp_path / "ours", tmp_path / f"back.{ending}"
    assert run(**source, output=ours, vocab="", verify=True) == 0
    assert run(input=ours, output=back, verify=True) == 0
    said = capfd.readouterr().out
    first, second = fingerprints(said)
    assert first == second
    assert said.count("identical") == 2
    assert "released single-stream baseline" in said
    assert "strict loading fails" not in said

    before, after = tensors_of(source["input"]), tensors_of(back)
    assert before.keys() == after.keys()
    for name in before:
        assert before[name].shape == after[name].shape, name
        assert before[name].tobytes() == after[name].tobytes(), name
    released = json.loads(source["model_config"].read_text())
    assert json.loads((tmp_path / "back.json").read_text()) == {k: released[k] for k in released if k[0] != "_"}


def test_heads_that_the_released_baseline_has_not_are_named(tmp_path, capfd):
    config = vj.ViLBERTConfig(**vars(CONFIG) | {"answer_head": "mlp"})
    model = vj.ViLBERTForTasks(config, heads=("vqa", "choice", "entailment"))
    params = random_params(model)
    vj.save_pretrained(tmp_path / "ours", model, traverse_util.unflatten_dict(params, sep="/"))
    assert run(input=tmp_path / "ours", output=tmp_path / "m.safetensors", verify=True) == 0
    said = capfd.readouterr().out
    assert "has more       entailment, vqa of kind mlp (the released baseline has not: strict loading fails)" in said
    assert "lacks heads    grounding, token_score" in said
    assert_same_params(params_of(tmp_path / "m.safetensors"), params)


def test_what_its_shapes_do_not_show_is_said_and_can_be_given(tmp_path, capfd):
    text = vj.StreamConfig(width=128, num_layers=1, num_heads=4, mlp_dim=8)
    config = vj.ViLBERTConfig(**vars(CONFIG) | {"text": text})
    model = vj.ViLBERTForPretraining(config)
    vj.save_pretrained(tmp_path / "ours", model, traverse_util.unflatten_dict(random_params(model), sep="/"))
    assert run(input=tmp_path / "ours", output=tmp_path / "m.safetensors") == 0
    (tmp_path / "m.json").rename(tmp_path / "its.json")
    capfd.readouterr()
    assert run(input=tmp_path / "m.safetensors", output=tmp_path / "guessed", vocab="") == 0
    said = capfd.readouterr().out
    assert "assumed        text.num_heads=2 (64 features a head)" in said
    assert "--model_config=FILE" in said
    flags = {"model_config": tmp_path / "its.json", "vocab": ""}
    assert run(input=tmp_path / "m.safetensors", output=tmp_path / "given", **flags) == 0
    assert "assumed" not in capfd.readouterr().out
    assert [open_source(tmp_path / name).config.text.num_heads for name in ("guessed", "given")] == [2, 4]


@pytest.mark.parametrize("folder", ["single_stream", "pretrain_a"])
def test_the_config_of_the_other_kind_is_one_message(folder, tmp_path, capfd):
    other = {"single_stream": "pretrain_a", "pretrain_a": "single_stream"}[folder]
    flags = {"input": golden(folder)["input"], "model_config": golden(other)["model_config"]}
    assert run(**flags, output=tmp_path / "ours", vocab="") == 2
    assert_refused(capfd, tmp_path, "the model config", "num_streams=")


# --- a BERT


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """The folder of a BERT with pooler and both heads, the JSON of a baseline around it, and its parameters by path."""
    folder = tmp_path_factory.mktemp("bert")
    params = random_params(MODEL, seed=1)
    vocabulary = load_tokenizer(write_vocabulary(folder / "vocab.txt", CONFIG.vocab_size))
    export_bert(folder / "bert", CONFIG, dict(params), vocabulary)
    return folder / "bert", write_json(folder / "model.json"), params


def test_a_bert_becomes_the_stream_and_comes_back_the_same(bert, tmp_path, capfd):
    folder, config, params = bert
    assert run(input=folder, model_config=config, output=tmp_path / "ours", seed=3) == 0
    said = capfd.readouterr().out
    assert origins(said) == {
        "text embeddings": "from", "joint layers": "from", "pooler": "from", "alignment head": "from",
        "token head": "from", "region embeddings": "fresh", "region head": "fresh",
    }  # fmt: skip
    assert "heads: tokens, alignment" in said
    found = params_of(tmp_path / "ours")
    assert found.keys() == params.keys()
    for path in filter(lambda path: in_bert(path, 1), found):
        np.testing.assert_array_equal(found[path], params[path], err_msg=path)
    assert run(input=tmp_path / "ours", output=tmp_path / "back", format="bert") == 0
    assert "tensors that no BERT has" in capfd.readouterr().out
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "back" / name).read_bytes() == (folder / name).read_bytes(), name


def test_verify_runs_it_in_transformers(bert, tmp_path, capfd):
    pytest.importorskip("torch")
    folder, config, _ = bert
    assert run(input=folder, model_config=config, output=tmp_path / "ours", verify=True) == 0
    assert run(input=tmp_path / "ours", output=tmp_path / "back", format="bert", verify=True) == 0
    said = capfd.readouterr().out
    for name in ("hidden states", "word logits", "pooled", "alignment logits"):
        assert said.count(f"{name} of") == 2
    assert len(set(fingerprints(said))) == 2  # of the model, and of what a BERT holds of it


def test_a_deeper_baseline_says_which_layers_are_the_berts(bert, tmp_path, capfd):
    folder, _, _ = bert
    depth = CONFIG.text.num_layers
    config = write_json(tmp_path / "deep.json", num_hidden_layers=depth + 2)
    assert run(input=folder, model_config=config, output=tmp_path / "ours") == 0
    table = origins(capfd.readouterr().out)
    assert table[f"joint layers 0 to {depth - 1}"] == "from"
    assert table[f"joint layers {depth} to {depth + 1}"] == "fresh"
    assert open_source(tmp_path / "ours").config.text.num_layers == depth + 2


def test_a_baseline_does_not_become_two_streams(tmp_path, capfd):
    flags = {"input": golden("single_stream")["input"].parent, "vocab": "", "output": tmp_path / "ours"}
    (tmp_path / "two.json").write_text(json.dumps(tiny_pretraining.CONFIG.to_dict()))
    assert run(**flags, model_config=tmp_path / "two.json") == 2
    assert_refused(capfd, tmp_path, "has one stream, the model config two streams", before=["two.json"])

"""Files of the released single-stream baseline: recognised by content, strict, with a config of their own."""

import dataclasses
import json

import numpy as np
import pytest
from tiny_weights import CONFIG, ONE_STREAM, bert_state_dict, changed, lazy, released_state_dict, write_bert

import vilbert_jax as vj
from vilbert_jax.checkpoints import sources
from vilbert_jax.checkpoints.conversion import DECODER, PRETRAINING_HEADS, WORD_TABLE
from vilbert_jax.checkpoints.hf_bert import bert_config
from vilbert_jax.checkpoints.inferred_config import config_from_shapes
from vilbert_jax.checkpoints.sources import open_source
from vilbert_jax.checkpoints.tensor_files import TensorFile, open_tensors, write_safetensors
from vilbert_jax.errors import InputError
from vilbert_jax.released_config import from_released, to_released

TASKS = ("vqa", "choice", "grounding", "token_score", *PRETRAINING_HEADS)
MANIFESTS = {"manifest_baseline_pretrain": PRETRAINING_HEADS, "manifest_baseline_vltasks": TASKS}
BASE_JSON = {  # as bert_base_baseline.json of the released code
    "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512, "type_vocab_size": 2, "initializer_range": 0.02,
}  # fmt: skip
LARGE_JSON = BASE_JSON | {
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
}  # fmt: skip


def write(path, config=ONE_STREAM, tensors=None, fields=None):
    """A released file, and beside it a JSON with ``fields``, by default its own; {} for none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, released_state_dict(config) if tensors is None else tensors)
    if fields is None or fields:
        path.with_suffix(".json").write_text(json.dumps(fields or to_released(config)))
    return path


def refusal(source, model_config=None):
    with pytest.raises(InputError) as error:
        open_source(source, model_config)
    return str(error.value)


def shapes_of(data_dir, manifest):
    shapes = json.loads((data_dir / "manifests" / f"{manifest}.json").read_text())
    return {name: tuple(shape) for name, shape in shapes.items()}


# --- what it is


@pytest.mark.parametrize(
    ("folder", "kind", "heads"),
    [("single_stream", "pre-training", PRETRAINING_HEADS), ("single_stream_tasks", "tasks", TASKS)],
)
def test_golden_folders_are_recognised(data_dir, folder, kind, heads):
    source = open_source(data_dir / "golden" / folder)
    assert source.kind == f"released single-stream baseline ({kind})"
    assert set(source.heads) == set(heads)
    assert source.config.num_streams == 1
    assert (source.config.region_feature_dim, source.config.region_target_dim) == (30, 19)
    assert (source.config.text.num_heads, source.config.max_text_length) == (3 if kind == "pre-training" else 4, 18)
    assert source.unused == {f"the same as {WORD_TABLE}": (DECODER,)}
    assert (source.assumed, source.text_only, source.states_config) == ((), False, True)
    assert source.provenance["kind"] == "released single-stream baseline"
    assert "vilbert" in source.provenance["licence"]
    if kind == "tasks":
        assert (source.config.num_vqa_answers, source.config.answer_head) == (27, "weight_norm")
    assert len(source.shapes) == len(open_tensors(source.files[0]).tensors) - 1


@pytest.mark.parametrize(("manifest", "heads"), MANIFESTS.items())
def test_base_size_is_recognised_without_a_json(data_dir, tmp_path, monkeypatch, manifest, heads):
    shapes = shapes_of(data_dir, manifest)
    tensors = lazy({f"module.{name}": np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()})
    monkeypatch.setattr(sources, "open_tensors", lambda path: TensorFile(tensors, ()))
    path = tmp_path / "pytorch_model_9.bin"
    path.touch()
    source = open_source(path)
    assert source.config == vj.ViLBERTConfig.single_stream()
    assert set(source.heads) == set(heads)
    assert not source.states_config
    assert source.assumed == ("text.num_heads=12 (64 features a head)", 'activation "gelu", dropout rates 0.1')
    assert len(source.shapes) == len(shapes) - 1  # the decoder
    assert len(shapes) == (220 if heads == PRETRAINING_HEADS else 232)


def test_shapes_give_other_sizes(data_dir):
    shapes = shapes_of(data_dir, "manifest_baseline_vltasks")
    shapes |= {
        "bert.embeddings.position_embeddings.weight": (40, 768),
        "cls.imagePredictions.decoder.weight": (401, 768),
    }
    shapes |= {"vil_prediction.main.3.weight_v": (17, 1536)}
    config, _ = config_from_shapes({name: shape for name, shape in shapes.items() if ".layer.11." not in name})
    eleven = dataclasses.replace(vj.ViLBERTConfig.base().text, num_layers=11)
    assert config == vj.ViLBERTConfig.single_stream(
        text=eleven, max_text_length=40, region_target_dim=401, num_vqa_answers=17
    )


@pytest.mark.parametrize(
    "name",
    [
        "bert.embeddings.word_embeddings.weight",
        "bert.embeddings.token_type_embeddings.weight",
        "bert.image_embeddings.image_embeddings.weight",
        "bert.encoder.layer.0.intermediate.dense.weight",
        "cls.imagePredictions.decoder.weight",
    ],
)
def test_a_tensor_that_decides_about_the_config_must_be_there(data_dir, name):
    shapes = shapes_of(data_dir, "manifest_baseline_pretrain")
    del shapes[name]
    with pytest.raises(InputError, match=f"{name} is missing"):
        config_from_shapes(shapes)


def test_a_width_that_does_not_tell_the_number_of_heads_asks_for_the_json(tmp_path):
    message = refusal(write(tmp_path / "model.safetensors", fields={}))
    assert "text.num_heads cannot be guessed" in message
    assert "Give --model_config" in message


def test_a_folder_of_a_baseline_and_a_folder_of_a_bert_may_have_the_same_config(tmp_path):
    """BERT's keys alone: whose they are, the tensors say."""
    fields = to_released(changed(ONE_STREAM, region_feature_dim=2048, region_target_dim=1601))
    assert fields.keys() == BASE_JSON.keys()
    baseline = write(tmp_path / "baseline" / "model.safetensors", fields={})
    (baseline.parent / "config.json").write_text(json.dumps(fields | {"v_feature_size": 7, "v_target_size": 6}))
    assert open_source(baseline.parent).config == dataclasses.replace(
        ONE_STREAM, num_vqa_answers=3129, num_gqa_answers=1533
    )
    bert = write_bert(tmp_path / "bert")
    (bert / "config.json").write_text(json.dumps(fields))
    assert open_source(bert).kind == "BERT"
    assert open_source(bert).config.text == ONE_STREAM.text


def test_a_baseline_with_the_config_of_transformers_asks_for_its_own(tmp_path):
    baseline = write(tmp_path / "model.safetensors", fields={})
    (tmp_path / "config.json").write_text(json.dumps(bert_config(CONFIG)))
    message = refusal(tmp_path)
    assert "config of a 'bert' of the transformers library, which says nothing about regions" in message
    assert open_source(baseline, ONE_STREAM).config == ONE_STREAM


def test_a_bert_is_no_baseline_and_a_baseline_no_bert(tmp_path):
    tensors = bert_state_dict() | {"bert.image_embeddings.LayerNorm.weight": np.ones(12, np.float32)}
    message = refusal(write(tmp_path / "model.safetensors", tensors=tensors))
    assert "missing: bert.image_embeddings.image_embeddings.weight" in message
    assert "missing: bert.pooler.dense.weight" in message


# --- what does not fit


CONTRADICTIONS = {
    "width": ({"text_width": 15}, "misshaped: bert.image_embeddings.LayerNorm.bias: [12] in the file, [15] by the"),
    "vocabulary": ({"vocab_size": 24}, f"misshaped: {WORD_TABLE}: [23, 12] in the file, [24, 12] by the config"),
    "fewer layers": ({"text_num_layers": 2}, "not understood: bert.encoder.layer.2.output.dense.weight [12, 20]"),
    "more layers": ({"text_num_layers": 4}, "missing: bert.encoder.layer.3.attention.self.query.weight"),
    "features": ({"region_feature_dim": 8}, "misshaped: bert.image_embeddings.image_embeddings.weight: [12, 7] in the"),
    "types": ({"num_token_types": 3}, "misshaped: bert.image_embeddings.token_type_embeddings.weight: [2, 12] in the"),
}  # fmt: skip


@pytest.mark.parametrize(("fields", "expected"), CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
@pytest.mark.parametrize("form", ["released", "ours"])
def test_a_json_that_contradicts_the_shapes_is_refused(tmp_path, form, fields, expected):
    other = changed(ONE_STREAM, **fields)
    given = tmp_path / "given.json"
    given.write_text(json.dumps(to_released(other) if form == "released" else other.to_dict()))
    message = refusal(write(tmp_path / "model.safetensors", fields={}), given)
    assert expected in message
    assert message.count("\n") == int(message.partition("in ")[2].partition(" places")[0])


@pytest.mark.parametrize("change", ["missing", "extra", "misshaped"])
def test_one_wrong_tensor_in_a_file_is_refused_by_name(tmp_path, change):
    tensors, name = released_state_dict(ONE_STREAM), "bert.image_embeddings.token_type_embeddings.weight"
    if change == "missing":
        del tensors[name]
    else:
        tensors["bert.t_pooler.dense.bias" if change == "extra" else name] = np.zeros((3, 2), np.float32)
    message = refusal(write(tmp_path / "model.safetensors", tensors=tensors))
    assert "in 1 places" in message
    assert {
        "missing": f"missing: {name}",
        "extra": "not understood: bert.t_pooler.dense.bias [3, 2]",
        "misshaped": f"misshaped: {name}: [3, 2] in the file, [2, 12] by the config",
    }[change] in message


def test_a_decoder_that_is_not_the_word_table_is_refused(tmp_path):
    tensors = released_state_dict(ONE_STREAM)
    tensors[DECODER] = tensors[DECODER] + 1
    assert f"not tied: {DECODER} differs" in refusal(write(tmp_path / "model.safetensors", tensors=tensors))


def test_a_trunk_without_heads_is_a_source(tmp_path):
    tensors = {n: array for n, array in released_state_dict(ONE_STREAM).items() if not n.startswith("cls.")}
    source = open_source(write(tmp_path / "model.safetensors", tensors=tensors))
    assert source.heads == ()
    assert all(path.startswith("trunk/") for path in source.shapes)


@pytest.mark.parametrize(("config", "other"), [(ONE_STREAM, CONFIG), (CONFIG, ONE_STREAM)], ids=["one", "two"])
@pytest.mark.parametrize("given", ["beside it", "JSON", "config"])
def test_a_config_with_another_number_of_streams_is_refused_in_one_line(tmp_path, config, other, given):
    path = write(tmp_path / "model.safetensors", config, fields=to_released(other) if given == "beside it" else {})
    (tmp_path / "given.json").write_text(json.dumps(to_released(other)))
    message = refusal(path, {"beside it": None, "JSON": tmp_path / "given.json", "config": other}[given])
    kind, theirs, ours = ("single-stream baseline", "one stream", "two streams")
    if config is CONFIG:
        kind, theirs, ours = "ViLBERT", ours, theirs
    assert f"{path} (released {kind}) has {theirs}, the model config {ours}" in message
    assert f"--config.model.num_streams={config.num_streams}" in message
    assert "\n" not in message


# --- its JSON


@pytest.mark.parametrize(
    ("fields", "config"),
    [
        (BASE_JSON, vj.ViLBERTConfig.single_stream()),
        (LARGE_JSON, vj.ViLBERTConfig.single_stream(text=vj.ViLBERTConfig.large().text)),
        (
            BASE_JSON | {"v_feature_size": 1024, "v_target_size": 401},
            vj.ViLBERTConfig.single_stream(region_feature_dim=1024, region_target_dim=401),
        ),
        (BASE_JSON | {"v_target_size": 401}, vj.ViLBERTConfig.single_stream(region_target_dim=401)),
    ],
    ids=["base", "large", "both sizes", "one size"],
)
def test_its_json_has_berts_keys_alone_and_the_sizes_that_differ(tmp_path, fields, config):
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert vj.ViLBERTConfig.from_json(tmp_path / "config.json") == config
    assert to_released(config) == fields


def test_a_json_with_any_key_of_two_streams_describes_two():
    assert from_released(BASE_JSON | {"v_hidden_size": 768}).num_streams == 2
    assert from_released(BASE_JSON | {"visual_target": 0}).num_streams == 2
    assert from_released({"hidden_size": 768, "vocab_size": 9}).num_streams == 1


def test_keys_that_it_has_not_are_refused_together():
    with pytest.raises(InputError, match="cannot be used") as error:
        from_released({"hidden_size": 768, "layer_norm_eps": 1e-12, "hidden_sise": 1})
    assert all(
        f"{name}" in str(error.value) for name in ("layer_norm_eps: not", "hidden_sise: not", "vocab_size: missing")
    )


def test_the_config_of_a_transformers_bert_is_refused_as_such(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(bert_config(CONFIG)))
    with pytest.raises(
        InputError, match="'bert' of the transformers library.*name its folder.*bert_base_baseline.json"
    ):
        vj.ViLBERTConfig.from_json(tmp_path / "config.json")


def test_a_model_that_predicts_features_has_no_released_json():
    config = changed(ONE_STREAM, region_target_dim=7, region_objective="regression")
    with pytest.raises(InputError, match="region_objective is 'regression'; the released single-stream baseline"):
        to_released(config)

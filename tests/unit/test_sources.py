"""What a path or name holds is recognised by its content; what does not fit is refused before anything is loaded."""

import dataclasses
import hashlib
import json
import shutil

import huggingface_hub
import huggingface_hub.constants
import huggingface_hub.errors
import jax
import numpy as np
import pytest
from tiny_weights import (
    CONFIG,
    bert_state_dict,
    changed,
    lazy,
    released_state_dict,
    write_bert,
    write_vocabulary,
)

import vilbert_jax as vj
from vilbert_jax.checkpoints import sources
from vilbert_jax.checkpoints.conversion import DECODER, PRETRAINING_HEADS, WORD_TABLE
from vilbert_jax.checkpoints.hf_bert import bert_config, bert_table, config_from_bert
from vilbert_jax.checkpoints.sources import open_source
from vilbert_jax.checkpoints.tensor_files import TensorFile, write_safetensors
from vilbert_jax.config import StreamConfig
from vilbert_jax.errors import InputError
from vilbert_jax.model import HEADS
from vilbert_jax.released_config import to_released

TASKS = ("vqa", "choice", "grounding", "token_score", *PRETRAINING_HEADS)
GOLDEN = {
    "pretrain_a": PRETRAINING_HEADS,
    "pretrain_beta": PRETRAINING_HEADS,
    "pretrain_nce": PRETRAINING_HEADS,
    "pretrain_nocoattention": PRETRAINING_HEADS,
    "tasks_a": HEADS,
    "tasks_beta": TASKS,
}


def write_released(path, config=CONFIG, tensors=None, fields=None):
    """A released file, and beside it its JSON (``fields`` of another one, or {} for none)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(path, released_state_dict(config) if tensors is None else tensors)
    if fields is None or fields:
        path.with_suffix(".json").write_text(json.dumps(fields or to_released(config)))
    return path


def refusal(source, model_config=None):
    with pytest.raises(InputError) as error:
        open_source(source, model_config)
    return str(error.value)


# --- released files


@pytest.mark.parametrize(("folder", "heads"), GOLDEN.items())
def test_golden_folders_are_recognised(data_dir, folder, heads):
    path = data_dir / "golden" / folder
    source = open_source(path)
    assert source.kind == f"released ViLBERT ({folder.partition('_')[0].replace('pretrain', 'pre-training')})"
    assert set(source.heads) == set(heads)
    assert not source.text_only
    assert source.states_config
    assert source.assumed == ()
    assert source.vocab is None
    assert source.config.use_coattention == (folder != "pretrain_nocoattention")
    if "vqa" in heads:
        assert source.config.num_vqa_answers == 29
        assert source.config.answer_head == ("weight_norm" if folder == "tasks_beta" else "mlp")
    if "gqa" in heads:
        assert source.config.num_gqa_answers == 23
    dead = "dead: no forward pass calls it"
    assert all("q_dense" in name for name in source.unused[dead])
    assert len(source.unused[dead]) == 8
    provenance = source.described_provenance()
    digest = hashlib.sha256((path / "weights.safetensors").read_bytes()).hexdigest()
    assert provenance["files"] == {"weights.safetensors": f"sha256:{digest}"}
    assert provenance["source"] == str(path)
    assert "vilbert" in provenance["licence"]


@pytest.mark.parametrize(
    ("manifest", "heads", "fields"),
    [
        ("manifest_pretrain_base", PRETRAINING_HEADS, {}),
        ("manifest_vltasks_base", HEADS, {}),
        ("manifest_vltasks_base_beta", TASKS, {"answer_head": "weight_norm"}),
    ],
)
def test_released_sizes_are_recognised_without_a_json(data_dir, tmp_path, monkeypatch, manifest, heads, fields):
    shapes = json.loads((data_dir / "manifests" / f"{manifest}.json").read_text())
    tensors = lazy({name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()})
    found = TensorFile(tensors, ("optimizer_state_dict", "tb_logger"))
    monkeypatch.setattr(sources, "open_tensors", lambda path: found)
    path = tmp_path / "pytorch_ckpt_latest.tar"
    path.touch()
    source = open_source(path)
    assert source.config == vj.ViLBERTConfig.base(**fields)
    assert set(source.heads) == set(heads)
    assert not source.states_config
    assert any("text_co_layers=(6, 7, 8, 9, 10, 11)" in line for line in source.assumed)
    assert source.unused["not a parameter"] == found.left_out
    assert source.unused[f"the same as {WORD_TABLE}"] == (DECODER,)
    num_unused = sum(len(names) for names in source.unused.values())
    assert len(source.shapes) == len(shapes) + len(found.left_out) - num_unused


def test_the_json_of_the_same_name_is_the_config(tmp_path):
    config = changed(fusion="sum", text_co_layers=(0, 2))
    source = open_source(write_released(tmp_path / "model.safetensors", config))
    assert source.config.fusion == "sum"
    assert source.config.text_co_layers == (0, 2)
    assert source.assumed == ()
    assert source.states_config


def test_a_given_config_comes_before_the_json_beside_the_file(tmp_path):
    path = write_released(tmp_path / "model.safetensors")
    other = changed(text_co_layers=(0, 2))
    given = tmp_path / "other.json"
    given.write_text(json.dumps(to_released(other)))
    assert open_source(path, given).config.text_co_layers == (0, 2)
    assert open_source(path, str(given)).config.text_co_layers == (0, 2)
    assert open_source(path, other).config == other
    given.write_text(json.dumps(other.to_dict()))
    assert open_source(path, given).config == other


def test_widths_like_these_need_the_json(tmp_path):
    message = refusal(write_released(tmp_path / "model.safetensors", fields={}))
    assert "text.num_heads cannot be guessed" in message


CONTRADICTIONS = {
    "width": ({"regions_width": 12}, "misshaped: bert.v_embeddings.image_embeddings.weight: [10, 7] in the file, [12"),
    "vocabulary": ({"vocab_size": 24}, f"misshaped: {WORD_TABLE}: [23, 12] in the file, [24, 12] by the config"),
    "fewer layers": (
        {"text_num_layers": 2, "text_co_layers": (0, 1)}, "not understood: bert.encoder.layer.2.output.dense.weight [12"
    ),
    "more layers": ({"regions_num_layers": 3}, "missing: bert.encoder.v_layer.2.attention.self.query.weight"),
    "fewer exchanges": (
        {"text_co_layers": (2,), "region_co_layers": (1,)}, "not understood: bert.encoder.c_layer.1.biOutput.q_dense1"
    ),
    "task tokens": ({"num_task_embeddings": 20}, "missing: bert.embeddings.task_embeddings.weight"),
    "classes": ({"region_target_dim": 5}, "misshaped: cls.imagePredictions.decoder.bias: [6] in the file, [5] by the"),
}  # fmt: skip


@pytest.mark.parametrize(("fields", "expected"), CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
@pytest.mark.parametrize("form", ["released", "ours"])
def test_a_json_that_contradicts_the_shapes_is_refused(tmp_path, form, fields, expected):
    other = changed(**fields)
    path = write_released(tmp_path / "model.safetensors", fields={})
    given = tmp_path / "given.json"
    given.write_text(json.dumps(to_released(other) if form == "released" else other.to_dict()))
    message = refusal(path, given)
    assert "does not fit the model config, in " in message
    assert expected in message
    assert message.count("\n") == int(message.partition("in ")[2].partition(" places")[0])


def test_answer_heads_of_our_json_must_be_those_of_the_file(tmp_path):
    tensors = released_state_dict(heads=("vqa", *PRETRAINING_HEADS))
    path = write_released(tmp_path / "model.safetensors", tensors=tensors)
    assert open_source(path).config.num_vqa_answers == 11  # a released JSON does not say
    ours = tmp_path / "ours.json"
    ours.write_text(json.dumps(changed(num_vqa_answers=12).to_dict()))
    assert "vil_prediction.logit_fc.3.bias: [11] in the file, [12] by the config" in refusal(path, ours)
    ours.write_text(json.dumps(changed(answer_head="weight_norm").to_dict()))
    message = refusal(path, ours)
    assert "does not fit the model config" in message
    assert "not understood: vil_prediction.logit_fc.0.weight" in message


def test_unreadable_jsons_are_refused(tmp_path):
    path, given = write_released(tmp_path / "model.safetensors"), tmp_path / "given.json"
    for content, expected in [
        ("{", "cannot be read as a model config"),
        ("[1]", "holds a JSON list"),
        ('{"vocab_size": 23, "dynamic_attention": true}', "text-gated visual self-attention is not supported"),
        ('{"vocab_size": 23, "hidden_sise": 12}', "hidden_sise: not a released key"),
    ]:
        given.write_text(content)
        assert expected in refusal(path, given)
    assert "cannot be read as a model config" in refusal(path, tmp_path / "absent.json")
    path.with_suffix(".json").write_text("{")
    assert "cannot be read as a model config" in refusal(path)


@pytest.mark.parametrize("change", ["missing", "extra", "misshaped"])
def test_one_wrong_tensor_in_a_file_is_refused_by_name(tmp_path, change):
    tensors, name = released_state_dict(), "bert.encoder.c_layer.1.biattention.key2.weight"
    if change == "missing":
        del tensors[name]
    else:
        tensors["surplus" if change == "extra" else name] = np.zeros((3, 2), np.float32)
    message = refusal(write_released(tmp_path / "model.safetensors", tensors=tensors))
    assert "in 1 places" in message
    assert {
        "missing": f"missing: {name}",
        "extra": "not understood: surplus [3, 2]",
        "misshaped": f"misshaped: {name}: [3, 2] in the file, [8, 12] by the config",
    }[change] in message


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("wanted", [np.empty((CONFIG.text.width,), np.float32), None], ids=["host", "device"])
def test_values_that_are_not_finite_are_refused_by_name(tmp_path, value, wanted):
    tensors = released_state_dict()
    tensors["bert.embeddings.LayerNorm.bias"] = np.full_like(tensors["bert.embeddings.LayerNorm.bias"], value)
    write_released(tmp_path / "model.safetensors", tensors=tensors)
    source, path = open_source(tmp_path / "model.safetensors"), "trunk/text_embeddings/norm/bias"
    if wanted is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        wanted = jax.ShapeDtypeStruct((CONFIG.text.width,), np.float32, sharding=sharding)
    with pytest.raises(vj.InputError, match=rf"{path}: the file holds values that are not finite \(0\.0% are\)"):
        source.read({path: wanted})


def test_a_trunk_without_heads_is_a_source(tmp_path):
    tensors = {name: array for name, array in released_state_dict().items() if not name.startswith("cls.")}
    source = open_source(write_released(tmp_path / "model.safetensors", tensors=tensors))
    assert source.heads == ()
    assert all(path.startswith("trunk/") for path in source.shapes)


# --- folders


def test_a_folder_with_a_released_config_is_a_released_model(tmp_path):
    path = write_released(tmp_path / "folder" / "pytorch_model_9.safetensors", fields={})
    (path.parent / "config.json").write_text(json.dumps(to_released(CONFIG)))
    source = open_source(path.parent)
    assert source.kind == "released ViLBERT (pre-training)"
    assert source.files == (path,)
    assert refusal(path)  # the file by itself: config.json may belong to others beside it
    (path.parent / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    assert open_source(path.parent).config.text == CONFIG.text


def test_of_several_weights_in_a_folder_one_has_to_be_named(tmp_path):
    for epoch in range(3):
        write_released(tmp_path / f"pytorch_model_{epoch}.safetensors", fields={})
    (tmp_path / "config.json").write_text(json.dumps(to_released(CONFIG)))
    assert "holds 3 weights files, pytorch_model_0.safetensors, pytorch_model_1.safetensors" in refusal(tmp_path)
    write_released(tmp_path / "model.safetensors", fields={})
    assert open_source(tmp_path).files == (tmp_path / "model.safetensors",)


def test_sharded_weights_are_refused_as_such(tmp_path):
    write_bert(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00002.safetensors")
    shutil.copy(tmp_path / "model-00001-of-00002.safetensors", tmp_path / "model-00002-of-00002.safetensors")
    assert "Weights sharded over several files are not read" in refusal(tmp_path)


def test_safetensors_are_preferred_to_a_pickle(tmp_path):
    write_bert(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    assert open_source(tmp_path).files == (tmp_path / "model.safetensors",)


@pytest.mark.parametrize("files", [(), ("config.json",), ("model.safetensors",), ("checkpoints/",)])
def test_a_folder_of_something_else_is_refused(tmp_path, files):
    for name in files:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_text("{}")
    assert "is neither a checkpoint of this project" in refusal(tmp_path)


def test_config_json_that_is_no_object_is_refused(tmp_path):
    for content, expected in [("{", "cannot be read as JSON"), ("[]", "holds a JSON list"), ("{}", "size: missing")]:
        write_bert(tmp_path)
        (tmp_path / "config.json").write_text(content)
        assert expected in refusal(tmp_path)


# --- BERT


def test_a_bert_folder_gives_the_text_stream_and_the_word_head(tmp_path):
    tensors = bert_state_dict()
    write_vocabulary(write_bert(tmp_path, tensors) / "vocab.txt")
    for where in (tmp_path, tmp_path / "model.safetensors"):
        source = open_source(where)
        assert source.kind == "BERT"
        assert source.text_only
        assert source.states_config
        assert source.heads == ("tokens",)
        assert source.vocab == tmp_path
        assert source.features is None
        assert source.config.text == CONFIG.text
        assert source.config.vocab_size == 23
        assert source.config.max_text_length == 9
        assert source.config.text_co_layers == (0, 1, 2)
        assert source.config.region_co_layers == (0, 1, 2)
        assert "text_co_layers=(0, 1, 2)" in source.assumed[0]
        assert {path.split("/")[0] for path in source.shapes} == {"trunk", "token_head"}
        assert not any("region" in path or "co_layer" in path for path in source.shapes)
    table = {entry.source: entry for entry in bert_table(CONFIG, ("tokens",)).entries}
    read = source.read({path: np.zeros(shape, np.float32) for path, shape in source.shapes.items()})
    for name, entry in table.items():
        np.testing.assert_array_equal(read[entry.path], tensors[name].T if entry.transpose else tensors[name])


def test_a_bert_without_head_or_prefix_gives_the_text_stream(tmp_path):
    bare = {name.removeprefix("bert."): array for name, array in bert_state_dict(with_head=False).items()}
    source = open_source(write_bert(tmp_path / "bare", bare))
    assert source.heads == ()
    assert source.shapes == open_source(write_bert(tmp_path / "other", bert_state_dict(with_head=False))).shapes
    assert source.vocab is None


def test_what_a_bert_has_beyond_the_text_stream_is_left_out_with_its_reason(tmp_path):
    more = {
        "bert.pooler.dense.weight": np.ones((12, 12), np.float32),
        "bert.pooler.dense.bias": np.ones(12, np.float32),
        "cls.seq_relationship.weight": np.ones((2, 12), np.float32),
        "cls.seq_relationship.bias": np.ones(2, np.float32),
        "bert.embeddings.position_ids": np.arange(9)[None],
    }
    source = open_source(write_bert(tmp_path, bert_state_dict() | more))
    left = {name for names in source.unused.values() for name in names}
    assert left == more.keys() | {DECODER, "cls.predictions.decoder.bias"}
    assert set(source.unused["BERT's next-sentence head"]) == {n for n in more if "seq_relationship" in n}
    assert len(source.unused["BERT's pooler: ViLBERT has its own, with another activation"]) == 2


def test_a_bert_in_the_spelling_of_2018_is_read(tmp_path):
    old = {
        name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): array
        for name, array in bert_state_dict().items()
    }
    assert open_source(write_bert(tmp_path, old)).shapes == open_source(write_bert(tmp_path / "new")).shapes


def test_where_the_config_does_not_say_what_it_is_the_names_of_the_tensors_do(tmp_path):
    """Configs of 2018 have no model_type; without ``bert.`` in front the same tensors may be another architecture's."""
    tensors = bert_state_dict()
    assert open_source(write_bert(tmp_path / "old", tensors, model_type=None)).kind == "BERT"
    bare = {name.removeprefix("bert."): array for name, array in tensors.items()}
    assert "is a model of type None" in refusal(write_bert(tmp_path / "bare", bare, model_type=None))


def test_a_bert_that_contradicts_its_config_is_refused(tmp_path):
    message = refusal(write_bert(tmp_path, num_hidden_layers=4, vocab_size=24))
    assert "missing: bert.encoder.layer.3.output.dense.weight" in message
    assert f"misshaped: {WORD_TABLE}: [23, 12] in the file, [24, 12] by the config" in message


@pytest.mark.parametrize("name", [DECODER, "cls.predictions.decoder.bias"])
def test_a_bert_whose_decoder_is_not_tied_is_refused(tmp_path, name):
    tensors = bert_state_dict()
    tensors[name] = tensors[name] + 1
    assert f"not tied: {name} differs" in refusal(write_bert(tmp_path, tensors))


@pytest.mark.parametrize("kind", ["roberta", "albert", "distilbert", "electra", "bert-generation"])
def test_other_architectures_are_refused_by_name(tmp_path, kind):
    write_bert(tmp_path, model_type=kind)
    (tmp_path / "model.safetensors").write_bytes(b"not looked at")
    assert f"is a model of type {kind!r}; the text stream of ViLBERT is a BERT" in refusal(tmp_path)


def test_options_that_this_model_does_not_compute_are_refused_together():
    fields = bert_config(CONFIG) | {
        "hidden_act": "gelu_new",
        "layer_norm_eps": 1e-5,
        "position_embedding_type": "relative_key",
        "is_decoder": True,
        "add_cross_attention": True,
        "pad_token_id": 1,
    }
    del fields["num_attention_heads"]
    with pytest.raises(InputError, match="the BERT WHERE cannot be used") as error:
        config_from_bert(fields, "WHERE")
    assert set(str(error.value).split("\n  ")[1:]) == {
        "num_attention_heads: missing",
        "layer_norm_eps is 1e-05, this model has 1e-12",
        "position_embedding_type is 'relative_key', this model has 'absolute'",
        "is_decoder is True, this model has False",
        "add_cross_attention is True, this model has False",
        "pad_token_id is 1, this model has 0",
        "hidden_act is 'gelu_new', this model has gelu, relu, swish, silu",
    }


def test_what_a_bert_config_leaves_out_has_the_value_of_transformers():
    whole = bert_config(CONFIG)
    needed = {key: whole[key] for key in whole if key.startswith(("num_", "max_"))}
    needed |= {key: whole[key] for key in ("model_type", "hidden_size", "intermediate_size", "vocab_size")}
    assert config_from_bert(needed | {"position_embedding_type": None}, "") == config_from_bert(whole, "")
    transformers = pytest.importorskip("transformers")
    config, _ = config_from_bert(transformers.BertConfig().to_dict(), "")
    assert config == vj.ViLBERTConfig.base()


def test_bert_configs_go_back_and_forth():
    text = StreamConfig(
        width=24, num_layers=7, num_heads=2, mlp_dim=5, activation="relu", dropout_rate=0.2, attention_dropout_rate=0.3
    )
    config, assumed = config_from_bert(bert_config(dataclasses.replace(CONFIG, text=text)), "")
    assert config.text == text
    assert config.text_co_layers == (1, 2, 3, 4, 5, 6)  # the last six, as in the paper
    assert config.regions == vj.ViLBERTConfig.base().regions
    assert "6 region layers, text_co_layers=(1, 2, 3, 4, 5, 6), 2048 features and 1601 classes" in assumed[0]


# --- the hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of the hub, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def snapshot(hub, name):
    """The folder in which a repository of the hub is kept; its files are to be written."""
    repository = hub / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abcd")
    return repository / "snapshots" / "0123abcd"


@pytest.mark.parametrize("name", ["bert-base-uncased", "someone/bert-v1.5"])
def test_a_hub_name_is_read_from_the_cache(hub, name):
    write_vocabulary(write_bert(snapshot(hub, name)) / "vocab.txt")
    source = open_source(name)
    assert source.kind == "BERT"
    assert source.origin == source.provenance["source"] == name
    assert source.vocab is not None
    assert source.described_provenance()["files"].keys() == {"model.safetensors"}


@pytest.mark.parametrize("name", ["bert-base-uncased", "someone/bert-v1.5", "has space", "a--b"])
def test_a_hub_name_that_is_not_cached_is_an_error_offline(hub, name):
    message = refusal(name)
    assert f"no checkpoint {name!r}: it is no file or folder here, not in the Hugging Face cache" in message
    assert "Give the path" in message


def test_a_cache_with_the_vocabulary_alone_is_not_enough(hub):
    write_vocabulary(snapshot(hub, "bert-base-uncased") / "vocab.txt")
    message = refusal("bert-base-uncased")
    assert "without config.json with model.safetensors or pytorch_model.bin" in message
    assert "could not be downloaded whole. Run once with network access" in message


def test_the_pickle_is_asked_for_only_where_there_are_no_safetensors(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    asked = []

    def download(name, *, allow_patterns=None, local_files_only=False, **_):
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not cached")
        asked.append([file for file in allow_patterns if file.endswith((".safetensors", ".bin"))])
        if asked[-1] == ["pytorch_model.bin"]:
            write_torch_bert(tmp_path)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert open_source("someone/old-bert").files == (tmp_path / "pytorch_model.bin",)
    assert asked == [["model.safetensors"], ["pytorch_model.bin"]]


def write_torch_bert(folder):
    torch = pytest.importorskip("torch")
    write_bert(folder)
    (folder / "model.safetensors").unlink()
    tensors = {name: torch.tensor(array) for name, array in bert_state_dict().items()}
    torch.save(tensors, folder / "pytorch_model.bin")


def test_a_repository_without_weights_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(tmp_path))
    assert "someone/data came from the Hugging Face hub or its cache without config.json" in refusal("someone/data")


@pytest.mark.parametrize("name", ["./here", "/there/model", "~/model", "a/b/c", "model.bin", "a/model.safetensors"])
def test_what_looks_like_a_path_is_not_looked_for_on_the_hub(monkeypatch, name):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    assert f"there is nothing at {name}: give a weights file, a checkpoint folder, or a hub name" in refusal(name)


# --- neither


def test_weights_of_something_else_are_refused_with_a_look_inside(tmp_path):
    tensors = {f"layer{i}.weight": np.zeros(2, np.float32) for i in range(9)}
    message = refusal(write_released(tmp_path / "model.safetensors", tensors=tensors))
    assert "is neither a ViLBERT (no tensor bert.v_embeddings.*), nor its single-stream baseline" in message
    assert "holds 9 tensors: layer0.weight, layer1.weight" in message


def test_a_bert_file_away_from_its_config_is_refused(tmp_path):
    path = write_bert(tmp_path / "bert") / "model.safetensors"
    moved = shutil.move(path, tmp_path / "alone.safetensors")
    assert "nor a BERT with its config.json beside it" in refusal(moved)


def test_a_truncated_file_in_a_folder_is_refused_by_its_path(tmp_path):
    path = write_bert(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    assert f"{path} is a damaged or truncated safetensors file" in refusal(tmp_path)

"""A BERT of the transformers library becomes the text stream, computes the same there, and goes back unchanged."""

import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import vilbert_jax as vj
from vilbert_jax.checkpoints.exporting import export_bert
from vilbert_jax.checkpoints.hf_bert import config_from_bert
from vilbert_jax.checkpoints.sources import open_source
from vilbert_jax.checkpoints.verify import compare_with_transformers
from vilbert_jax.data.text import load_tokenizer
from vilbert_jax.paths import named_leaves

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
transformers.logging.disable_progress_bar()
transformers.logging.set_verbosity_error()

SIZES = {
    "vocab_size": 97, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40,
    "max_position_embeddings": 19, "type_vocab_size": 3,
}  # fmt: skip
OTHER_SIZES = {
    "vocab_size": 53, "hidden_size": 40, "num_hidden_layers": 1, "num_attention_heads": 5, "intermediate_size": 24,
    "max_position_embeddings": 11, "type_vocab_size": 2,
}  # fmt: skip
KINDS = ("BertModel", "BertForMaskedLM", "BertForPreTraining")
WORD_TABLE = "trunk/text_embeddings/word_embeddings/embedding"


def make_bert(kind="BertForMaskedLM", **fields):
    """A BERT with random numbers everywhere, also where initialisation puts 0 and 1."""
    torch.manual_seed(0)
    bert = getattr(transformers, kind)(transformers.BertConfig(**SIZES | fields)).eval()
    with torch.no_grad():
        for parameter in bert.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return bert


def save(bert, folder, how="safetensors"):
    if how == "safetensors":
        bert.save_pretrained(folder)
        return
    folder.mkdir()
    names = {name: name for name in bert.state_dict()}
    if how != "bin":  # as TensorFlow checkpoints were once converted, and as DataParallel saved them
        names = {name: name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta") for name in names}
    if how == "module":
        names = {name: f"module.{old}" for name, old in names.items()}
    torch.save({names[name]: tensor for name, tensor in bert.state_dict().items()}, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(bert.config.to_dict()))


def small_config(folder):
    """The config that the BERT's own gives, with a small visual stream and without co-attention."""
    config, _ = config_from_bert(json.loads((folder / "config.json").read_text()), "the BERT")
    num_layers = min(2, config.text.num_layers)
    co_layers = tuple(range(num_layers))
    return dataclasses.replace(
        config,
        regions=vj.StreamConfig(width=12, num_layers=num_layers, num_heads=3, mlp_dim=10),
        region_feature_dim=6,
        region_target_dim=5,
        co_width=8,
        co_num_heads=2,
        text_co_layers=co_layers,
        region_co_layers=co_layers,
        use_coattention=False,
    )


def load(folder, **more):
    return vj.load_pretrained(folder, config=small_config(folder), **more)


def some_words(bert):
    """Ids, types and mask of rows of different lengths."""
    rng = np.random.default_rng(0)
    config, length = bert.config, bert.config.max_position_embeddings - 2
    mask = np.arange(length) < np.array([[length], [5], [2], [length - 1]])
    token_ids = np.where(mask, rng.integers(1, config.vocab_size, mask.shape), 0)
    return token_ids.astype(np.int32), rng.integers(0, config.type_vocab_size, mask.shape).astype(np.int32), mask


def theirs(bert, token_ids, token_types, mask):
    with torch.no_grad():
        output = bert(
            input_ids=torch.from_numpy(token_ids).long(),
            token_type_ids=torch.from_numpy(token_types).long(),
            attention_mask=torch.from_numpy(mask).long(),
            output_hidden_states=True,
        )
    logits = getattr(output, "prediction_logits" if "prediction_logits" in output else "logits", None)
    return [state.numpy() for state in output.hidden_states], None if logits is None else logits.numpy()


@functools.cache
def compiled(model):
    return jax.jit(
        functools.partial(model.apply, deterministic=True, capture_intermediates=True, mutable=["intermediates"])
    )


def ours(model, params, token_ids, token_types, mask):
    rows = len(token_ids)
    inputs = vj.Inputs(
        token_ids=token_ids,
        token_types=token_types,
        text_mask=mask,
        region_features=np.ones((rows, 3, model.config.region_feature_dim), np.float32),
        region_boxes=np.zeros((rows, 3, 5), np.float32),
        region_mask=np.ones((rows, 3), bool),
    )
    output, variables = compiled(model)({"params": params}, inputs)
    trunk = variables["intermediates"]["trunk"]
    layers = [trunk["encoder"][f"text_layer_{i}"]["__call__"][0] for i in range(model.config.text.num_layers)]
    return [trunk["text_embeddings"]["__call__"][0], *layers], output.token_logits


def assert_equal_outputs(bert, model, params, *, with_head=True):
    words = some_words(bert)
    mask = words[-1]
    (their_states, their_logits), (our_states, our_logits) = theirs(bert, *words), ours(model, params, *words)
    assert len(our_states) == bert.config.num_hidden_layers + 1
    for layer, (a, b) in enumerate(zip(our_states, their_states, strict=True)):
        np.testing.assert_allclose(np.asarray(a)[mask], b[mask], rtol=0, atol=1e-5, err_msg=f"states {layer}")
    if with_head:
        np.testing.assert_allclose(np.asarray(our_logits)[mask], their_logits[mask], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["safetensors", "bin", "module"])
def test_states_of_every_layer_and_word_logits_are_those_of_transformers(kind, how, tmp_path):
    bert = make_bert(kind)
    save(bert, tmp_path / "bert", how)
    has_head = kind != "BertModel"
    model, params = load(tmp_path / "bert", fresh=() if has_head else ("tokens",))
    assert_equal_outputs(bert, model, params, with_head=has_head)


@pytest.mark.parametrize(
    "fields",
    [OTHER_SIZES, *({"hidden_act": name} for name in ("relu", "swish", "silu"))],
    ids=lambda fields: fields.get("hidden_act", "sizes"),
)
def test_other_sizes_and_activations(fields, tmp_path):
    bert = make_bert(**fields)
    save(bert, tmp_path / "bert")
    model, params = load(tmp_path / "bert")
    assert_equal_outputs(bert, model, params)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("how", ["safetensors", "bin"])
def test_a_16_bit_bert_is_widened_exactly(dtype, how, tmp_path):
    bert = make_bert().to(getattr(torch, dtype))
    save(bert, tmp_path / "bert", how)
    model, params = load(tmp_path / "bert")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    bert = bert.float()
    np.testing.assert_array_equal(
        named_leaves(params)[WORD_TABLE], bert.bert.embeddings.word_embeddings.weight.detach().numpy()
    )
    assert_equal_outputs(bert, model, params)


def test_the_config_says_what_the_berts_own_says(tmp_path):
    save(make_bert(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2), tmp_path / "bert")
    config = open_source(tmp_path / "bert").config
    assert config.text == vj.StreamConfig(
        width=24, num_layers=2, num_heads=4, mlp_dim=40, dropout_rate=0.3, attention_dropout_rate=0.2
    )
    assert (config.vocab_size, config.max_text_length, config.num_token_types) == (97, 19, 3)
    assert config.regions == vj.StreamConfig(width=1024, num_layers=2, num_heads=8, mlp_dim=1024)  # the paper's
    assert config.text_co_layers == config.region_co_layers == (0, 1)


def test_with_co_attention_on_the_text_stream_is_the_same_parameters(tmp_path):
    save(make_bert(), tmp_path / "bert")
    config = dataclasses.replace(small_config(tmp_path / "bert"), use_coattention=True)
    _, params = vj.load_pretrained(tmp_path / "bert", config=config)
    _, without = load(tmp_path / "bert")
    params, without = named_leaves(params), named_leaves(without)
    assert any("/co_layer_0/" in path for path in params)
    for path in without:
        if path.startswith(("trunk/text_embeddings", "trunk/encoder/text_layer", "token_head")):
            np.testing.assert_array_equal(params[path], without[path], err_msg=path)


def test_the_word_table_and_the_decoder_are_one_array(tmp_path):
    bert = make_bert()
    save(bert, tmp_path / "bert")
    model, params = load(tmp_path / "bert")
    leaves = named_leaves(params)
    assert not [path for path in leaves if "decoder" in path]
    assert [path for path, leaf in leaves.items() if 97 in leaf.shape and leaf.ndim == 2] == [WORD_TABLE]
    token_ids, token_types, mask = some_words(bert)
    token_ids[token_ids == 7] = 8  # word 7 is read nowhere, so only the decoder can see its row
    _, before = ours(model, params, token_ids, token_types, mask)
    leaves[WORD_TABLE] = jnp.asarray(leaves[WORD_TABLE]).at[7].add(1.0)
    _, after = ours(model, traverse_util.unflatten_dict(leaves, sep="/"), token_ids, token_types, mask)
    changed = np.asarray(before != after).any((0, 1))
    assert np.flatnonzero(changed).tolist() == [7]


@pytest.mark.parametrize("fields", [OTHER_SIZES, {"hidden_act": "silu"}], ids=["sizes", "silu"])
def test_what_is_exported_is_what_was_loaded(fields, tmp_path):
    bert = make_bert(**fields)
    save(bert, tmp_path / "bert")
    model, params = load(tmp_path / "bert")
    export_bert(tmp_path / "back", model.config, named_leaves(params), None)
    back, report = transformers.BertForMaskedLM.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(report.values()), report
    state, expected = back.state_dict(), bert.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert state[name].numpy().tobytes() == tensor.numpy().tobytes(), name
    words = some_words(bert)
    np.testing.assert_array_equal(theirs(back.eval(), *words)[1], theirs(bert, *words)[1])
    for key in (*SIZES, "layer_norm_eps", "hidden_dropout_prob", "attention_probs_dropout_prob"):
        assert getattr(back.config, key) == getattr(bert.config, key), key


def test_a_model_without_the_word_head_is_exported_as_a_bare_bert(tmp_path):
    bert = make_bert("BertModel")
    save(bert, tmp_path / "bert")
    model, params = load(tmp_path / "bert", heads=("vqa",), fresh=("vqa",))
    export_bert(tmp_path / "back", model.config, named_leaves(params), None)
    assert json.loads((tmp_path / "back" / "config.json").read_text())["architectures"] == ["BertModel"]
    back = transformers.BertModel.from_pretrained(tmp_path / "back", add_pooling_layer=False).eval()
    words = some_words(bert)
    np.testing.assert_array_equal(theirs(back, *words)[0][-1], theirs(bert, *words)[0][-1])
    assert open_source(tmp_path / "back").heads == ()


def test_the_exported_vocabulary_is_read_by_transformers(tmp_path):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "ball", "##s", "b", "##l", "cafe", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    tokenizer = load_tokenizer(tmp_path / "vocab.txt")
    save(make_bert(vocab_size=len(pieces)), tmp_path / "bert")
    model, params = load(tmp_path / "bert")
    export_bert(tmp_path / "back", model.config, named_leaves(params), tokenizer)
    text = "Red BALLS bl café."
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    assert (
        read(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text).tolist() == [5, 6, 7, 8, 9, 10, 11]
    )
    assert (read.pad_token_id, read.mask_token_id) == (tokenizer.pad_id, tokenizer.mask_id)
    assert read(text)["input_ids"][0] == tokenizer.cls_id
    assert open_source(tmp_path / "back").vocab == tmp_path / "back"
    assert load_tokenizer(tmp_path / "back").fingerprint == tokenizer.fingerprint


def test_task_tokens_and_a_used_folder_are_refused(tmp_path):
    save(make_bert(), tmp_path / "bert")
    model, params = load(tmp_path / "bert")
    with pytest.raises(vj.InputError, match="exists already"):
        export_bert(tmp_path / "bert", model.config, named_leaves(params), None)
    with pytest.raises(vj.InputError, match="task tokens"):
        export_bert(
            tmp_path / "back", dataclasses.replace(model.config, num_task_embeddings=20), named_leaves(params), None
        )
    assert [path.name for path in tmp_path.iterdir()] == ["bert"]


def compare(source, change=None):
    opened = open_source(source)
    params = opened.read({path: np.empty(shape, np.float32) for path, shape in opened.shapes.items()})
    if change is not None:
        params[change] = params[change].copy()
        params[change][..., -1] += 0.1
    return compare_with_transformers(opened.files[0], small_config(opened.files[0].parent), params)


@pytest.mark.parametrize("how", ["safetensors", "gamma", "module"])
def test_the_comparison_runs_the_file_it_is_given(how, tmp_path):
    save(make_bert(), tmp_path / "bert", how)
    differences = compare(tmp_path / "bert")
    assert differences.keys() == {"hidden states", "word logits"}
    assert max(differences.values()) < 1e-5


def test_the_comparison_reads_no_other_file_of_the_folder(tmp_path):
    save(make_bert(), tmp_path / "bert")
    save(make_bert(initializer_range=0.1), tmp_path / "second")
    shutil.copy(tmp_path / "second" / "model.safetensors", tmp_path / "bert" / "second.safetensors")
    assert max(compare(tmp_path / "bert" / "second.safetensors").values()) < 1e-5


def test_the_comparison_is_in_float32_whatever_the_file_holds(tmp_path):
    save(make_bert().to(torch.bfloat16), tmp_path / "bert")
    assert max(compare(tmp_path / "bert").values()) < 1e-5


@pytest.mark.parametrize(
    ("path", "seen_in"),
    [
        (WORD_TABLE, {"hidden states", "word logits"}),
        ("trunk/encoder/text_layer_1/mlp/output/kernel", {"hidden states", "word logits"}),
        ("token_head/bias", {"word logits"}),
    ],
)
def test_the_comparison_sees_a_changed_parameter(path, seen_in, tmp_path):
    save(make_bert(), tmp_path / "bert")
    differences = compare(tmp_path / "bert", change=path)
    assert {name for name, difference in differences.items() if difference > 1e-3} == seen_in


def test_a_bert_without_a_head_is_compared_in_its_states(tmp_path):
    save(make_bert("BertModel"), tmp_path / "bert")
    differences = compare(tmp_path / "bert")
    assert differences.keys() == {"hidden states"}
    assert differences["hidden states"] < 1e-5

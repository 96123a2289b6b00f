"""Tables of names: strict in both directions, the identity there and back, configs worked out from shapes."""

import dataclasses
import functools
import json

import numpy as np
import pytest
from tiny_weights import CONFIG, ONE_STREAM, changed, lazy, random_params, released_state_dict

import vilbert_jax as vj
from vilbert_jax.checkpoints.conversion import (
    DECODER,
    PRETRAINING_HEADS,
    WORD_TABLE,
    abstract_params,
    fingerprint,
    head_of,
    heads_of,
    make_model,
    match,
    normalised,
    to_source,
)
from vilbert_jax.checkpoints.inferred_config import config_from_shapes
from vilbert_jax.checkpoints.released import released_heads, released_table, released_tensors
from vilbert_jax.checkpoints.tensor_files import LazyTensor, open_tensors, write_safetensors, write_torch
from vilbert_jax.errors import InputError
from vilbert_jax.model import HEADS

BETA_HEADS = ("vqa", "choice", "grounding", "token_score", *PRETRAINING_HEADS)
KINDS = {
    "pre-training": (CONFIG, PRETRAINING_HEADS),
    "tasks": (CONFIG, HEADS),
    "weight norm": (changed(answer_head="weight_norm"), BETA_HEADS),
    "task tokens": (changed(num_task_embeddings=20), HEADS),
    "no co-attention": (changed(use_coattention=False), PRETRAINING_HEADS),
    "one head": (CONFIG, ("grounding",)),
    "one stream": (ONE_STREAM, PRETRAINING_HEADS),
    "one stream, tasks": (ONE_STREAM, BETA_HEADS),
    "one stream, heads of ours": (changed(ONE_STREAM, answer_head="mlp"), HEADS),
}
kinds = pytest.mark.parametrize(("config", "heads"), KINDS.values(), ids=KINDS.keys())


@functools.cache
def expected_params(config=CONFIG, heads=PRETRAINING_HEADS):
    return abstract_params(make_model(config, heads))


def matched(tensors, config=CONFIG, heads=PRETRAINING_HEADS):
    return match("FILE", normalised(lazy(tensors)), released_table(config, heads), expected_params(config, heads))


def refusal(tensors, config=CONFIG, heads=PRETRAINING_HEADS):
    with pytest.raises(InputError) as error:
        matched(tensors, config, heads)
    return str(error.value)


@pytest.fixture
def state_dict():
    return released_state_dict()


# --- there and back


@kinds
def test_parameters_come_back_from_the_released_names_bit_for_bit(config, heads):
    params = random_params(make_model(config, heads))
    state_dict = released_tensors(dict(params), config, heads)
    assert all(array.flags.c_contiguous for array in state_dict.values())
    back = {path: tensor.read(()) for path, tensor in matched(state_dict, config, heads).items()}
    assert back.keys() == params.keys()
    for path, array in params.items():
        np.testing.assert_array_equal(back[path], array, strict=True)


@kinds
def test_released_tensors_come_back_from_our_paths_bit_for_bit(config, heads):
    state_dict = released_state_dict(config, heads)
    params = {path: tensor.read(()) for path, tensor in matched(state_dict, config, heads).items()}
    again = released_tensors(params, config, heads)
    assert params == {}  # so that a large model is in memory once
    assert again.keys() == state_dict.keys()
    for name, array in state_dict.items():
        assert again[name].tobytes() == array.tobytes(), name
        assert again[name].shape == array.shape, name


def test_a_part_of_a_transposed_tensor_is_that_part(state_dict):
    path, name = "trunk/encoder/text_layer_0/mlp/intermediate/kernel", "bert.encoder.layer.0.intermediate.dense.weight"
    tensor = matched(state_dict)[path]
    assert tensor.shape == (12, 20)
    np.testing.assert_array_equal(tensor.read((slice(2, 5), slice(7, 11))), state_dict[name].T[2:5, 7:11])


def base_size(config, heads):
    """Names and shapes of the released file of a whole model, without its gigabyte of values."""
    params = {path: np.zeros(leaf.shape, bool) for path, leaf in abstract_params(make_model(config, heads)).items()}
    return {name: list(array.shape) for name, array in released_tensors(params, config, heads).items()}


TASK_TABLE = {"bert.embeddings.task_embeddings.weight": [20, 768]}
MANIFESTS = {
    "pre-training": ("manifest_pretrain_base", PRETRAINING_HEADS, {}, {}),
    "pre-training, beta": ("manifest_pretrain_base_beta", PRETRAINING_HEADS, {}, {}),
    "no co-attention": ("manifest_pretrain_base", PRETRAINING_HEADS, {"use_coattention": False}, {}),
    "tasks": ("manifest_vltasks_base", HEADS, {}, {}),
    "tasks, beta": ("manifest_vltasks_base_beta", BETA_HEADS, {"answer_head": "weight_norm"}, {}),
    "task tokens": ("manifest_vltasks_base", HEADS, {"num_task_embeddings": 20}, TASK_TABLE),
    "one stream": ("manifest_baseline_pretrain", PRETRAINING_HEADS, {"num_streams": 1}, {}),
    "one stream, tasks": (
        "manifest_baseline_vltasks",
        BETA_HEADS,
        {"num_streams": 1, "answer_head": "weight_norm"},
        {},
    ),
}


@pytest.mark.parametrize(("manifest", "heads", "fields", "more"), MANIFESTS.values(), ids=MANIFESTS.keys())
def test_an_export_has_the_names_and_shapes_of_the_released_model(data_dir, manifest, heads, fields, more):
    expected = json.loads((data_dir / "manifests" / f"{manifest}.json").read_text())
    assert base_size(vj.ViLBERTConfig.base(**fields), heads) == expected | more


def test_placeholders_are_zeros_and_the_decoder_is_the_word_table():
    config, heads = KINDS["no co-attention"]
    state_dict = released_state_dict(config, heads)
    for name, array in state_dict.items():
        is_placeholder = ".c_layer." in name
        assert (not array.any()) == is_placeholder, name
        assert array.dtype == np.float32
    np.testing.assert_array_equal(state_dict[DECODER], state_dict[WORD_TABLE])


# --- names


def test_old_spellings_and_the_prefix_of_data_parallel_are_understood(state_dict):
    old = {
        "module."
        + name.replace(".LayerNorm.weight", ".LayerNorm.gamma").replace(".LayerNorm.bias", ".LayerNorm.beta"): x
        for name, x in state_dict.items()
    }
    assert sum(name.endswith("gamma") for name in old) > 5
    plain, renamed = matched(state_dict), matched(old)
    assert plain.keys() == renamed.keys()
    assert all(np.array_equal(plain[path].read(()), renamed[path].read(())) for path in plain)


def test_a_prefix_on_some_names_only_is_not_taken_off(state_dict):
    message = refusal({("module." if name == WORD_TABLE else "") + name: x for name, x in state_dict.items()})
    assert f"not understood: module.{WORD_TABLE} [23, 12]" in message


def test_two_spellings_of_one_tensor_are_refused(state_dict):
    name = "bert.embeddings.LayerNorm"
    message = refusal(state_dict | {f"{name}.gamma": state_dict[f"{name}.weight"]})
    assert f"holds {name}.weight twice, once as {name}.gamma" in message


# --- disagreements


def test_all_disagreements_are_listed_at_once_with_shapes(state_dict):
    del state_dict["bert.t_pooler.dense.bias"], state_dict["cls.bi_seq_relationship.weight"]
    state_dict["bert.encoder.v_layer.2.output.dense.bias"] = np.zeros(10, np.float32)
    state_dict["bert.embeddings.position_embeddings.weight"] = np.zeros((8, 12), np.float32)
    state_dict["cls.imagePredictions.decoder.weight"] = np.zeros((10, 6), np.float32)  # the wrong way round
    state_dict["bert.v_pooler.dense.bias"] = np.zeros(8, np.int32)
    assert refusal(state_dict).split("\n") == [
        "FILE does not fit the model config, in 6 places:",
        "  missing: bert.t_pooler.dense.bias",
        "  missing: cls.bi_seq_relationship.weight",
        "  not understood: bert.encoder.v_layer.2.output.dense.bias [10]",
        "  misshaped: bert.embeddings.position_embeddings.weight: [8, 12] in the file, [9, 12] by the config",
        "  misshaped: cls.imagePredictions.decoder.weight: [10, 6] in the file, [6, 10] by the config",
        "  not floats: bert.v_pooler.dense.bias: int32",
    ]


def test_any_one_missing_or_additional_or_misshaped_tensor_is_refused(state_dict):
    table = released_table(CONFIG)
    for entry in table.entries:
        rest = {name: array for name, array in state_dict.items() if name not in (entry.source, DECODER)}
        assert f"missing: {entry.source}" in refusal(rest)
        longer = {entry.source: np.zeros((2, *state_dict[entry.source].shape), np.float32)}
        assert f"misshaped: {entry.source}: [2," in refusal(rest | longer)
    assert "not understood: another [3]" in refusal(state_dict | {"another": np.zeros(3)})


def test_dead_tensors_and_the_decoder_may_be_absent(state_dict):
    live = {name: array for name, array in state_dict.items() if ".q_dense" not in name and name != DECODER}
    assert len(live) < len(state_dict) - 4
    assert matched(live).keys() == matched(state_dict).keys()


def test_a_decoder_that_is_not_the_word_table_is_refused(state_dict):
    state_dict[DECODER] = np.nextafter(state_dict[DECODER], 9)
    message = refusal(state_dict)
    assert f"not tied: {DECODER} differs from {WORD_TABLE}" in message
    assert "in 1 places" in message
    state_dict[DECODER] = state_dict[DECODER][:-1]
    assert f"not tied: {DECODER} differs" in refusal(state_dict)


def test_the_decoder_stands_in_for_an_absent_word_table(state_dict):
    word_table = state_dict.pop(WORD_TABLE)
    ours = matched(state_dict)["trunk/text_embeddings/word_embeddings/embedding"]
    np.testing.assert_array_equal(ours.read(()), word_table)


def test_only_ties_are_read_before_they_are_wanted(state_dict):
    read = []

    def watched(name, tensor):
        def note(index):
            read.append(name)
            return tensor.read(index)

        return LazyTensor(tensor.shape, tensor.dtype, note)

    tensors = {name: watched(name, tensor) for name, tensor in lazy(state_dict).items()}
    match("FILE", tensors, released_table(CONFIG), expected_params())
    assert sorted(read) == sorted([WORD_TABLE, DECODER])


# --- heads


def test_heads_are_those_with_parameters():
    for config, heads in KINDS.values():
        names = released_table(config, heads).entries
        assert set(released_heads({entry.source: 0 for entry in names}, config)) == set(heads)
    assert heads_of(make_model(CONFIG, PRETRAINING_HEADS)) == PRETRAINING_HEADS
    assert isinstance(make_model(CONFIG, PRETRAINING_HEADS[::-1]), vj.ViLBERTForPretraining)
    assert heads_of(make_model(CONFIG, ("vqa",))) == ("vqa",)


def test_every_parameter_belongs_to_its_head_or_the_trunk():
    for head in HEADS:
        paths = expected_params(CONFIG, (head,))
        assert {head_of(path) for path in paths} == {None, head}
        assert all(head_of(path) is None for path in paths if path.startswith("trunk/"))


# --- fingerprint


def test_the_fingerprint_is_that_of_the_model_in_any_format(tmp_path):
    pytest.importorskip("torch")
    params = random_params(make_model(CONFIG, PRETRAINING_HEADS))
    mark = fingerprint(params)
    for name, write in (("a.bin", write_torch), ("a.safetensors", write_safetensors)):
        write(tmp_path / name, released_tensors(dict(params), CONFIG, PRETRAINING_HEADS))
        tensors = normalised(open_tensors(tmp_path / name).tensors)
        ours = match(name, tensors, released_table(CONFIG), expected_params())
        found = {path: tensor.read(()) for path, tensor in ours.items()}
        assert fingerprint(found) == mark
    assert fingerprint(dict(reversed(params.items()))) == mark


def test_the_fingerprint_notices_one_bit_a_path_and_a_shape():
    params = random_params(make_model(CONFIG, ("choice",)))
    marks = [fingerprint(params)]
    path = "choice_head/kernel"
    marks.append(fingerprint(params | {path: np.nextafter(params[path], 9)}))
    marks.append(fingerprint(params | {path: params[path].T}))
    marks.append(fingerprint({p.replace("choice_head", "grounding_head"): x for p, x in params.items()}))
    assert len(set(marks)) == 4


# --- the config behind the shapes


def shapes_of(config, heads):
    ours = {path: leaf.shape for path, leaf in abstract_params(make_model(config, heads)).items()}
    entries = released_table(config, heads).entries
    return {entry.source: ours[entry.path][::-1] if entry.transpose else ours[entry.path] for entry in entries}


@pytest.mark.parametrize(
    ("manifest", "fields"),
    [
        ("manifest_pretrain_base", {}),
        ("manifest_pretrain_base_beta", {}),
        ("manifest_vltasks_base", {}),
        ("manifest_vltasks_base_beta", {"answer_head": "weight_norm"}),
    ],
)
def test_shapes_of_every_released_model_give_its_config(data_dir, manifest, fields):
    shapes = json.loads((data_dir / "manifests" / f"{manifest}.json").read_text())
    config, assumed = config_from_shapes({name: tuple(shape) for name, shape in shapes.items()})
    assert config == vj.ViLBERTConfig.base(**fields)
    text = "\n".join(assumed)
    assert "text_co_layers=(6, 7, 8, 9, 10, 11), region_co_layers=(0, 1, 2, 3, 4, 5)" in text
    for number in ("text.num_heads=12", "regions.num_heads=8", "co_num_heads=8"):
        assert number in text
    for what in ("activation", "fusion", "dropout"):
        assert what in text


@pytest.mark.parametrize(
    ("config", "heads"),
    [
        (vj.ViLBERTConfig.base(2), PRETRAINING_HEADS),
        (vj.ViLBERTConfig.base(8), PRETRAINING_HEADS),
        (vj.ViLBERTConfig.large(4), PRETRAINING_HEADS),
        (vj.ViLBERTConfig.base(num_task_embeddings=20, num_vqa_answers=17, num_gqa_answers=5), HEADS),
        (vj.ViLBERTConfig.base(vocab_size=100, max_text_length=40, num_token_types=1), PRETRAINING_HEADS),
        (vj.ViLBERTConfig.base(region_target_dim=2048, region_objective="regression"), PRETRAINING_HEADS),
    ],
    ids=["2 layers", "8 layers", "large", "answers and task tokens", "vocabulary", "regression"],
)
def test_sizes_are_found_in_the_shapes(config, heads):
    assert config_from_shapes(shapes_of(config, heads))[0] == config


def test_a_regression_objective_is_assumed_aloud():
    config = vj.ViLBERTConfig.base(2, region_target_dim=2048, region_objective="nce")
    found, assumed = config_from_shapes(shapes_of(config, PRETRAINING_HEADS))
    assert found == dataclasses.replace(config, region_objective="regression")
    assert any('it may be "nce"' in line for line in assumed)


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("text.num_heads", {"text_width": 72, "text_num_heads": 1}),
        ("regions.num_heads", {"regions_width": 64, "regions_num_heads": 1}),
        ("co_num_heads", {"co_width": 192, "co_num_heads": 1}),
    ],
)
def test_widths_that_do_not_tell_the_number_of_heads_ask_for_the_json(field, fields):
    config = changed(vj.ViLBERTConfig.base(2), **fields)
    with pytest.raises(InputError, match=f"{field} cannot be guessed.*Give --model_config"):
        config_from_shapes(shapes_of(config, PRETRAINING_HEADS))


def test_more_co_attention_layers_than_a_stream_has_ask_for_the_json():
    config = changed(vj.ViLBERTConfig.base(2), regions_num_layers=1, text_co_layers=(10, 11), region_co_layers=(0, 0))
    with pytest.raises(InputError, match="2 co-attention layers, and 12 text and 1 region layers.*--model_config"):
        config_from_shapes(shapes_of(config, PRETRAINING_HEADS))


@pytest.mark.parametrize(
    "name",
    [
        "bert.embeddings.word_embeddings.weight",
        "bert.embeddings.position_embeddings.weight",
        "bert.embeddings.token_type_embeddings.weight",
        "bert.v_embeddings.image_embeddings.weight",
        "bert.encoder.layer.0.intermediate.dense.weight",
        "bert.encoder.v_layer.0.intermediate.dense.weight",
        "bert.t_pooler.dense.weight",
        "cls.imagePredictions.decoder.weight",
    ],
)
def test_a_tensor_that_decides_about_the_config_must_be_there(data_dir, name):
    shapes = json.loads((data_dir / "manifests" / "manifest_pretrain_base.json").read_text())
    shapes = {key: tuple(shape) for key, shape in shapes.items()}
    with pytest.raises(InputError, match=f"{name} is missing"):
        config_from_shapes({key: shape for key, shape in shapes.items() if key != name})
    with pytest.raises(InputError, match=rf"{name} is of shape \[4\], not a matrix"):
        config_from_shapes(shapes | {name: (4,)})


def test_to_source_writes_ties_where_their_original_is():
    config, heads = KINDS["one head"]
    table = released_table(config, heads)
    written = to_source(random_params(make_model(config, heads)), table)
    assert [*written] == [*(entry.source for entry in table.entries), DECODER]

"""Models of a few kilobytes with random parameters, and the files that can hold them."""

import dataclasses
import json

import numpy as np
from flax import traverse_util

import vilbert_jax as vj
from vilbert_jax.checkpoints.conversion import PRETRAINING_HEADS, abstract_params, make_model, to_source
from vilbert_jax.checkpoints.hf_bert import bert_config, bert_table, in_bert
from vilbert_jax.checkpoints.released import released_tensors
from vilbert_jax.checkpoints.tensor_files import LazyTensor, write_safetensors

CONFIG = vj.ViLBERTConfig(  # no two sizes are the same, so a swapped axis fails
    text=vj.StreamConfig(width=12, num_layers=3, num_heads=3, mlp_dim=20),
    regions=vj.StreamConfig(width=10, num_layers=2, num_heads=2, mlp_dim=14),
    vocab_size=23,
    max_text_length=9,
    region_feature_dim=7,
    region_target_dim=6,
    co_width=8,
    co_num_heads=4,
    text_co_layers=(1, 2),
    region_co_layers=(0, 1),
    num_vqa_answers=11,
    num_gqa_answers=13,
)
ONE_STREAM = vj.ViLBERTConfig.single_stream(
    text=CONFIG.text,
    vocab_size=CONFIG.vocab_size,
    max_text_length=CONFIG.max_text_length,
    region_feature_dim=CONFIG.region_feature_dim,
    region_target_dim=CONFIG.region_target_dim,
    num_vqa_answers=CONFIG.num_vqa_answers,
    num_gqa_answers=CONFIG.num_gqa_answers,
)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTRACT = vj.FeatureContract(
    detector="a", weights_hash="b", layer="c", colour_order="rgb", resize_rule="d", selection_rule="e",
    feature_dim=CONFIG.region_feature_dim,
)  # fmt: skip


def random_params(model, seed=0):
    """Float32 numpy parameters by path; nothing is 0 or 1, as biases and norms would be."""
    rng = np.random.default_rng(seed)
    shapes = {path: leaf.shape for path, leaf in abstract_params(model).items()}
    return {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}


def nested(params):
    return traverse_util.unflatten_dict(params, sep="/")


def lazy(tensors):
    """Arrays as a file gives them."""

    def tensor(array):
        return LazyTensor(array.shape, str(array.dtype), lambda index: array[index])

    return {name: tensor(array) for name, array in tensors.items()}


def released_state_dict(config=CONFIG, heads=PRETRAINING_HEADS, seed=0):
    """What the released code would save: parameters with its names, the tied decoder, dead tensors."""
    return released_tensors(random_params(make_model(config, heads), seed), config, heads)


def bert_state_dict(config=CONFIG, *, with_head=True, seed=0):
    """What ``BertForMaskedLM``, or with the same names ``BertModel``, would save."""
    params = random_params(make_model(config, PRETRAINING_HEADS), seed)
    parts = ("tokens",) if with_head else ()
    return to_source({path: x for path, x in params.items() if in_bert(path)}, bert_table(config, parts))


def write_bert(folder, tensors=None, **fields):
    """A folder as transformers writes it; ``fields`` go into config.json, None takes one out."""
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors", bert_state_dict() if tensors is None else tensors)
    written = {key: value for key, value in (bert_config(CONFIG) | fields).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(written))
    return folder


def write_vocabulary(path, size=CONFIG.vocab_size, words="abcdefghijklmnopqrstuvwxyz"):
    """A vocab.txt of that many entries."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*SPECIAL, *words][:size]) + "\n")
    return path


def changed(config=CONFIG, **fields):
    """The config with other fields; ``text_`` and ``regions_`` in front of a name of a stream's field."""
    streams = {}
    for stream in ("text", "regions"):
        own = {n.removeprefix(f"{stream}_"): v for n, v in fields.items() if n in _STREAM_FIELDS[stream]}
        streams[stream] = dataclasses.replace(getattr(config, stream), **own)
    rest = {n: v for n, v in fields.items() if not any(n in names for names in _STREAM_FIELDS.values())}
    return dataclasses.replace(config, **streams, **rest)


_STREAM_FIELDS = {
    stream: {f"{stream}_{field.name}" for field in dataclasses.fields(vj.StreamConfig)}
    for stream in ("text", "regions")
}

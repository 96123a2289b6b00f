"""A BERT of the transformers library as the stream of the single-stream baseline: the same numbers, regions masked."""

import json

import numpy as np
import pytest
from test_bert import KINDS, OTHER_SIZES, make_bert, save, some_words, theirs

import vilbert_jax as vj
from vilbert_jax.checkpoints.conversion import PRETRAINING_HEADS
from vilbert_jax.checkpoints.exporting import export_bert
from vilbert_jax.checkpoints.hf_bert import config_from_bert
from vilbert_jax.checkpoints.sources import open_source
from vilbert_jax.checkpoints.verify import compare_with_transformers
from vilbert_jax.paths import named_leaves

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def config_of(folder, **text):
    """The config that the BERT's own gives, with few features and classes, and perhaps more layers."""
    config, _ = config_from_bert(json.loads((folder / "config.json").read_text()), "the BERT", num_streams=1)
    stream = vj.StreamConfig(**vars(config.text) | text)
    return vj.ViLBERTConfig(**vars(config) | {"text": stream, "region_feature_dim": 6, "region_target_dim": 5})


def compare(folder, config, change=None):
    source = open_source(folder).for_model(config)
    params = source.read({path: np.empty(shape, np.float32) for path, shape in source.shapes.items()})
    if change is not None:
        params[change] = params[change] + 0.1 * np.arange(params[change].size).reshape(params[change].shape)
    return compare_with_transformers(source.files[0], config, params)


COMPARED = {
    "BertModel": {"hidden states", "pooled"},
    "BertForMaskedLM": {"hidden states", "word logits"},
    "BertForPreTraining": {"hidden states", "word logits", "pooled", "alignment logits"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_states_pooled_vector_and_both_heads_are_those_of_transformers(kind, tmp_path):
    save(make_bert(kind), tmp_path / "bert")
    differences = compare(tmp_path / "bert", config_of(tmp_path / "bert"))
    assert differences.keys() == COMPARED[kind]
    assert max(differences.values()) < 1e-5


def test_of_a_deeper_model_the_layers_of_the_bert_are_compared(tmp_path):
    save(make_bert("BertForPreTraining"), tmp_path / "bert")
    differences = compare(tmp_path / "bert", config_of(tmp_path / "bert", num_layers=5))
    assert differences.keys() == COMPARED["BertForPreTraining"]
    assert max(differences.values()) < 1e-5


@pytest.mark.parametrize(
    ("path", "seen_in"),
    [
        ("trunk/encoder/layer_1/mlp/output/kernel", COMPARED["BertForPreTraining"]),
        ("trunk/pooler/bias", {"pooled", "alignment logits"}),
        ("alignment_head/kernel", {"alignment logits"}),
    ],
)
def test_the_comparison_sees_a_changed_parameter(path, seen_in, tmp_path):
    save(make_bert("BertForPreTraining"), tmp_path / "bert")
    differences = compare(tmp_path / "bert", config_of(tmp_path / "bert"), change=path)
    assert {name for name, difference in differences.items() if difference > 1e-3} == seen_in


@pytest.mark.parametrize(
    ("kind", "heads"),
    [
        ("BertForPreTraining", PRETRAINING_HEADS),
        ("BertForNextSentencePrediction", ("alignment",)),
        ("BertModel", ("grounding",)),
    ],
)
def test_what_is_exported_loads_in_transformers_whole(kind, heads, tmp_path):
    bert = make_bert(kind, **OTHER_SIZES)
    save(bert, tmp_path / "bert")
    fresh = [head for head in heads if head in ("regions", "grounding")]
    model, params = vj.load_pretrained(tmp_path / "bert", config=config_of(tmp_path / "bert"), heads=heads, fresh=fresh)
    export_bert(tmp_path / "back", model.config, dict(named_leaves(params)), None)
    back, report = getattr(transformers, kind).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(report.values()), report
    state, expected = back.state_dict(), bert.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert state[name].numpy().tobytes() == tensor.numpy().tobytes(), name
    words = some_words(bert)
    np.testing.assert_array_equal(theirs(back.eval(), *words)[0][-1], theirs(bert, *words)[0][-1])

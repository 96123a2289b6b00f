import json

import jax
import numpy as np
import pytest
from test_config import abstract_params

import vilbert_jax as vj
from vilbert_jax.checkpoints.released import (
    PRETRAINING_HEADS,
    ignored_sources,
    params_from_released,
    params_to_released,
    released_names,
)

TASKS = ("vqa", "choice", "grounding", "token_score", *PRETRAINING_HEADS)
ALL = (*TASKS, "gqa", "binary", "entailment")
CASES = [
    ("manifest_pretrain_base", PRETRAINING_HEADS, {}),
    ("manifest_vltasks_base", ALL, {}),
    ("manifest_vltasks_base_beta", TASKS, {"answer_head": "weight_norm"}),
]


@pytest.mark.parametrize(("manifest", "heads", "fields"), CASES)
def test_the_table_is_one_to_one_and_covers_the_manifest(data_dir, manifest, heads, fields):
    shapes = json.loads((data_dir / "manifests" / f"{manifest}.json").read_text())
    config = vj.ViLBERTConfig.base(**fields)
    table = released_names(config, heads)
    sources, paths = [entry.source for entry in table], [entry.path for entry in table]
    assert len(set(sources)) == len(sources)
    assert len(set(paths)) == len(paths)
    left_over = shapes.keys() - set(sources)
    assert left_over <= ignored_sources(config, heads).keys()
    assert all(".q_dense" in name or name == "cls.predictions.decoder.weight" for name in left_over)
    module = vj.ViLBERTForTasks(config, heads=heads)
    ours = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_params(module, config))
    }
    assert ours == {
        entry.path: tuple(shapes[entry.source][::-1] if entry.transpose else shapes[entry.source]) for entry in table
    }


def test_there_and_back_is_the_identity():
    config = vj.ViLBERTConfig.tiny(vocab_size=7, region_feature_dim=3, region_target_dim=5)
    rng = np.random.default_rng(0)
    abstract = abstract_params(vj.ViLBERTForPretraining(config), config)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), abstract)
    again = params_from_released(params_to_released(params, config), config)
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_every_disagreement_is_named():
    config = vj.ViLBERTConfig.tiny(vocab_size=7, region_feature_dim=3, region_target_dim=5)
    abstract = abstract_params(vj.ViLBERTForPretraining(config), config)
    state = params_to_released(jax.tree.map(lambda leaf: np.zeros(leaf.shape), abstract), config)
    del state["bert.t_pooler.dense.bias"], state["cls.predictions.bias"]
    state["bert.encoder.layer.9.output.dense.bias"] = np.zeros(3)
    with pytest.raises(vj.InputError) as error:
        params_from_released(state, config)
    names = ("bert.t_pooler.dense.bias", "cls.predictions.bias", "bert.encoder.layer.9.output.dense.bias")
    assert all(name in str(error.value) for name in names)

import json

import jax
import pytest
from test_config import abstract_params

import vilbert_jax as vj
from vilbert_jax.checkpoints.conversion import DECODER, PRETRAINING_HEADS
from vilbert_jax.checkpoints.released import released_table

TASKS = ("vqa", "choice", "grounding", "token_score", *PRETRAINING_HEADS)
ALL = (*TASKS, "gqa", "binary", "entailment")
CASES = [
    ("manifest_pretrain_base", PRETRAINING_HEADS, {}),
    ("manifest_vltasks_base", ALL, {}),
    ("manifest_vltasks_base_beta", TASKS, {"answer_head": "weight_norm"}),
    ("manifest_baseline_pretrain", PRETRAINING_HEADS, {"num_streams": 1}),
    ("manifest_baseline_vltasks", TASKS, {"num_streams": 1, "answer_head": "weight_norm"}),
]


@pytest.mark.parametrize(("manifest", "heads", "fields"), CASES)
def test_the_table_is_one_to_one_and_covers_the_manifest(data_dir, manifest, heads, fields):
    shapes = json.loads((data_dir / "manifests" / f"{manifest}.json").read_text())
    config = vj.ViLBERTConfig.base(**fields)
    table = released_table(config, heads)
    sources, paths = [entry.source for entry in table.entries], [entry.path for entry in table.entries]
    assert len(set(sources)) == len(sources)
    assert len(set(paths)) == len(paths)
    left_over = shapes.keys() - set(sources)
    assert left_over == table.unused.keys() | table.ties.keys()
    assert all(".q_dense" in name or name == DECODER for name in left_over)
    module = vj.ViLBERTForTasks(config, heads=heads)
    ours = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_params(module, config))
    }
    assert ours == {
        entry.path: tuple(shapes[entry.source][::-1] if entry.transpose else shapes[entry.source])
        for entry in table.entries
    }

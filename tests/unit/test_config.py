import dataclasses
import json

import jax
import numpy as np
import pytest

import vilbert_jax as vj
from vilbert_jax.model import HEADS
from vilbert_jax.released_config import from_released, to_released


def abstract_params(module, config, num_regions=5):
    inputs = vj.Inputs(
        token_ids=np.zeros((2, 4), np.int32),
        token_types=np.zeros((2, 4), np.int32),
        text_mask=np.ones((2, 4), bool),
        region_features=np.zeros((2, num_regions, config.region_feature_dim), np.float32),
        region_boxes=np.zeros((2, num_regions, 5), np.float32),
        region_mask=np.ones((2, num_regions), bool),
        task_id=np.zeros(2, np.int32) if config.num_task_embeddings else None,
    )
    return jax.eval_shape(lambda: module.init(jax.random.key(0), inputs, deterministic=True))["params"]


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


BETA_HEADS = ("vqa", "choice", "grounding", "token_score", "tokens", "regions", "alignment")
RELEASED = [  # preset, millions of parameters in the release, the tied matrix once
    (vj.ViLBERTConfig.base(2), 160.78),
    (vj.ViLBERTConfig.base(4), 205.41),
    (vj.ViLBERTConfig.base(6), 250.04),
    (vj.ViLBERTConfig.base(8), 294.67),
    (vj.ViLBERTConfig.large(2), 396.67),
    (vj.ViLBERTConfig.large(6), 505.87),
    (vj.ViLBERTConfig.single_stream(), 113.51),
    (vj.ViLBERTConfig.large(num_streams=1), 341.03),
]


@pytest.mark.parametrize(("config", "millions"), RELEASED)
def test_parameter_counts_of_the_released_configs(config, millions):
    text, regions, co = config.text.width, config.regions.width, config.co_width
    dead = len(config.text_co_layers) * ((co + 1) * regions + (co + 1) * text)  # q_dense1 and q_dense2
    dead = dead if config.num_streams == 2 else 0
    assert round((config.num_parameters() + dead) / 1e6, 2) == millions
    assert config.num_parameters() == count(abstract_params(vj.ViLBERTForPretraining(config), config))


@pytest.mark.parametrize(
    ("manifest", "heads", "fields"),
    [
        ("manifest_pretrain_base", None, {}),
        ("manifest_pretrain_base_beta", None, {}),
        (
            "manifest_vltasks_base",
            HEADS,
            {},
        ),
        (
            "manifest_vltasks_base_beta",
            BETA_HEADS,
            {"answer_head": "weight_norm"},
        ),
        ("manifest_baseline_pretrain", None, {"num_streams": 1}),
        ("manifest_baseline_vltasks", BETA_HEADS, {"num_streams": 1, "answer_head": "weight_norm"}),
    ],
)
def test_parameter_counts_equal_the_manifests_less_dead_and_tied_entries(data_dir, manifest, heads, fields):
    shapes = json.loads((data_dir / "manifests" / f"{manifest}.json").read_text())
    live = {
        name: shape
        for name, shape in shapes.items()
        if ".q_dense" not in name and name != "cls.predictions.decoder.weight"
    }
    config = vj.ViLBERTConfig.base(**fields)
    module = vj.ViLBERTForPretraining(config) if heads is None else vj.ViLBERTForTasks(config, heads=heads)
    assert count(abstract_params(module, config)) == sum(int(np.prod(shape)) for shape in live.values())


@pytest.mark.parametrize(
    "change", [{"use_coattention": False}, {"num_task_embeddings": 20}, {"text_co_layers": (1, 1)}, {"num_streams": 1}]
)
def test_parameter_count_of_variants(change):
    config = vj.ViLBERTConfig.tiny(**change)
    assert config.num_parameters() == count(abstract_params(vj.ViLBERTForPretraining(config), config))


def test_schedule_of_the_papers_model():
    written = "t0 t1 t2 t3 t4 t5 c0 t6 v0 c1 t7 v1 c2 t8 v2 c3 t9 v3 c4 t10 v4 c5 t11 v5"
    letters = {"text": "t", "region": "v", "co": "c"}
    assert [f"{letters[kind]}{i}" for kind, i in vj.ViLBERTConfig.base().schedule()] == written.split()


def test_schedule_of_uneven_interleavings():
    text = dataclasses.replace(vj.ViLBERTConfig.tiny().text, num_layers=4)
    config = vj.ViLBERTConfig.tiny(text=text, text_co_layers=(0, 3), region_co_layers=(1, 1))
    order = [("region", 0), ("co", 0), *(("text", i) for i in range(3)), ("co", 1), ("text", 3), ("region", 1)]
    assert list(config.schedule()) == order
    without = dataclasses.replace(config, use_coattention=False)
    assert sorted(without.schedule()) == sorted(entry for entry in order if entry[0] != "co")


def test_released_json_round_trip(data_dir):
    for path in sorted((data_dir / "golden").glob("*/config.json")):
        released = json.loads(path.read_text())
        config = vj.ViLBERTConfig.from_json(path)
        written = to_released(config)
        assert {key: value for key, value in released.items() if key in written} == {
            key: written[key] for key in released if key in written
        }
        assert from_released(written) == config


def test_own_json_round_trip(tmp_path):
    config = vj.ViLBERTConfig.tiny(dtype="bfloat16", answer_head="weight_norm", fusion="sum")
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    assert vj.ViLBERTConfig.from_json(tmp_path / "config.json") == config


def test_a_released_json_takes_the_released_defaults():
    config = from_released({"vocab_size": 30522})
    assert (config.regions.num_layers, config.co_num_heads, config.text_co_layers) == (3, 16, (10, 11))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dynamic_attention": True}, "dynamic_attention"),
        ({"model": "roberta"}, "model='roberta'"),
        ({"fixed_t_layer": 2}, "learning-rate multiplier of 0"),
        ({"fast_mode": True}, "fast_mode"),
        ({"visual_target": 3}, "visual_target=3"),
        ({"visual_target": -1}, "visual_target=-1"),
        ({"in_batch_pairs": True}, "in_batch_pairs"),
        ({"hidden_sizes": 3}, "hidden_sizes: not a released key"),
    ],
)
def test_released_options_we_lack_are_refused_by_name(fields, message):
    with pytest.raises(vj.InputError, match=message):
        from_released({"vocab_size": 10, **fields})


def test_all_problems_of_a_released_json_are_told_at_once():
    with pytest.raises(vj.InputError) as error:
        from_released({"dynamic_attention": True, "model": "roberta"})
    assert all(word in str(error.value) for word in ("dynamic_attention", "roberta", "vocab_size: missing"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"co_num_heads": 5}, r"co_width \(128\) must be a multiple of co_num_heads \(5\)"),
        ({"text_co_layers": (1,)}, "equally long"),
        ({"region_co_layers": (0, 2)}, "layers 0 to 1"),
        ({"text_co_layers": (2, 1)}, "ascending"),
        ({"fusion": "concat"}, "one of mul, sum"),
        ({"co_width": 0}, "co_width is 0; it must be an integer of at least 1"),
        ({"vocab_size": "128"}, "vocab_size is '128'"),
        ({"use_coattention": "no"}, "use_coattention is 'no'; it must be true or false"),
        ({"text_co_layers": (0.5, 1.5)}, "list of layer numbers"),
        ({"initializer_range": float("nan")}, "initializer_range is nan"),
        ({"regions": 3}, "regions is 3"),
        ({"dtype": "float16"}, "float32, bfloat16, float64"),
        ({"region_objective": "nce"}, "must equal region_feature_dim"),
        ({"num_streams": 3}, "num_streams is 3; it must be 2, or 1"),
        ({"num_streams": 1, "num_task_embeddings": 20}, "has no task tokens"),
        ({"num_streams": 1, "num_token_types": 1}, "regions have the second type"),
    ],
)
def test_impossible_configs_are_refused(change, message):
    with pytest.raises(vj.InputError, match=message):
        vj.ViLBERTConfig.tiny(**change)


def test_with_one_stream_the_fields_of_the_other_say_nothing():
    shallow = dataclasses.replace(vj.ViLBERTConfig.tiny().text, num_layers=1)
    config = vj.ViLBERTConfig.tiny(num_streams=1, text=shallow, co_num_heads=5)  # no layer 2 to exchange before
    assert list(config.schedule()) == [("joint", 0)]
    assert (config.region_width, config.pair_width) == (shallow.width, shallow.width)


def test_unknown_and_missing_fields_are_named():
    fields = vj.ViLBERTConfig.tiny().to_dict()
    del fields["co_width"]
    fields["text"]["widht"] = 3
    with pytest.raises(vj.InputError, match=r"text\.widht"):
        vj.ViLBERTConfig.from_dict(fields)
    del fields["text"]["widht"]
    with pytest.raises(vj.InputError, match="missing fields \\['co_width'\\]"):
        vj.ViLBERTConfig.from_dict(fields)


def test_an_unreadable_json_is_one_clear_error(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")
    for name in ("broken.json", "absent.json", "list.json"):
        with pytest.raises(vj.InputError, match=name):
            vj.ViLBERTConfig.from_json(tmp_path / name)

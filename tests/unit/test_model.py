"""Properties of the model that hold whatever its weights are."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vilbert_jax as vj
from vilbert_jax.nn.attention import attend

STREAM = vj.StreamConfig(width=12, num_layers=2, num_heads=2, mlp_dim=20)
CONFIG = vj.ViLBERTConfig(
    text=STREAM,
    regions=dataclasses.replace(STREAM, width=8),
    vocab_size=30,
    max_text_length=10,
    region_feature_dim=6,
    region_target_dim=5,
    co_width=16,
    co_num_heads=4,
    text_co_layers=(0, 1),
    region_co_layers=(0, 1),
    initializer_range=0.5,  # so that every part has a say in the output
)
SINGLE_STREAM = dataclasses.replace(CONFIG, num_streams=1)


def random_inputs(batch=3, text=7, regions=6, seed=0):
    rng = np.random.default_rng(seed)
    text_mask = np.arange(text)[None] < rng.integers(3, text, batch)[:, None]
    region_mask = np.arange(regions)[None] < rng.integers(2, regions, batch)[:, None]
    return vj.Inputs(
        token_ids=rng.integers(1, 30, (batch, text)).astype(np.int32),
        token_types=rng.integers(0, 2, (batch, text)).astype(np.int32),
        text_mask=text_mask,
        region_features=rng.normal(size=(batch, regions, 6)).astype(np.float32),
        region_boxes=rng.uniform(size=(batch, regions, 5)).astype(np.float32),
        region_mask=region_mask,
    )


def initialise(model, inputs):
    return model.init(jax.random.key(1), inputs, deterministic=True)["params"]


@pytest.fixture(scope="module", params=[CONFIG, SINGLE_STREAM], ids=["two streams", "one stream"])
def pretraining(request):
    model, inputs = vj.ViLBERTForPretraining(request.param), random_inputs()
    params = initialise(model, inputs)
    apply = jax.jit(lambda inputs: model.apply({"params": params}, inputs, deterministic=True))
    return apply, inputs


def test_what_stands_in_padding_changes_nothing_visible(pretraining):
    apply, inputs = pretraining
    garbage = inputs._replace(
        token_ids=np.where(inputs.text_mask, inputs.token_ids, 29),
        token_types=np.where(inputs.text_mask, inputs.token_types, 1 - inputs.token_types),
        region_features=np.where(inputs.region_mask[..., None], inputs.region_features, 1e3).astype(np.float32),
        region_boxes=np.where(inputs.region_mask[..., None], inputs.region_boxes, -7).astype(np.float32),
    )
    clean, dirty = apply(inputs), apply(garbage)
    np.testing.assert_array_equal(clean.alignment_logits, dirty.alignment_logits)
    np.testing.assert_array_equal(clean.token_logits[inputs.text_mask], dirty.token_logits[inputs.text_mask])
    np.testing.assert_array_equal(clean.region_logits[inputs.region_mask], dirty.region_logits[inputs.region_mask])
    assert np.abs(clean.token_logits[~inputs.text_mask] - dirty.token_logits[~inputs.text_mask]).max() > 0.01


def test_longer_padding_changes_nothing(pretraining):
    apply, inputs = pretraining

    def pad(x):
        return np.pad(x, ((0, 0), (0, 2), *((0, 0),) * (x.ndim - 2)))

    longer = jax.tree.map(pad, inputs)
    short, long = apply(inputs), apply(longer)
    np.testing.assert_allclose(short.alignment_logits, long.alignment_logits, rtol=1e-5, atol=1e-5)
    visible = inputs.text_mask
    np.testing.assert_allclose(short.token_logits[visible], long.token_logits[:, :-2][visible], rtol=1e-4, atol=1e-4)


def test_a_permuted_batch_permutes_the_output(pretraining):
    apply, inputs = pretraining
    order = np.array([2, 0, 1])
    plain, permuted = apply(inputs), apply(jax.tree.map(lambda x: x[order], inputs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[order], b, rtol=1e-5, atol=1e-5), plain, permuted)


def test_permuted_regions_permute_their_rows_and_nothing_else(pretraining):
    """Regions are a set, but for row 0, which the pooler reads."""
    apply, inputs = pretraining
    order = np.array([0, 3, 1, 5, 4, 2])
    shuffled = inputs._replace(
        region_features=inputs.region_features[:, order],
        region_boxes=inputs.region_boxes[:, order],
        region_mask=inputs.region_mask[:, order],
    )
    plain, moved = apply(inputs), apply(shuffled)
    np.testing.assert_allclose(plain.token_logits, moved.token_logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(plain.region_logits[:, order], moved.region_logits, rtol=1e-4, atol=1e-4)


def test_the_streams_meet_only_through_coattention():
    inputs = random_inputs()
    other_picture = inputs._replace(region_features=inputs.region_features + 1)
    for use_coattention in (True, False):
        model = vj.ViLBERTForPretraining(dataclasses.replace(CONFIG, use_coattention=use_coattention))
        params = initialise(model, inputs)
        a, b = (model.apply({"params": params}, x, deterministic=True) for x in (inputs, other_picture))
        assert (np.abs(a.token_logits - b.token_logits).max() > 1e-3) == use_coattention


def test_fusion_is_what_the_config_says():
    inputs = random_inputs()
    outputs = {}
    for fusion in ("mul", "sum"):
        model = vj.ViLBERTForPretraining(dataclasses.replace(CONFIG, fusion=fusion))
        params = initialise(model, inputs)
        out = model.apply({"params": params}, inputs, deterministic=True)
        head = params["alignment_head"]
        text, regions = out.encoded.text_pooled, out.encoded.regions_pooled
        fused = text * regions if fusion == "mul" else text + regions
        expected = fused @ head["kernel"] + head["bias"][None]
        np.testing.assert_allclose(out.alignment_logits, expected, rtol=1e-5, atol=1e-5)
        outputs[fusion] = out.alignment_logits
    assert np.abs(outputs["mul"] - outputs["sum"]).max() > 1e-3


def test_task_tokens_stand_second_and_keep_word_positions():
    config = dataclasses.replace(CONFIG, num_task_embeddings=20)
    model, inputs = vj.ViLBERTForPretraining(config), random_inputs()
    with_task = inputs._replace(task_id=np.array([0, 7, 19], np.int32))
    params = initialise(model, with_task)
    out, variables = model.apply(
        {"params": params}, with_task, deterministic=True, capture_intermediates=True, mutable=["intermediates"]
    )
    assert out.token_logits.shape == (3, 8, 30)
    embedded = variables["intermediates"]["trunk"]["text_embeddings"]["__call__"][0]
    tables = params["trunk"]["text_embeddings"]

    def norm(x):
        return (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)

    task = tables["task_embeddings"]["embedding"][np.array([0, 7, 19])]  # no position, no token type
    np.testing.assert_allclose(embedded[:, 1], norm(task), rtol=1e-4, atol=1e-4)
    second = (
        tables["word_embeddings"]["embedding"][inputs.token_ids[:, 1]]
        + tables["position_embeddings"]["embedding"][1][None]
        + tables["token_type_embeddings"]["embedding"][inputs.token_types[:, 1]]
    )
    np.testing.assert_allclose(embedded[:, 2], norm(second), rtol=1e-4, atol=1e-4)
    positions = np.array([[1, 2], [2, 1], [3, 3]], np.int32)
    some = model.apply({"params": params}, with_task, deterministic=True, masked_positions=positions)
    expected = np.take_along_axis(np.asarray(out.token_logits), positions[..., None] + 1, axis=1)
    np.testing.assert_allclose(some.token_logits, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(vj.InputError, match="give Inputs.task_id"):
        model.apply({"params": params}, inputs, deterministic=True)


def test_attention_maps_are_kept_only_on_request():
    model, inputs = vj.ViLBERTForPretraining(CONFIG), random_inputs()
    params = initialise(model, inputs)
    plain = jax.jit(lambda p, x: model.apply({"params": p}, x, deterministic=True))
    sown = jax.jit(lambda p, x: model.apply({"params": p}, x, deterministic=True, mutable=["intermediates"]))
    _, variables = sown(params, inputs)
    maps = jax.tree.leaves(variables["intermediates"])
    assert len(maps) == 2 + 2 + 2 * 2  # text layers, region layers, two directions of two co-attention layers
    for probs in maps:
        np.testing.assert_allclose(probs.sum(-1), 1, rtol=1e-5)
    # No output and no memory for them otherwise: the compiled programs differ by the maps alone.
    outputs = [f.lower(params, inputs).compile().memory_analysis().output_size_in_bytes for f in (plain, sown)]
    assert outputs[1] - outputs[0] >= sum(probs.nbytes for probs in maps)


def test_dropout_needs_a_key_and_depends_on_it():
    model, inputs = vj.ViLBERTForPretraining(CONFIG), random_inputs()
    params = initialise(model, inputs)
    run = jax.jit(lambda key: model.apply({"params": params}, inputs, deterministic=False, rngs={"dropout": key}))
    a, b, again = (run(jax.random.key(seed)).alignment_logits for seed in (0, 1, 0))
    np.testing.assert_array_equal(a, again)
    assert np.abs(a - b).max() > 1e-3


@pytest.mark.parametrize("config", [CONFIG, SINGLE_STREAM], ids=["two streams", "one stream"])
def test_only_two_streams_drop_out_in_front_of_the_heads(config):
    none = {"dropout_rate": 0.0, "attention_dropout_rate": 0.0}
    streams = {"text": dataclasses.replace(config.text, **none), "regions": dataclasses.replace(config.regions, **none)}
    model, inputs = vj.ViLBERTForPretraining(dataclasses.replace(config, **streams)), random_inputs()
    params = initialise(model, inputs)
    run = jax.jit(lambda key: model.apply({"params": params}, inputs, deterministic=False, rngs={"dropout": key}))
    a, b = (run(jax.random.key(seed)).alignment_logits for seed in (0, 1))
    assert (np.abs(a - b).max() > 1e-3) == (config.num_streams == 2)


def test_each_dropout_rate_acts_where_the_release_applies_it():
    """Odd but released: region embeddings drop at the text rate, co-attention maps at the rate of what is read."""
    none = {"dropout_rate": 0.0, "attention_dropout_rate": 0.0}
    inputs = random_inputs()
    quiet = dataclasses.replace(
        CONFIG, text=dataclasses.replace(CONFIG.text, **none), regions=dataclasses.replace(CONFIG.regions, **none)
    )
    params = initialise(vj.ViLBERTForPretraining(quiet), inputs)

    def zeros(stream, rate):
        """Which maps and embeddings hold exact zeros once one rate is 0.9."""
        config = dataclasses.replace(quiet, **{stream: dataclasses.replace(getattr(quiet, stream), **{rate: 0.9})})
        everything = jax.tree.map(lambda x: np.ones_like(x), inputs)._replace(token_ids=inputs.token_ids)
        everything = everything._replace(token_types=inputs.token_types, region_features=inputs.region_features)
        _, variables = vj.ViLBERTForPretraining(config).apply(
            {"params": params}, everything, deterministic=False, rngs={"dropout": jax.random.key(2)},
            capture_intermediates=True, mutable=["intermediates"],
        )  # fmt: skip
        trunk = variables["intermediates"]["trunk"]
        encoder = trunk["encoder"]
        seen = {
            "text embeddings": trunk["text_embeddings"]["__call__"][0],
            "region embeddings": trunk["region_embeddings"]["__call__"][0],
            "text map": encoder["text_layer_0"]["attention"]["attention_probs"][0],
            "region map": encoder["region_layer_0"]["attention"]["attention_probs"][0],
            "text over regions": encoder["co_layer_0"]["text_attention"]["attention_probs"][0],
            "regions over text": encoder["co_layer_0"]["region_attention"]["attention_probs"][0],
        }
        return {name for name, array in seen.items() if (np.asarray(array) == 0).mean() > 0.5}

    assert zeros("text", "dropout_rate") == {"text embeddings", "region embeddings"}
    assert zeros("regions", "dropout_rate") == set()
    assert zeros("text", "attention_dropout_rate") == {"text map", "regions over text"}
    assert zeros("regions", "attention_dropout_rate") == {"region map", "text over regions"}


def test_half_precision_stays_near_and_keeps_float32_parameters():
    inputs = random_inputs()
    params = initialise(vj.ViLBERTForPretraining(CONFIG), inputs)
    half = vj.ViLBERTForPretraining(dataclasses.replace(CONFIG, dtype="bfloat16", initializer_range=0.02))
    full = vj.ViLBERTForPretraining(CONFIG)
    params = initialise(half, inputs)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    a, b = (m.apply({"params": params}, inputs, deterministic=True) for m in (half, full))
    assert a.encoded.text.dtype == a.encoded.text_pooled.dtype == jnp.bfloat16
    assert a.token_logits.dtype == a.region_logits.dtype == a.alignment_logits.dtype == jnp.float32
    np.testing.assert_allclose(a.encoded.text.astype(np.float32), b.encoded.text, atol=0.1)


def test_wrong_widths_and_lengths_are_one_clear_error():
    model, inputs = vj.ViLBERTForPretraining(CONFIG), random_inputs()
    params = initialise(model, inputs)
    with pytest.raises(vj.InputError, match="9 wide, the model expects 6"):
        model.apply({"params": params}, inputs._replace(region_features=np.ones((3, 6, 9))), deterministic=True)
    long = random_inputs(text=11)
    with pytest.raises(vj.InputError, match="11 tokens, but the position table has 10"):
        model.apply({"params": params}, long, deterministic=True)
    with pytest.raises(vj.InputError, match="no task tokens"):
        model.apply({"params": params}, inputs._replace(task_id=np.zeros(3, np.int32)), deterministic=True)


def test_attend_against_numpy():
    rng = np.random.default_rng(0)
    query, key, value = (rng.normal(size=(2, n, 3, 4)).astype(np.float32) for n in (5, 6, 6))
    mask = np.array([[1, 1, 0, 1, 0, 0], [1, 0, 0, 0, 0, 1]], bool)
    context, probs = attend(*map(jnp.asarray, (query, key, value, mask[:, None])), dropout=lambda x: x)
    for b in range(2):
        for n in range(3):
            scores = query[b, :, n] @ key[b, mask[b], n].T / 2
            weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
            np.testing.assert_allclose(context[b, :, n], weights @ value[b, mask[b], n], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(probs[b, n][:, mask[b]], weights, rtol=1e-5, atol=1e-6)
            assert not np.asarray(probs[b, n][:, ~mask[b]]).any()

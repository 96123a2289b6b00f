import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_pretraining as tiny

import vilbert_jax as vj
from vilbert_jax.losses import mean
from vilbert_jax.model import init_params
from vilbert_jax.tasks import pretraining

MODEL = vj.ViLBERTForPretraining(tiny.CONFIG)
KEY = jax.random.key(0)
PARAMS = init_params(MODEL, KEY)
GROUPS = {"colour": [5, 6, 7, 8, 9, 10], "shape": list(range(11, 20))}


def on_device(batch):
    return jax.tree.map(jnp.asarray, batch)


def means(function, batch, *rest):
    return {name: float(mean(total)) for name, total in jax.jit(function)(PARAMS, batch, *rest).items()}


def test_masked_losses_count_on_all_or_on_aligned_pairs():
    batch = tiny.make_batch()
    every, aligned = (
        jax.jit(pretraining.make_loss_fn(MODEL, on))(PARAMS, on_device(batch), KEY) for on in ("all", "aligned")
    )
    matching = batch["alignment_labels"] == 0
    assert 0 < matching.sum() < len(matching)
    assert every["token_loss"].weight == batch["token_label_mask"].sum()
    assert aligned["token_loss"].weight == batch["token_label_mask"][matching].sum()
    assert aligned["region_loss"].weight == batch["region_label_mask"][matching].sum()
    assert every["alignment_loss"].weight == aligned["alignment_loss"].weight == len(matching)
    only = {name: values[matching] for name, values in batch.items()}
    alone = jax.jit(pretraining.make_loss_fn(MODEL, "all"))(PARAMS, on_device(only), KEY)
    for name in ("token_loss", "region_loss"):
        np.testing.assert_allclose(mean(aligned[name]), mean(alone[name]), rtol=1e-5)


def test_rows_that_fill_up_a_batch_do_not_count():
    batch = tiny.make_batch(rows=6)
    filled = {name: np.concatenate([values, values[:2]]) for name, values in batch.items()}
    filled["example_mask"] = np.arange(8) < 6
    metric_fn = pretraining.make_metric_fn(MODEL, "all", GROUPS)
    a, b = means(metric_fn, batch), means(metric_fn, filled)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-5, err_msg=name)


def test_accuracies_by_hand():
    """A model whose logits we know: the bias of the token head decides everything."""
    batch = tiny.make_batch()
    params = jax.tree.map(jnp.zeros_like, PARAMS)
    params["token_head"]["bias"] = jnp.zeros(tiny.CONFIG.vocab_size).at[7].set(9.0)
    params["region_head"]["logits"]["bias"] = jnp.zeros(tiny.CONFIG.region_target_dim).at[3].set(9.0)
    params["alignment_head"]["bias"] = jnp.array([0.0, 1.0])
    metrics = pretraining.make_metric_fn(MODEL, "all", GROUPS)(params, on_device(batch))
    predicted, labels = batch["token_label_mask"], batch["token_labels"]
    assert mean(metrics["token_accuracy"]) == pytest.approx((labels[predicted] == 7).mean())
    assert mean(metrics["alignment_accuracy"]) == pytest.approx(batch["alignment_labels"].mean())
    hidden = batch["region_label_mask"] & ~batch["region_visible"]
    assert 0 < hidden.sum() < batch["region_label_mask"].sum()
    classes = batch["target_probs"].argmax(-1)
    assert mean(metrics["region_accuracy"]) == pytest.approx((classes[hidden] == 3).mean())
    assert metrics["region_accuracy"].weight == hidden.sum()
    matching = predicted & (batch["alignment_labels"] == 0)[:, None]
    colours = matching & np.isin(labels, GROUPS["colour"])
    assert metrics["words/colour"].weight == colours.sum()
    assert mean(metrics["words/colour"]) == pytest.approx((labels[colours] == 7).mean())
    assert metrics["words/content"].weight == (matching & (labels >= 5) & (labels < 20)).sum()
    assert metrics["words/all"].weight == matching.sum()


def test_without_picture_nothing_of_the_regions_gets_through():
    batch = tiny.make_batch()
    other = {**batch, "stored_features": batch["stored_features"] + 1, "region_boxes": batch["region_boxes"] * 0.5}
    metric_fn = pretraining.make_metric_fn(MODEL, "all", GROUPS)
    blind = pretraining.without_picture(metric_fn)
    assert means(metric_fn, batch) != means(metric_fn, other)
    assert means(blind, batch) == means(blind, other)
    seen, unseen = metric_fn(PARAMS, on_device(batch)), blind(PARAMS, on_device(batch))
    assert {name: total.weight for name, total in seen.items()} == {n: total.weight for n, total in unseen.items()}


def test_majority_class_is_counted_over_hidden_regions():
    batch = tiny.make_batch()
    hidden = batch["region_label_mask"] & ~batch["region_visible"]
    counts = np.bincount(batch["target_probs"].argmax(-1)[hidden])
    assert pretraining.majority_region_class([batch], "all", 16) == pytest.approx(counts.max() / hidden.sum())
    hidden &= (batch["alignment_labels"] == 0)[:, None]
    counts = np.bincount(batch["target_probs"].argmax(-1)[hidden])
    assert pretraining.majority_region_class([batch], "aligned", 16) == pytest.approx(counts.max() / hidden.sum())
    halves = [{name: values[part] for name, values in batch.items()} for part in (slice(0, 7), slice(7, None))]
    whole, parts = (pretraining.majority_region_class(batches, "all", 16) for batches in ([batch], halves))
    assert whole == parts


@pytest.mark.parametrize("objective", ["regression", "nce"])
def test_the_other_region_objectives_train(objective):
    config = dataclasses.replace(tiny.CONFIG, region_objective=objective, region_target_dim=8, num_negatives=10)
    model = vj.ViLBERTForPretraining(config)
    batch = tiny.make_batch()
    rng = np.random.default_rng(1)
    del batch["target_probs"]
    batch["nce_negatives"] = rng.integers(0, 16 * 6, (16, 6, 10)).astype(np.int32)
    params = init_params(model, KEY)
    loss_fn = pretraining.make_loss_fn(model, "all")
    gradient = jax.jit(jax.grad(lambda params: mean(loss_fn(params, on_device(batch), KEY)["region_loss"])))(params)
    assert np.abs(gradient["region_head"]["logits"]["kernel"]).max() > 0
    assert pretraining.data_fields(config)["region_targets"] == "features"
    assert pretraining.data_fields(config)["num_nce_negatives"] == (10 if objective == "nce" else 0)


def fake_source(**changes):
    tokenizer = types.SimpleNamespace(vocab_size=changes.get("vocab_size", 32))
    contract = types.SimpleNamespace(feature_dim=changes.get("feature_dim", 8))
    return types.SimpleNamespace(tokenizer=tokenizer, contract=contract, target_dim=changes.get("target_dim", 16))


def test_a_model_that_does_not_fit_its_data_is_refused_with_every_reason():
    pretraining.check_fit(tiny.CONFIG, fake_source(), text_length=12, num_microbatches=4)
    source = fake_source(vocab_size=99, feature_dim=2048, target_dim=1601)
    with pytest.raises(vj.InputError) as error:
        pretraining.check_fit(tiny.CONFIG, source, text_length=13, num_microbatches=1)
    for hint in ("vocab_size=99", "region_feature_dim=2048", "region_target_dim=1601", "text_length is 13"):
        assert hint in str(error.value)
    nce = dataclasses.replace(tiny.CONFIG, region_objective="nce", region_target_dim=8)
    with pytest.raises(vj.InputError, match="num_microbatches=1"):
        pretraining.check_fit(nce, fake_source(target_dim=8), text_length=12, num_microbatches=2)


def test_the_summary_puts_every_score_beside_what_it_has_to_beat():
    metrics = {"alignment_accuracy": 0.95, "region_accuracy": 0.3, "words/all": 0.7, "words/colour": 0.6}
    metrics |= {"blind/words/all": 0.5, "blind/words/colour": 0.2, "majority/region_accuracy": 0.1}
    lines = pretraining.summary(metrics).splitlines()
    row = {line[:24].strip(): line[24:].split()[:2] for line in lines}
    assert row["masked words, colour"] == ["0.600", "0.200"]
    assert row["alignment accuracy"] == ["0.950", "0.500"]
    assert row["masked regions, class"] == ["0.300", "0.100"]
    without_classes = {name: value for name, value in metrics.items() if "region_accuracy" not in name}
    assert pretraining.summary(without_classes).splitlines() == lines[:-1]

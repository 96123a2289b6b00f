"""benchmarks/torch_vilbert.py and torch_pretraining.py compute what the released code and the JAX model compute."""

import collections
import dataclasses
import pathlib
import subprocess
import sys

import golden as reference
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_weights import CONFIG, changed, nested, random_params

import vilbert_jax as vj
from vilbert_jax import losses
from vilbert_jax.tasks import pretraining
from vilbert_jax.training.optimizer import OptimizerConfig, make_optimizer

torch = pytest.importorskip("torch")
BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(BENCHMARKS)
    import torch_pretraining
    import torch_vilbert

NAMES = ("token_loss", "region_loss", "alignment_loss")
TEXT, REGIONS, MASKED, KEPT = 8, 5, 3, 4


def make_batch(*, rows=6, compact=True, seed=0):
    """As the pipeline makes it: int8 features and the likeliest classes, or float32 and all. Row -1 is no example.

    Scales are powers of two, so that decoding rounds nothing and float64 gradients can be compared.
    """
    rng = np.random.default_rng(seed)
    num_words, num_regions = rng.integers(4, TEXT + 1, (rows, 1)), rng.integers(1, REGIONS + 1, (rows, 1))
    text_mask, is_region = np.arange(TEXT) < num_words, np.arange(REGIONS) < num_regions
    shape = (rows, REGIONS, CONFIG.region_feature_dim)
    stored = rng.integers(-127, 128, shape).astype(np.int8) if compact else rng.normal(size=shape).astype(np.float32)
    selected = is_region & (rng.random((rows, REGIONS)) < 0.5)
    probs = rng.dirichlet(np.ones(CONFIG.region_target_dim), (rows, REGIONS))
    order = np.argsort(-probs, axis=-1)[..., :KEPT]
    kept = np.take_along_axis(probs, order, axis=-1)
    targets = {"target_probs": kept.astype(np.float16), "target_classes": order.astype(np.int16)}
    return {
        "token_ids": np.where(text_mask, rng.integers(0, 5, (rows, TEXT)), 0).astype(np.int32),
        "token_types": rng.integers(0, 2, (rows, TEXT)).astype(np.int32),
        "text_mask": text_mask,
        "stored_features": stored * is_region[..., None].astype(stored.dtype),
        "feature_scales": np.where(is_region, 0.5 ** rng.integers(5, 8, is_region.shape), 0).astype(np.float32),
        "region_visible": is_region & ~(selected & (rng.random(is_region.shape) < 0.9)),
        "num_pooled": num_regions[:, 0].astype(np.int32),
        "region_boxes": rng.random((rows, REGIONS + 1, 5), np.float32),
        "region_mask": np.concatenate([np.ones((rows, 1), bool), is_region], axis=1),
        "masked_positions": np.tile(np.array([2, 1, 0], np.int32), (rows, 1)),
        "token_labels": rng.integers(1, CONFIG.vocab_size, (rows, MASKED)).astype(np.int32),
        "token_label_mask": np.arange(MASKED) < rng.integers(0, MASKED, (rows, 1)),
        **(targets if compact else {"target_probs": (probs * is_region[..., None]).astype(np.float32)}),
        "region_label_mask": selected,
        "alignment_labels": np.arange(rows, dtype=np.int32) % 2,
        "example_mask": np.arange(rows) < rows - 1,
        "example_index": np.arange(rows, dtype=np.int32),
    }


def small_params(config=CONFIG, dtype="float32"):
    params = random_params(vj.ViLBERTForPretraining(config))
    return nested({path: (0.3 * array).astype(dtype) for path, array in params.items()})


def our_losses(config, params, batch, masked_losses_on="all"):
    metric_fn = pretraining.make_metric_fn(vj.ViLBERTForPretraining(config), masked_losses_on)
    metrics = metric_fn(params, jax.tree.map(jnp.asarray, batch))
    return {name: losses.mean(metrics[name]) for name in NAMES}


def their_losses(config, params, batch, masked_losses_on="all"):
    model = torch_vilbert.from_params(config, params).eval()
    return torch_pretraining.pretraining_loss(model, torch_pretraining.prepare(batch, config, masked_losses_on))


def golden_batch(golden):
    """The released model's own arrays in its data loader's order."""
    arrays = {name: torch.tensor(array) for name, array in golden.arrays.items()}
    dtype = getattr(torch, golden.model.config.dtype)
    return torch_vilbert.Batch(
        token_ids=arrays["input_ids"],
        token_types=arrays["token_type_ids"],
        text_mask=arrays["attention_mask"].bool(),
        region_features=arrays["image_feat"].to(dtype),
        region_boxes=arrays["image_loc"].to(dtype),
        region_mask=arrays["image_attention_mask"].bool(),
        token_labels=arrays["masked_lm_labels"],
        region_targets=arrays["image_target"].to(dtype),
        region_selected=arrays["image_label"] == 1,
        alignment_labels=arrays["next_sentence_label"],
    )


def recorded_states(model):
    """What the layers return, by the goldens' names; filled when the model runs."""
    states = {}

    def record(module, *names):
        def hook(module, inputs, output):
            states.update(zip(names, output if len(names) > 1 else (output,), strict=True))

        module.register_forward_hook(hook)

    record(model.text_embeddings, "embed_t")
    record(model.region_embeddings, "embed_v")
    for letter, layers in (("t", model.text_layer), ("v", model.region_layer)):
        for i, layer in enumerate(layers):
            record(layer, f"{letter}_layer_{i}")
    for i, layer in enumerate(model.co_layer):
        record(layer, f"c_layer_{i}_t", f"c_layer_{i}_v")
    return states


@pytest.mark.parametrize(
    ("folder", "dtype"),
    [
        ("pretrain_a", "float32"),
        *((folder, "float64") for folder in ("pretrain_a", "pretrain_beta", "pretrain_nce", "pretrain_nocoattention")),
    ],
)
def test_every_state_head_and_loss_of_the_released_model(folder, dtype):
    with jax.enable_x64(dtype == "float64"):
        golden = reference.load(folder, dtype)
        kl = golden.model.config.region_objective == "kl"
        config = dataclasses.replace(golden.model.config, region_objective="kl")  # the model is the same one
        model = torch_vilbert.from_params(config, golden.params).eval()
    named, batch = recorded_states(model), golden_batch(golden)
    with torch.no_grad():
        named["sequence_output_t"], named["sequence_output_v"] = model.encode(batch)
        named["prediction_scores_t"], named["prediction_scores_v"], named["seq_relationship_score"] = model(batch)
        terms = torch_pretraining.pretraining_loss(model, batch)
    named |= {"loss_mlm": terms["token_loss"], "loss_nsp": terms["alignment_loss"]}
    if kl:
        named |= {"loss_img": terms["region_loss"], "loss_total": sum(terms.values())}
    missing = golden.outputs.keys() - named.keys()
    assert all(
        name.startswith(("attn_", "pooled_")) for name in missing - (set() if kl else {"loss_img", "loss_total"})
    )
    for name, theirs in named.items():
        reference.assert_close(name, theirs, golden.outputs[name], dtype)


@pytest.fixture(scope="module")
def exact():
    """In float64: config, parameters, and the compiled gradient of the JAX losses beside the losses."""
    shallow = changed(text_num_layers=2, regions_num_layers=1, text_co_layers=(1,), region_co_layers=(0,))
    config = dataclasses.replace(shallow, dtype="float64")

    def total(params, batch):
        terms = our_losses(config, params, batch)
        return sum(terms.values()), terms

    return config, small_params(shallow, "float64"), jax.jit(jax.grad(total, has_aux=True))


def test_gradients_of_all_parameters_are_those_of_the_jax_model(exact):
    config, params, gradient = exact
    batch = make_batch()
    with jax.enable_x64(True):
        ours = torch_vilbert.state_dict(gradient(params, batch)[0])
    model = torch_vilbert.from_params(config, params).eval()
    terms = torch_pretraining.pretraining_loss(model, torch_pretraining.prepare(batch, config, "all"))
    sum(terms.values()).backward()
    theirs = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    assert theirs.keys() == ours.keys()
    largest = max(np.abs(array).max() for array in theirs.values())
    for name, array in theirs.items():
        # Key biases have no gradient in theory: their rounding is compared with the largest gradient.
        scale = largest if name.endswith("key.bias") else np.abs(array).max()
        np.testing.assert_allclose(ours[name].numpy(), array, rtol=0, atol=1e-8 * scale, err_msg=name)


@pytest.mark.parametrize(
    ("masked_losses_on", "compact", "fields"),
    [
        ("all", True, {}),
        ("aligned", True, {"fusion": "sum"}),
        ("aligned", False, {"text_activation": "swish", "regions_activation": "relu"}),
    ],
)
def test_losses_of_a_batch_of_the_pipeline_are_those_of_the_task(masked_losses_on, compact, fields):
    config = changed(**fields)
    batch, params = make_batch(compact=compact, rows=16), small_params()
    ours = jax.jit(lambda params, batch: our_losses(config, params, batch, masked_losses_on))(params, batch)
    theirs = their_losses(config, params, batch, masked_losses_on)
    assert theirs.keys() == ours.keys()
    for name, loss in theirs.items():
        np.testing.assert_allclose(loss.item(), ours[name], rtol=1e-5, err_msg=name)


def test_losses_of_nothing_are_zero():
    batch = make_batch() | {"example_mask": np.zeros(6, bool)}
    assert {loss.item() for loss in their_losses(CONFIG, small_params(), batch).values()} == {0.0}


def test_steps_of_training_follow_the_jax_model(exact):
    config, params, gradient = exact
    batches = [make_batch(seed=seed) for seed in range(4)]
    model = torch_vilbert.from_params(config, params).eval()  # without dropout, which nobody could repeat
    theirs_optimizer = torch_pretraining.make_optimizer(model, learning_rate=1e-3)
    prepared = [torch_pretraining.prepare(batch, config, "all") for batch in batches]
    theirs = [torch_pretraining.train_step(model, theirs_optimizer, batch) for batch in prepared]
    optimizer = make_optimizer(OptimizerConfig(schedule="constant", warmup_fraction=0.0, learning_rate=1e-3), 4)

    @jax.jit
    def update(gradients, state, params):
        updates, state = optimizer.update(gradients, state, params)
        return state, optax.apply_updates(params, updates)

    with jax.enable_x64(True):
        state, ours = jax.jit(optimizer.init)(params), []
        for batch in batches:
            gradients, terms = gradient(params, batch)
            ours.append(terms)
            state, params = update(gradients, state, params)
    for step, (their_terms, our_terms) in enumerate(zip(theirs, ours, strict=True)):
        for name in NAMES:
            np.testing.assert_allclose(their_terms[name].item(), our_terms[name], rtol=1e-5, err_msg=f"{step} {name}")


def test_probabilities_drop_in_training_alone():
    model = torch_vilbert.TorchViLBERT(changed(text_dropout_rate=0.0, regions_dropout_rate=0.0))
    batch = torch_pretraining.prepare(make_batch(), CONFIG, "all")
    assert not torch.equal(model(batch).tokens, model(batch).tokens)
    model.eval()
    assert torch.equal(model(batch).tokens, model(batch).tokens)


def test_dropout_rates_are_the_released_ones():
    rates = {"text_dropout_rate": 0.01, "text_attention_dropout_rate": 0.02}
    rates |= {"regions_dropout_rate": 0.03, "regions_attention_dropout_rate": 0.04}
    model, ran = torch_vilbert.TorchViLBERT(changed(**rates)), collections.Counter()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.register_forward_hook(lambda module, *_: ran.update([module.p]))
    model(torch_pretraining.prepare(make_batch(), CONFIG, "all"))
    # Two in each of 3 + 2 text and 2 + 2 region blocks; both embeddings drop at the rate of the text.
    assert ran == {0.01: 2 * 5 + 2, 0.03: 2 * 4, 0.1: 1}
    # In a co-attention layer, probabilities drop at the rate of the stream that is read.
    layers = model.text_layer[0], model.region_layer[0], model.co_layer[0].text, model.co_layer[0].region
    assert [layer.attention.dropout_rate for layer in layers] == [0.02, 0.04, 0.04, 0.02]


def test_compile_and_autocast_take_model_and_losses_as_one_graph():
    model = torch_vilbert.from_params(CONFIG, small_params()).eval()
    batch = torch_pretraining.prepare(make_batch(), CONFIG, "all")
    compiled = torch.compile(torch_pretraining.pretraining_loss, fullgraph=True, backend="eager")
    exact = torch_pretraining.pretraining_loss(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = compiled(model, batch)
    for name, loss in rounded.items():
        assert loss.dtype == torch.float32
        np.testing.assert_allclose(loss.item(), exact[name].item(), rtol=0.05, err_msg=name)


@pytest.mark.parametrize("damage", ["missing", "left over", "misshaped"])
def test_parameters_of_another_model_are_refused(damage):
    params = random_params(vj.ViLBERTForPretraining(CONFIG))
    name = "trunk/encoder/co_layer_1/region_mlp/output/kernel"
    if damage == "missing":
        del params[name]
    elif damage == "left over":
        params[name.replace("co_layer_1", "co_layer_2")] = params[name]
    else:
        params[name] = params[name].T
    with pytest.raises(RuntimeError, match=r"co_layer\.\d\.region\.output\.weight"):
        torch_vilbert.from_params(CONFIG, nested(params))


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"num_streams": 1}, "num_streams 1"),
        ({"num_task_embeddings": 20}, "num_task_embeddings 20"),
        ({"region_objective": "regression", "region_target_dim": 7}, "'regression'"),
    ],
)
def test_models_it_is_not_are_refused(fields, found):
    with pytest.raises(vj.InputError, match=found):
        torch_vilbert.TorchViLBERT(changed(**fields))


def test_it_has_as_many_parameters_as_the_jax_model():
    with torch.device("meta"):
        model = torch_vilbert.TorchViLBERT(vj.ViLBERTConfig.base())
    assert sum(p.numel() for p in model.parameters()) == vj.ViLBERTConfig.base().num_parameters()


def test_a_process_can_hold_it_without_jax():
    code = "import sys, torch_pretraining, torch_vilbert; sys.exit(any(n in sys.modules for n in ('jax', 'flax')))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=BENCHMARKS)

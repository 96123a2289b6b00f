"""``ViLBERTForPretraining`` is the released model: states, attention maps, heads, losses and gradients."""

import json

import golden as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vilbert_jax import losses
from vilbert_jax.checkpoints.conversion import DECODER, to_source
from vilbert_jax.checkpoints.released import released_table
from vilbert_jax.paths import named_leaves

FOLDERS = ("pretrain_a", "pretrain_beta", "pretrain_nce", "pretrain_nocoattention")


def loss_terms(golden, output):
    arrays = jax.tree.map(jnp.asarray, golden.arrays)
    selected = arrays["image_label"] == 1
    targets = arrays["image_target"].astype(golden.model.config.dtype)
    predicted = output.region_logits[:, 1:]  # the global region has no loss
    if golden.model.config.region_objective == "nce":
        region = losses.region_nce_loss(predicted, targets, selected, arrays["nce_negative_index"].astype(jnp.int32))
    else:
        region = losses.region_kl_loss(predicted, targets, selected)
    labels = arrays["masked_lm_labels"].astype(jnp.int32)
    everybody = jnp.ones(len(labels), bool)
    return {
        "loss_mlm": losses.token_loss(output.token_logits, jnp.maximum(labels, 0), labels >= 0),
        "loss_img": region,
        "loss_nsp": losses.alignment_loss(
            output.alignment_logits, arrays["next_sentence_label"].astype(jnp.int32), everybody
        ),
    }


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_state_map_head_and_loss(folder, dtype):
    with jax.enable_x64(dtype == "float64"):
        golden = reference.load(folder, dtype)
        output, named = reference.run_with_intermediates(golden)
        named |= {
            "prediction_scores_t": output.token_logits,
            "prediction_scores_v": output.region_logits,
            "seq_relationship_score": output.alignment_logits,
        }
        means = {name: losses.mean(term) for name, term in loss_terms(golden, output).items()}
        named |= means | {"loss_total": sum(means.values())}
        assert named.keys() == golden.outputs.keys()
        for name, ours in named.items():
            reference.assert_close(name, ours, golden.outputs[name], dtype)


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_gradients(folder, dtype, data_dir):
    expected = dict(np.load(data_dir / "golden" / folder / "grads_f64.npz"))
    meta = json.loads((data_dir / "golden" / folder / "meta.json").read_text())
    with jax.enable_x64(dtype == "float64"):
        golden = reference.load(folder, dtype)

        @jax.jit
        @jax.grad
        def gradient(params):
            output = golden.model.apply({"params": params}, golden.inputs, deterministic=True)
            return sum(losses.mean(term) for term in loss_terms(golden, output).values())

        ours = to_source(named_leaves(gradient(golden.params)), released_table(golden.model.config))
    relative = 1e-9 if dtype == "float64" else 1e-4
    for name, reference_gradient in expected.items():
        scale = max(1, np.abs(reference_gradient).max()) if dtype == "float64" else np.abs(reference_gradient).max()
        np.testing.assert_allclose(ours[name], reference_gradient, rtol=0, atol=relative * scale, err_msg=name)
    norms = meta["grad_norms_f64"]
    # The tied decoder is listed under the word table alone, or under both names with one gradient.
    del ours[DECODER]
    assert norms.keys() - {DECODER} == ours.keys()
    for name, gradient_array in ours.items():
        # Key biases have no gradient in theory (softmax is shift invariant): rounding is compared with the largest.
        atol = relative * max(norms.values())
        np.testing.assert_allclose(np.linalg.norm(gradient_array), norms[name], rtol=relative, atol=atol, err_msg=name)
    dead = set(meta["params_without_grad"])
    assert dead <= released_table(golden.model.config).unused.keys()


def test_logits_at_masked_positions_are_the_rows_of_all_logits():
    golden = reference.load("pretrain_a", "float32")
    positions = np.array([[3, 1, 0], [2, 2, 5], [8, 4, 7], [1, 3, 2]], np.int32)
    full = golden.model.apply({"params": golden.params}, golden.inputs, deterministic=True)
    some = golden.model.apply({"params": golden.params}, golden.inputs, deterministic=True, masked_positions=positions)
    expected = np.take_along_axis(np.asarray(full.token_logits), positions[..., None], axis=1)
    np.testing.assert_allclose(some.token_logits, expected, rtol=1e-5, atol=1e-5)

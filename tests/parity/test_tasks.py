"""``ViLBERTForTasks`` is the released downstream model: every head, every task loss formula's inputs."""

import golden as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vilbert_jax as vj
from vilbert_jax import losses

# reference name -> head; the reference keeps a trailing axis of one where we return one number
OUTPUTS = {
    "vil_prediction": "vqa",
    "vil_prediction_gqa": "gqa",
    "vil_logit": "choice",
    "vil_binary_prediction": "binary",
    "vil_tri_prediction": "entailment",
    "vision_prediction": "regions",
    "vision_logit": "grounding",
    "linguisic_prediction": "tokens",
    "linguisic_logit": "token_score",
    "seq_relationship_score": "alignment",
}


def task_losses(golden, logits):
    targets = {name: jnp.asarray(array) for name, array in golden.arrays.items() if name.startswith("target_")}
    soft = {name: array.astype(golden.model.config.dtype) for name, array in targets.items()}
    rows = jnp.ones(len(golden.arrays["input_ids"]), bool)
    terms = {
        "loss_vl_classifier": losses.soft_label_loss(logits["vqa"], soft["target_vqa"], rows),
        "loss_v_logit": losses.soft_label_loss(logits["grounding"], soft["target_grounding"][..., 0], rows),
        "loss_vl_logit": losses.choice_loss(
            logits["choice"][None], targets["target_option"].astype(jnp.int32), rows[:1]
        ),
    }
    if "entailment" in logits:
        terms["loss_vl_tri"] = losses.one_hot_loss(logits["entailment"], soft["target_tri"], rows)
        terms["loss_vl_binary"] = losses.one_hot_loss(logits["binary"], soft["target_nlvr"], rows[::2])
    return {name: losses.mean(term) for name, term in terms.items()}


@pytest.mark.parametrize("folder", ["tasks_a", "tasks_beta"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_state_map_and_head(folder, dtype):
    with jax.enable_x64(dtype == "float64"):
        golden = reference.load(folder, dtype)
        output, named = reference.run_with_intermediates(golden)
    for name, head in OUTPUTS.items():
        if name in golden.outputs:
            expected = golden.outputs[name]
            logits = np.asarray(output.logits[head]).reshape(expected.shape)
            if name == "vision_logit" and dtype == "float32":
                # Padded regions sit near -10000, where neighbouring float32 numbers are 1e-3 apart.
                padded = ~golden.inputs.region_mask
                np.testing.assert_allclose(logits[padded], expected[padded], rtol=0, atol=2e-3)
                logits, expected = logits[~padded], expected[~padded]
            reference.assert_close(name, logits, expected, dtype)
    for name, ours in named.items():
        reference.assert_close(name, ours, golden.outputs[name], dtype)
    with jax.enable_x64(dtype == "float64"):
        means = task_losses(golden, output.logits)
        for name, value in means.items():
            reference.assert_close(name, value, golden.outputs[name], dtype)
    assert golden.outputs.keys() == named.keys() | (OUTPUTS.keys() & golden.outputs.keys()) | means.keys()


@pytest.mark.parametrize("dtype", ["float64"])
@pytest.mark.parametrize("folder", ["tasks_a", "tasks_beta"])
def test_heads_run_alone(folder, dtype):
    """A model with one head has that head's parameters alone and computes the same."""
    with jax.enable_x64(True):
        golden = reference.load(folder, dtype)
        model = vj.ViLBERTForTasks(golden.model.config, heads=("grounding",))
        params = {name: golden.params[name] for name in ("trunk", "grounding_head")}
        output = model.apply({"params": params}, golden.inputs, deterministic=True)
        assert output.logits.keys() == {"grounding"}
        reference.assert_close(
            "grounding", output.logits["grounding"], golden.outputs["vision_logit"][..., 0], "float64"
        )


def test_an_odd_batch_and_an_unknown_head_are_refused():
    golden = reference.load("tasks_a", "float32")
    odd = jax.tree.map(lambda x: x[:3], golden.inputs)
    model = vj.ViLBERTForTasks(golden.model.config, heads=("binary",))
    with pytest.raises(vj.InputError, match="batch of 3 is odd"):
        model.apply({"params": golden.params}, odd, deterministic=True)
    with pytest.raises(vj.InputError, match=r"unknown \['vcr'\]; choose from vqa"):
        vj.ViLBERTForTasks(golden.model.config, heads=("vcr",)).apply(
            {"params": golden.params}, golden.inputs, deterministic=True
        )

"""With ``num_streams=1`` the models are the released single-stream baseline.

Its pre-training forward pass does not run as released; the reference values come from its trunk and its heads.
"""

import json

import golden as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_pretraining import loss_terms
from test_tasks import OUTPUTS, task_losses

from vilbert_jax import losses
from vilbert_jax.checkpoints.conversion import DECODER, heads_of, to_source
from vilbert_jax.checkpoints.released import released_table
from vilbert_jax.losses import WeightedSum
from vilbert_jax.paths import named_leaves


def pretraining_means(golden, output):
    means = {name: losses.mean(term) for name, term in loss_terms(golden, output).items()}
    return means | {"loss_total": sum(means.values())}


def task_means(golden, output):
    means = task_losses(golden, output.logits)
    score, mask = output.logits["token_score"], jnp.asarray(golden.inputs.text_mask)
    # no released loss: the reference probes the head with the mean square over real words
    probe = WeightedSum(jnp.where(mask, score**2, 0).sum(), mask.sum().astype(score.dtype))
    means["loss_linguisic"] = losses.mean(probe)
    return means | {"loss_total": sum(means.values())}


def assert_logits(name, ours, golden, dtype):
    expected = golden.outputs[name]
    ours = np.asarray(ours).reshape(expected.shape)
    if name == "vision_logit" and dtype == "float32":
        # Padded regions sit near -10000, where neighbouring float32 numbers are 1e-3 apart.
        padded = ~golden.inputs.region_mask
        np.testing.assert_allclose(ours[padded], expected[padded], rtol=0, atol=2e-3)
        ours, expected = ours[~padded], expected[~padded]
    reference.assert_close(name, ours, expected, dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_state_map_head_and_loss_of_pretraining(dtype):
    with jax.enable_x64(dtype == "float64"):
        golden = reference.load("single_stream", dtype)
        output, named = reference.run_with_intermediates(golden)
        named |= {
            "prediction_scores_t": output.token_logits,
            "prediction_scores_v": output.region_logits,
            "seq_relationship_score": output.alignment_logits,
        } | pretraining_means(golden, output)
    assert named.keys() == golden.outputs.keys()
    for name, ours in named.items():
        reference.assert_close(name, ours, golden.outputs[name], dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_state_map_head_and_loss_of_the_tasks(dtype):
    names = OUTPUTS | {"vil_binary_prediction": "alignment"}  # as released, the third output is the alignment head's
    with jax.enable_x64(dtype == "float64"):
        golden = reference.load("single_stream_tasks", dtype)
        output, named = reference.run_with_intermediates(golden)
        named |= task_means(golden, output)
    heads = {name: output.logits[head] for name, head in names.items() if name in golden.outputs}
    assert len(heads) == 7
    assert golden.outputs.keys() == named.keys() | heads.keys()
    for name, logits in heads.items():
        assert_logits(name, logits, golden, dtype)
    for name, ours in named.items():
        reference.assert_close(name, ours, golden.outputs[name], dtype)


@pytest.mark.parametrize("folder", ["single_stream", "single_stream_tasks"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_gradients(folder, dtype, data_dir):
    """Lookups train no row 0 of any embedding table, as released; all other rows have the gradient of all rows."""
    expected = dict(np.load(data_dir / "golden" / folder / "grads_f64.npz"))
    meta = json.loads((data_dir / "golden" / folder / "meta.json").read_text())
    means = pretraining_means if folder == "single_stream" else task_means
    with jax.enable_x64(dtype == "float64"):
        golden = reference.load(folder, dtype)

        @jax.jit
        @jax.grad
        def gradient(params):
            return means(golden, golden.model.apply({"params": params}, golden.inputs, deterministic=True))[
                "loss_total"
            ]

        table = released_table(golden.model.config, heads_of(golden.model))
        ours = to_source(named_leaves(gradient(golden.params)), table)
    del ours[DECODER]  # the tied matrix is listed once
    relative = 1e-9 if dtype == "float64" else 1e-4
    released = {name: array for name, array in expected.items() if not name.endswith("@all_rows")}
    assert ours.keys() == released.keys() | set(meta["params_without_grad"]) - {DECODER}

    def tolerance(name, array):
        # Biases before a softmax have no gradient in theory: their rounding is that of the kernel's.
        kernel = released.get(f"{name.removesuffix('bias')}weight", array)
        largest = max(np.abs(array).max(), np.abs(kernel).max())
        return relative * (max(1, largest) if dtype == "float64" else largest)

    for name, array in released.items():
        np.testing.assert_allclose(ours[name], array, rtol=0, atol=tolerance(name, array), err_msg=name)
    for name in meta["params_without_grad"]:
        assert name == DECODER or not np.any(ours[name]), name
    tables = [name.removesuffix("@all_rows") for name in expected if name.endswith("@all_rows")]
    assert len(tables) == 4
    for name in tables:
        array = expected[f"{name}@all_rows"]
        np.testing.assert_allclose(ours[name][1:], array[1:], rtol=0, atol=tolerance(name, array), err_msg=name)

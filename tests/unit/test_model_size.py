"""FLOPs are those of the compiled program, and matched models are as near as a whole layer allows."""

import dataclasses

import jax
import numpy as np
import pytest

import vilbert_jax as vj
from vilbert_jax.model_size import forward_flops, matched_single_stream
from vilbert_jax.trunk import Trunk

STREAM = vj.StreamConfig(width=256, num_layers=3, num_heads=4, mlp_dim=512)
CONFIG = vj.ViLBERTConfig.tiny(
    text=STREAM, regions=dataclasses.replace(STREAM, width=384, num_layers=2, mlp_dim=640), co_width=320, vocab_size=50
)


@pytest.mark.parametrize(
    "changes", [{}, {"use_coattention": False}, {"num_streams": 1}, {"text_co_layers": (0, 0)}], ids=str
)
def test_flops_are_those_that_the_compiler_counts(changes):
    config, rows = dataclasses.replace(CONFIG, **changes), 4
    inputs = vj.Inputs(
        token_ids=np.zeros((rows, 21), np.int32),
        token_types=np.zeros((rows, 21), np.int32),
        text_mask=np.ones((rows, 21), bool),
        region_features=np.zeros((rows, 13, 2048), np.float32),
        region_boxes=np.zeros((rows, 13, 5), np.float32),
        region_mask=np.ones((rows, 13), bool),
    )
    trunk = Trunk(config)
    params = jax.eval_shape(lambda: trunk.init(jax.random.key(0), inputs, deterministic=True))
    apply = jax.jit(lambda params, inputs: trunk.apply(params, inputs, deterministic=True))
    counted = apply.lower(params, inputs).compile().cost_analysis()["flops"]
    # The compiler counts norms, activations and softmax as well, a few percent at this width.
    assert 1 <= counted / rows / forward_flops(config, 21, 13) < 1.06


@pytest.mark.parametrize("match", ["parameters", "compute"])
def test_a_matched_model_is_the_nearest_in_its_measure(match):
    wanted = vj.ViLBERTConfig.base()

    def cost(config):
        return config.num_parameters() if match == "parameters" else forward_flops(config, 36, 37)

    found = matched_single_stream(wanted, match, text_length=36, num_regions=37)
    assert found.num_streams == 1
    assert dataclasses.replace(found.text, num_layers=12) == wanted.text

    def deep(num_layers):
        return dataclasses.replace(found, text=dataclasses.replace(found.text, num_layers=num_layers))

    distances = {depth: abs(cost(deep(depth)) - cost(wanted)) for depth in range(1, 41)}
    assert found.text.num_layers == min(distances, key=distances.__getitem__)


def test_the_papers_baseline_is_smaller_than_vilbert_in_both_measures():
    vilbert, baseline = vj.ViLBERTConfig.base(), vj.ViLBERTConfig.single_stream()
    assert round(baseline.num_parameters() / vilbert.num_parameters(), 2) == 0.47
    assert round(forward_flops(baseline, 36, 37) / forward_flops(vilbert, 36, 37), 2) == 0.83


def test_a_single_stream_model_is_not_matched_again():
    with pytest.raises(vj.InputError, match="num_streams=2"):
        matched_single_stream(vj.ViLBERTConfig.single_stream(), "parameters", text_length=36, num_regions=37)

"""Reads one folder of reference vectors through the public API and runs our model on it."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import numpy as np

import vilbert_jax as vj

ROOT = pathlib.Path(__file__).parent.parent / "data" / "golden"


@dataclasses.dataclass(frozen=True)
class Golden:
    """A folder: the model in the asked precision, parameters, inputs and what the reference computed."""

    model: Any
    params: dict[str, Any]
    inputs: vj.Inputs
    arrays: dict[str, np.ndarray]  # inputs.npz, as stored
    outputs: dict[str, np.ndarray]  # outputs_f64.npz; in float32 what outputs.npz has comes from there


def load(folder: str, dtype: str) -> Golden:
    path = ROOT / folder
    config = dataclasses.replace(vj.ViLBERTConfig.from_json(path / "config.json"), dtype=dtype)
    model, params = vj.load_pretrained(path / "weights.safetensors", config=config)
    params = jax.tree.map(lambda x: x.astype(dtype), params)
    arrays = dict(np.load(path / "inputs.npz"))
    outputs = dict(np.load(path / "outputs_f64.npz"))
    if dtype == "float32":
        outputs |= dict(np.load(path / "outputs.npz"))
    inputs = vj.Inputs(
        token_ids=arrays["input_ids"].astype(np.int32),
        token_types=arrays["token_type_ids"].astype(np.int32),
        text_mask=arrays["attention_mask"].astype(bool),
        region_features=arrays["image_feat"].astype(dtype),
        region_boxes=arrays["image_loc"].astype(dtype),
        region_mask=arrays["image_attention_mask"].astype(bool),
    )
    return Golden(model, params, inputs, arrays, outputs)


def run_with_intermediates(golden: Golden) -> tuple[Any, dict[str, np.ndarray]]:
    """The model's output, and every state and attention map under the reference's names."""
    apply = jax.jit(
        functools.partial(golden.model.apply, deterministic=True, capture_intermediates=True, mutable=["intermediates"])
    )
    output, variables = apply({"params": golden.params}, golden.inputs)
    trunk = variables["intermediates"]["trunk"]
    encoder = trunk["encoder"]
    named = {
        "embed_t": trunk["text_embeddings"]["__call__"][0],
        "embed_v": trunk["region_embeddings"]["__call__"][0],
    }
    encoded = output.encoded
    if golden.model.config.num_streams == 1:
        for i in range(golden.model.config.text.num_layers):
            named[f"layer_{i}"] = encoder[f"layer_{i}"]["__call__"][0]
            named[f"attn_{i}"] = encoder[f"layer_{i}"]["attention"]["attention_probs"][0]
        named["sequence_output"] = np.concatenate([encoded.text, encoded.regions], axis=1)
        return output, named | {"pooled_output": encoded.text_pooled}
    for kind, i in golden.model.config.schedule():
        layer = encoder[f"{kind}_layer_{i}"]
        if kind == "co":
            named[f"c_layer_{i}_t"], named[f"c_layer_{i}_v"] = layer["__call__"][0]
            named[f"attn_c_{i}_text_to_image"] = layer["text_attention"]["attention_probs"][0]
            named[f"attn_c_{i}_image_to_text"] = layer["region_attention"]["attention_probs"][0]
        else:
            letter = "t" if kind == "text" else "v"
            named[f"{letter}_layer_{i}"] = layer["__call__"][0]
            named[f"attn_{letter}_{i}"] = layer["attention"]["attention_probs"][0]
    named |= {
        "sequence_output_t": encoded.text,
        "sequence_output_v": encoded.regions,
        "pooled_output_t": encoded.text_pooled,
        "pooled_output_v": encoded.regions_pooled,
    }
    return output, named


def assert_close(name: str, ours: Any, reference: np.ndarray, dtype: str) -> None:
    ours = np.asarray(ours)
    assert ours.dtype == dtype, name
    assert ours.shape == reference.shape, name
    if dtype == "float64":
        np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-9 * max(1, np.abs(reference).max()), err_msg=name)
    else:
        np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-4, err_msg=name)

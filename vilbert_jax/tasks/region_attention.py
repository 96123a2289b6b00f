"""Which regions a model attends to: the last co-attention layer, text over regions, the mean over its heads.

B batch, T text length, S region slots (slot 0 is the whole picture), K rows that the model reads of one example.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vilbert_jax.model import ViLBERTForTasks
from vilbert_jax.tasks.task import Task, TaskSource, model_inputs


def last_text_attention(intermediates: Any, region_mask: np.ndarray, text_length: int) -> np.ndarray:
    """[B,T,S] probabilities; without co-attention layers there is nothing to show and every region counts alike.

    Args:
        intermediates: what a model sowed.
        region_mask: [B,S] bool.
        text_length: T, task token included.
    """
    layers = intermediates["trunk"]["encoder"]
    last = max((name for name in layers if name.startswith("co_layer_")), key=lambda n: int(n[9:]), default=None)
    if last is None:
        uniform = region_mask / region_mask.sum(1, keepdims=True)
        return np.repeat(uniform[:, None], text_length, axis=1)
    return np.asarray(layers[last]["text_attention"]["attention_probs"][0], np.float32).mean(1)


def attended_regions(
    task: Task, model: ViLBERTForTasks, params: Any, source: TaskSource, indices: Sequence[int]
) -> list[np.ndarray]:
    """What [CLS] attends to in examples of a split.

    Args:
        task: where the model reads K > 1 texts for one picture, it predicts ``shares`` [B,K], and the text with the
            largest is the one that counts. Where an example has several pictures, its first row does.
        model: with the heads of the task.
        params: its parameters.
        source: the examples, from ``task.open``.
        indices: which ones.

    Returns:
        For each the attention to the slots in use, [m] float32; sums to 1.
    """
    examples = [source.example(int(index), np.random.default_rng(0)) for index in indices]
    batch = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
    batch["example_mask"] = np.ones(len(examples), bool)

    def apply(params: Any, batch: Any) -> Any:
        inputs = model_inputs(task, model, batch)
        output, sown = model.apply({"params": params}, inputs, deterministic=True, mutable=["intermediates"])
        return task.predict(output.logits, batch), sown["intermediates"], inputs.region_mask

    predictions, intermediates, region_mask = jax.device_get(jax.jit(apply)(params, batch))
    text_length = batch["token_ids"].shape[-1]
    attention = last_text_attention(intermediates, region_mask, text_length)[:, 0]
    num_rows = len(attention) // len(examples)
    rows = num_rows * np.arange(len(examples))
    if num_rows > 1 and batch["region_mask"].ndim == 2:
        rows = rows + predictions["shares"].argmax(axis=1)
    return [attention[row][region_mask[row]] for row in rows]

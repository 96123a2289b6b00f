"""Which regions a model attends to: its last layer where text reads regions, the mean over that layer's heads.

That is the last co-attention layer, or with one stream the last layer, whose attention to the regions alone is shown.

B batch, T text length, S region slots (slot 0 is the whole picture), K rows that the model reads of one example.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vilbert_jax.model import ViLBERTForTasks
from vilbert_jax.tasks.task import Task, TaskSource, model_inputs


def last_text_attention(intermediates: Any, region_mask: np.ndarray, text_length: int) -> np.ndarray:
    """[B,T,S] probabilities; where text never reads regions there is nothing to show and every region counts alike.

    Args:
        intermediates: what a model sowed.
        region_mask: [B,S] bool.
        text_length: T, task token included.
    """
    encoder = intermediates["trunk"]["encoder"]

    def last(prefix: str) -> Any:
        numbers = [int(name.removeprefix(prefix)) for name in encoder if name.startswith(prefix)]
        return encoder[f"{prefix}{max(numbers)}"] if numbers else None

    if (joint := last("layer_")) is not None:
        probs = np.asarray(joint["attention"]["attention_probs"][0], np.float32).mean(1)
        to_regions = probs[:, :text_length, text_length:]
        return to_regions / np.maximum(to_regions.sum(-1, keepdims=True), np.finfo(np.float32).tiny)
    if (exchange := last("co_layer_")) is not None:
        return np.asarray(exchange["text_attention"]["attention_probs"][0], np.float32).mean(1)
    uniform = region_mask / region_mask.sum(1, keepdims=True)
    return np.repeat(uniform[:, None], text_length, axis=1)


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

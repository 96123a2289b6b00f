"""A pre-training step of the PyTorch ViLBERT on the batches that the JAX model trains on.

The losses are computed at every position, as released, and most of them count for nothing; no shape depends on a value,
so that ``torch.compile`` takes model and losses as one graph. AdamW is the fused one.

B batch, T text length, R regions, C region targets. Source: ``BertForMultiModalPreTraining.forward`` of
facebookresearch/vilbert-multi-task.
"""

# torch is optional, and types are checked without it.
# pyright: reportMissingImports=false

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_vilbert import Batch

from vilbert_jax.config import ViLBERTConfig

NO_LABEL = -1
LossFn = Callable[[nn.Module, Batch], dict[str, Tensor]]


def prepare(batch: Mapping[str, Any], config: ViLBERTConfig, masked_losses_on: Literal["all", "aligned"]) -> Batch:
    """Decodes a batch of ``PretrainingDataConfig`` into what the released data loader gives, as that does: on the host.

    Args:
        batch: numpy arrays.
        config: the model.
        masked_losses_on: as in ``vilbert_jax.tasks.pretraining.make_loss_fn``.
    """
    given = {name: torch.tensor(np.asarray(array)) for name, array in batch.items()}
    dtype = torch.float64 if config.dtype == "float64" else torch.float32
    shown = given["stored_features"].float() * (given["feature_scales"] * given["region_visible"])[..., None]
    pooled = shown.sum(1, keepdim=True) / given["num_pooled"][:, None, None]
    counted = given["example_mask"]
    if masked_losses_on == "aligned":
        counted = counted & (given["alignment_labels"] == 0)
    rows, slots = (given["token_label_mask"] & counted[:, None]).nonzero(as_tuple=True)
    token_labels = torch.full(given["token_ids"].shape, NO_LABEL)
    token_labels[rows, given["masked_positions"][rows, slots].long()] = given["token_labels"][rows, slots].long()
    targets = given["target_probs"].float()
    if "target_classes" in given:  # what is left of the likeliest is spread over the others
        others = config.region_target_dim - targets.shape[-1]
        rest = (1 - targets.sum(-1, keepdim=True)).clamp(min=0) / max(others, 1)
        spread = rest.repeat(1, 1, config.region_target_dim)
        targets = spread.scatter(-1, given["target_classes"].long(), targets)
    return Batch(
        token_ids=given["token_ids"].long(),
        token_types=given["token_types"].long(),
        text_mask=given["text_mask"],
        region_features=torch.cat([pooled, shown], dim=1).to(dtype),
        region_boxes=given["region_boxes"].to(dtype),
        region_mask=given["region_mask"],
        token_labels=token_labels,
        region_targets=targets.to(dtype),
        region_selected=given["region_label_mask"] & counted[:, None],
        alignment_labels=given["alignment_labels"].long().where(given["example_mask"], NO_LABEL),
    )


def pretraining_loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The three losses, each a mean over what counts (0 where nothing does), by the names of the JAX task."""

    def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
        total = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=NO_LABEL, reduction="sum")
        return total / (labels != NO_LABEL).sum().clamp(min=1)

    logits = model(batch)
    log_predicted = F.log_softmax(logits.regions[:, 1:], dim=-1)  # the global region has no target
    divergence = F.kl_div(log_predicted, batch.region_targets, reduction="none").sum(-1)
    return {
        "token_loss": cross_entropy(logits.tokens, batch.token_labels),
        "region_loss": (divergence * batch.region_selected).sum() / batch.region_selected.sum().clamp(min=1),
        "alignment_loss": cross_entropy(logits.alignment, batch.alignment_labels),
    }


def make_optimizer(model: nn.Module, learning_rate: float = 1e-4) -> torch.optim.AdamW:
    """With the defaults of ``OptimizerConfig``: matrices and tables decay, biases and norms do not.

    PyTorch adds eps after bias correction and decays before the update, which changes an update in its sixth digit.
    """
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, learning_rate, betas=(0.9, 0.98), eps=1e-8, fused=True)


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, loss: LossFn = pretraining_loss
) -> dict[str, Tensor]:
    """One update on the sum of the losses, gradients clipped to a norm of 1; returns the losses before it.

    Args:
        model: in training mode.
        optimizer: of its parameters.
        batch: from ``prepare``.
        loss: or a compiled one.
    """
    losses = loss(model, batch)
    torch.stack([*losses.values()]).sum().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return {name: loss.detach() for name, loss in losses.items()}

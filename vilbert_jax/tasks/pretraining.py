"""Pre-training: masked words, masked regions, image-text alignment (paper section 3.1).

B batch, T text length, S = R + 1 region slots (slot 0 is the global region), R regions, M predicted positions, C region
targets. A batch is the dict that ``vilbert_jax.data.PretrainingDataConfig`` makes.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np
from jax import Array

from vilbert_jax import losses
from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.data.pretraining import PretrainingSource
from vilbert_jax.errors import InputError
from vilbert_jax.losses import WeightedSum
from vilbert_jax.model import PretrainingOutput, ViLBERTForPretraining
from vilbert_jax.tasks import packed_pairs, regions
from vilbert_jax.tasks.fit import misfits, require_fit
from vilbert_jax.trunk import Inputs

Batch = Mapping[str, Any]
Params = Any
MetricFn = Callable[[Params, Batch], dict[str, WeightedSum]]
MaskedLossesOn = Literal["all", "aligned"]


def data_fields(config: ViLBERTConfig) -> dict[str, Any]:
    """The fields of ``PretrainingDataConfig`` that follow from the model's region objective."""
    return {
        "region_targets": "class_probs" if config.region_objective == "kl" else "features",
        "num_nce_negatives": config.num_negatives if config.region_objective == "nce" else 0,
    }


def check_fit(config: ViLBERTConfig, source: PretrainingSource, text_length: int, num_microbatches: int) -> None:
    """Compares the model with the data it is to be trained on.

    Raises:
        InputError: naming every field of the model that does not fit, and the value that would.
    """
    problems = misfits(config, source.contract, source.tokenizer, text_length)
    if config.region_target_dim != source.target_dim:
        problems.append(
            f"model.region_target_dim is {config.region_target_dim}, the width of the region targets is "
            f"{source.target_dim}: set --config.model.region_target_dim={source.target_dim}"
        )
    if config.num_task_embeddings:
        problems.append("pre-training knows no task tokens: set --config.model.num_task_embeddings=0")
    if config.region_objective == "nce" and num_microbatches > 1:
        problems.append("the nce objective draws negatives from the whole batch: set num_microbatches=1")
    require_fit(problems)


def loss_weights(given: Mapping[str, float]) -> dict[str, float]:
    """The factors of the losses in the objective.

    Raises:
        InputError: one is negative or not finite.
    """
    for name, weight in given.items():
        if not 0 <= weight < math.inf:
            raise InputError(f"loss_weights.{name} is {weight}; it must be a number of at least 0.")
    return dict(given)


def identity(config: ViLBERTConfig, source: PretrainingSource, init_from: str = "") -> dict[str, Any]:
    """What a checkpoint of this model belongs to; a run on anything else must not continue it."""
    return {
        **({"init_from": init_from} if init_from else {}),
        "model": config.to_dict(),
        "heads": ["tokens", "regions", "alignment"],
        "features": source.contract.to_json(),
        "vocabulary": source.tokenizer.fingerprint,
        **({"pairs": source.coverage.manifest} if source.coverage else {}),
    }


def summary(metrics: Mapping[str, float]) -> str:
    """A table of the held-out scores, each beside what it has to beat.

    Args:
        metrics: values of ``make_metric_fn``, by name; the same from ``without_picture``, as ``blind/...``; and of
            models that predict classes of regions ``majority/region_accuracy``, from ``majority_region_class``.
    """
    rows = [("alignment accuracy", metrics["alignment_accuracy"], 0.5, "chance")]
    for name in sorted(name for name in metrics if name.startswith("words/")):
        label = f"masked words, {name.removeprefix('words/')}"
        rows.append((label, metrics[name], metrics[f"blind/{name}"], "all regions blanked"))
    if "region_accuracy" in metrics:
        baseline = metrics["majority/region_accuracy"]
        rows.append(("masked regions, class", metrics["region_accuracy"], baseline, "majority class"))
    lines = [f"{'held-out pairs':24}{'accuracy':>10}{'to beat':>10}", "-" * 64]
    return "\n".join([*lines, *(f"{label:24}{ours:10.3f}{base:10.3f}  {what}" for label, ours, base, what in rows)])


def model_inputs(batch: Batch) -> Inputs:
    """The part of a batch, as ``packed_pairs.by_pair`` gives it, that the model may see."""
    return Inputs(
        token_ids=batch["token_ids"],
        token_types=batch["token_types"],
        text_mask=batch["text_mask"],
        region_features=regions.visible_features(batch),
        region_boxes=batch["region_boxes"],
        region_mask=batch["region_mask"],
        places=packed_pairs.places(batch),
    )


def make_loss_fn(
    model: ViLBERTForPretraining, masked_losses_on: MaskedLossesOn
) -> Callable[[Params, Batch, Array], dict[str, WeightedSum]]:
    """Returns the training losses by name: ``token_loss``, ``region_loss``, ``alignment_loss``. Batches may be packed.

    Args:
        model: the model.
        masked_losses_on: ``all`` pairs (the paper), or ``aligned`` ones only (vilbert-multi-task's recipe,
            ``objective`` 1), where a mismatched caption says nothing about the regions.
    """
    _require_choice(masked_losses_on)

    def loss_fn(params: Params, batch: Batch, dropout_key: Array) -> dict[str, WeightedSum]:
        batch = packed_pairs.by_pair(batch)
        output = model.apply(
            {"params": params},
            model_inputs(batch),
            deterministic=False,
            masked_positions=batch["masked_positions"],
            masked_regions=batch.get("masked_regions"),
            rngs={"dropout": dropout_key},
        )
        assert isinstance(output, PretrainingOutput)
        return _losses(model.config, output, batch, masked_losses_on)

    return loss_fn


def make_metric_fn(
    model: ViLBERTForPretraining,
    masked_losses_on: MaskedLossesOn,
    word_groups: Mapping[str, Iterable[int]] | None = None,
) -> MetricFn:
    """Returns the evaluation: the three losses, and accuracies in 0..1.

    ``alignment_accuracy``; ``token_accuracy`` of the predicted words; ``region_accuracy`` (``kl`` objective) of the
    most likely class of regions whose features are hidden; ``words/<group>`` as ``token_accuracy``, but on matching
    pairs alone, where the picture can help.

    Args:
        model: the model.
        masked_losses_on: see ``make_loss_fn``; evaluation filters as training does.
        word_groups: token ids by group name, e.g. colours; ``content`` is added for their union.
    """
    _require_choice(masked_losses_on)
    groups = {"all": np.ones(model.config.vocab_size, bool)}
    if word_groups:
        groups |= {name: np.isin(np.arange(model.config.vocab_size), list(ids)) for name, ids in word_groups.items()}
        groups["content"] = np.any([member for name, member in groups.items() if name != "all"], axis=0)

    def metric_fn(params: Params, batch: Batch) -> dict[str, WeightedSum]:
        output = model.apply(
            {"params": params}, model_inputs(batch), deterministic=True, masked_positions=batch["masked_positions"]
        )
        assert isinstance(output, PretrainingOutput)
        metrics = _losses(model.config, output, batch, masked_losses_on)
        counted = _counted(batch, masked_losses_on)
        metrics["alignment_accuracy"] = _accuracy(
            output.alignment_logits, batch["alignment_labels"], batch["example_mask"]
        )
        labels, predicted = batch["token_labels"], batch["token_label_mask"]
        metrics["token_accuracy"] = _accuracy(output.token_logits, labels, predicted & counted[:, None])
        if model.config.region_objective == "kl":
            hidden = hidden_regions(batch) & counted[:, None]
            classes = regions.class_targets(batch, model.config.region_target_dim).argmax(-1)
            metrics["region_accuracy"] = _accuracy(output.region_logits[:, 1:], classes, hidden)
        matching = predicted & _counted(batch, "aligned")[:, None]
        for name, member in groups.items():
            mask = matching & jnp.asarray(member)[labels]
            metrics[f"words/{name}"] = _accuracy(output.token_logits, labels, mask)
        return metrics

    return metric_fn


def without_picture(metric_fn: MetricFn) -> MetricFn:
    """The same evaluation with every region blanked, features and boxes: what can be guessed without looking.

    What a model gains on ``words/<group>`` over this is what it learned to see.
    """

    def blind(params: Params, batch: Batch) -> dict[str, WeightedSum]:
        blank = {name: jnp.zeros_like(batch[name]) for name in ("region_visible", "region_boxes")}
        return metric_fn(params, {**batch, **blank, "hidden_regions": hidden_regions(batch)})

    return blind


def majority_region_class(
    batches: Iterable[Mapping[str, np.ndarray]], masked_losses_on: MaskedLossesOn, num_classes: int
) -> float:
    """Share of the most frequent class among the regions of ``region_accuracy``: what it has to beat."""
    counts = np.zeros(num_classes, np.int64)
    for batch in batches:
        counted = np.asarray(hidden_regions(batch) & _counted(batch, masked_losses_on)[:, None])
        classes = np.asarray(regions.class_targets(batch, num_classes).argmax(-1))
        counts += np.bincount(classes[counted], minlength=num_classes)
    return float(counts.max() / max(counts.sum(), 1))


def _losses(
    config: ViLBERTConfig, output: PretrainingOutput, batch: Batch, masked_losses_on: MaskedLossesOn
) -> dict[str, WeightedSum]:
    counted = _counted(batch, masked_losses_on)
    # Without slots there are logits of all regions, and the global one has no target.
    region_logits = output.region_logits if "masked_regions" in batch else output.region_logits[:, 1:]
    selected = batch["region_label_mask"] & packed_pairs.of_regions(counted, batch)
    match config.region_objective:
        case "kl":
            targets = regions.class_targets(batch, config.region_target_dim)
            region_loss = losses.region_kl_loss(region_logits, targets, selected)
        case "regression":
            targets = packed_pairs.at_regions(regions.decoded_features(batch), batch)
            region_loss = losses.region_regression_loss(region_logits, targets, selected)
        case "nce":
            targets = regions.decoded_features(batch)
            region_loss = losses.region_nce_loss(region_logits, targets, selected, batch["nce_negatives"])
    return {
        "token_loss": losses.token_loss(
            output.token_logits,
            batch["token_labels"],
            batch["token_label_mask"] & packed_pairs.of_words(counted, batch),
        ),
        "region_loss": region_loss,
        "alignment_loss": losses.alignment_loss(
            output.alignment_logits, batch["alignment_labels"], batch["example_mask"]
        ),
    }


def _counted(batch: Batch, masked_losses_on: MaskedLossesOn) -> Array:
    """[B] bool: examples whose masked words and regions count."""
    return (
        batch["example_mask"] if masked_losses_on == "all" else batch["example_mask"] & (batch["alignment_labels"] == 0)
    )


def hidden_regions(batch: Batch) -> Array:
    """[B, R] bool: regions to predict whose features were zeroed, not those shown unchanged."""
    if "hidden_regions" in batch:  # noted before the picture was blanked
        return batch["hidden_regions"]
    return batch["region_label_mask"] & ~batch["region_visible"] & batch["example_mask"][:, None]


def _accuracy(logits: Array, labels: Array, mask: Array) -> WeightedSum:
    correct = (logits.argmax(-1) == labels) & mask
    return WeightedSum(correct.sum(dtype=jnp.float32), mask.sum(dtype=jnp.float32))


def _require_choice(masked_losses_on: str) -> None:
    if masked_losses_on not in get_args(MaskedLossesOn):
        raise InputError(f"masked_losses_on is {masked_losses_on!r}; use one of {', '.join(get_args(MaskedLossesOn))}.")

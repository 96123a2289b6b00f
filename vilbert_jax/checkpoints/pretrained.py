"""From any source of parameters to a model, or into the run that starts from it."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from flax import traverse_util

from vilbert_jax.checkpoints.agreement import SIZES, Outputs, check_data, check_outputs
from vilbert_jax.checkpoints.conversion import Model, abstract_params, heads_of, make_model
from vilbert_jax.checkpoints.folder import RUN_CHECKPOINTS, Initial, has_checkpoints
from vilbert_jax.checkpoints.plan import default_heads, fresh_params, make_plan, placed, summary
from vilbert_jax.checkpoints.sources import Source, open_source
from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.data.feature_contract import NOT_READ_BY_TASKS, FeatureContract
from vilbert_jax.data.text import Tokenizer
from vilbert_jax.paths import named_leaves

_ANSWER_FIELDS = {"vqa": ("answer_head", "num_vqa_answers"), "gqa": ("num_gqa_answers",)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitConfig:
    """What a run starts from.

    Attributes:
        init_from: any source that ``load_pretrained`` takes; empty: random parameters.
        fresh_heads: heads that start at random although ``init_from`` has them, or has not, comma-separated.
        allow_other_features: accept parameters that were trained on other region features.
    """

    init_from: str = ""
    fresh_heads: str = ""
    allow_other_features: bool = False


def load_pretrained(
    source: str | os.PathLike[str],
    *,
    config: ViLBERTConfig | None = None,
    heads: Sequence[str] | None = None,
    fresh: Sequence[str] = (),
    seed: int = 0,
) -> tuple[Model, dict[str, Any]]:
    """Makes a model with parameters from a checkpoint, a released file, or a BERT.

    On an active mesh (``jax.set_mesh``) the parameters are created sharded over it and each host reads its part alone;
    otherwise they go to the first device.

    Args:
        source: a run, checkpoint or saved folder of this project, a released ViLBERT file, or a BERT folder or hub
            name. A BERT gives the text stream and the masked-word head, or to a single-stream model its layers, pooler
            and both heads; the rest starts fresh.
        config: the model to load into; the source's own when absent. For a released file, whose shapes do not show
            everything, this is its config. Answer heads that are loaded keep the source's kind and size.
        heads: heads of a ``ViLBERTForTasks``; when absent, those of the source.
        fresh: heads (or ``task_tokens``) to initialise instead of load.
        seed: of what starts fresh.

    Returns:
        The model and its float32 parameters.

    Raises:
        InputError: the source cannot be used, or does not give what the model needs; everything at once.
    """
    return load_source(open_source(source, config), config=config, heads=heads, fresh=fresh, seed=seed)


def load_source(
    source: Source,
    *,
    config: ViLBERTConfig | None = None,
    heads: Sequence[str] | None = None,
    fresh: Sequence[str] = (),
    seed: int = 0,
) -> tuple[Model, dict[str, Any]]:
    """``load_pretrained`` from a source that is open already."""
    config = config or source.config
    source = source.for_model(config)
    heads = default_heads(source) if heads is None else tuple(heads)
    for head in set(source.heads) & set(heads) & _ANSWER_FIELDS.keys() - set(fresh):
        config = dataclasses.replace(config, **{name: getattr(source.config, name) for name in _ANSWER_FIELDS[head]})
    model = make_model(config, heads)
    plan = make_plan(source, model, fresh)
    abstract = placed(abstract_params(model))
    params = source.read({path: abstract[path] for path in plan.loaded}) | fresh_params(model, plan, abstract, seed)
    return model, traverse_util.unflatten_dict(params, sep="/")


def starting_point(
    config: InitConfig, model_config: ViLBERTConfig, heads: Sequence[str], outputs: Outputs, workdir: Path
) -> tuple[InitConfig, ViLBERTConfig, Source | None]:
    """What fine-tuning starts from, and the model it trains.

    A ViLBERT is fine-tuned as it is: its config, the number of streams included, replaces the recipe's, which is for a
    start at random or from a BERT. Only the computation dtype is always the recipe's.
    Heads that the source does not have start fresh, so that pre-training needs no list of them.

    Args:
        config: from the recipe.
        model_config: from the recipe.
        heads: of the task.
        outputs: of the answer heads, which fix their sizes.
        workdir: of the run; one that resumes does not need its source any more.

    Returns:
        What starts fresh beside what was named, the model, and the source, open, for ``prepare_init``.

    Raises:
        InputError: the source cannot be used.
    """
    source = None
    if config.init_from:
        source = open_source(workdir if has_checkpoints(workdir / RUN_CHECKPOINTS) else config.init_from)
        fresh = {head for head in config.fresh_heads.split(",") if head}
        if not source.text_only:
            model_config = dataclasses.replace(source.config, dtype=model_config.dtype)
            fresh |= set(heads) - set(source.heads)
            config = dataclasses.replace(config, fresh_heads=",".join(sorted(fresh)))
    sizes = {name: len(outputs[head]) for head, name in SIZES.items() if head in outputs}
    return config, dataclasses.replace(model_config, **sizes), source


def prepare_init(
    config: InitConfig,
    model: Model,
    workdir: Path,
    tokenizer: Tokenizer,
    contract: FeatureContract,
    *,
    opened: Source | None = None,
    outputs: Outputs | None = None,
    outputs_stated: bool = False,
) -> Callable[[Mapping[str, Any]], Initial] | None:
    """Checks everything about where a run starts from now, and returns what reads it when the run starts.

    Args:
        config: from the recipe.
        model: of the run.
        workdir: of the run.
        tokenizer: of the run's data.
        contract: of the run's region features.
        opened: what ``init_from`` names, if it is open already.
        outputs: what the outputs of answer heads mean in the run's data, by head.
        outputs_stated: the user named them for this very source.

    Returns:
        Fresh parameters (nested, possibly sharded) -> ``Initial``, sharded alike. None if there is nothing to start
        from: ``init_from`` is empty, or the run has checkpoints and resumes.

    Raises:
        InputError: the source does not fit the model; its vocabulary, features or answers are not those of the run.
    """
    origin = config.init_from
    if not origin or has_checkpoints(workdir / RUN_CHECKPOINTS):
        return None
    fresh = [head for head in config.fresh_heads.split(",") if head]
    source = (opened or open_source(origin)).for_model(model.config)
    # Before the shapes: that answers differ says more than that two arrays do.
    check_outputs(source, set(source.heads) - set(fresh), outputs or {}, stated=outputs_stated)
    plan = make_plan(source, model, fresh)
    check_data(
        source,
        tokenizer=tokenizer,
        contract=contract,
        allow_other_features=config.allow_other_features,
        ignoring=() if "regions" in heads_of(model) else NOT_READ_BY_TASKS,  # that head predicts classes
    )

    def initialise(fresh_params: Mapping[str, Any]) -> Initial:
        leaves = named_leaves(fresh_params)
        abstract = {path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for path, x in leaves.items()}
        leaves |= source.read({path: abstract[path] for path in plan.loaded})
        return Initial(
            params=traverse_util.unflatten_dict(leaves, sep="/"),
            provenance={"init_from": source.described_provenance()},
            summary=f"starting from {origin}, a {source.kind}:\n{summary(plan, abstract, origin)}",
        )

    return initialise

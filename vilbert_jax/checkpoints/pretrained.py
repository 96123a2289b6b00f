"""From any source of parameters to a model, or into the run that starts from it."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import traverse_util

from vilbert_jax.checkpoints.agreement import SIZES, Outputs, check_data, check_outputs
from vilbert_jax.checkpoints.conversion import PRETRAINING_HEADS, Model, abstract_params, head_of, heads_of, make_model
from vilbert_jax.checkpoints.folder import RUN_CHECKPOINTS, Initial, has_checkpoints
from vilbert_jax.checkpoints.hf_bert import in_bert
from vilbert_jax.checkpoints.sources import Source, open_source
from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.data.feature_contract import NOT_READ_BY_TASKS, FeatureContract
from vilbert_jax.data.text import Tokenizer
from vilbert_jax.errors import InputError
from vilbert_jax.model import HEADS, init_params
from vilbert_jax.paths import named_leaves
from vilbert_jax.sharding import AXES, state_shardings

TASK_TOKENS = "task_tokens"
CAN_BE_FRESH = (*HEADS, TASK_TOKENS)

# Fields that change what is computed without changing a shape.
_TEXT_FIELDS = ("text.num_heads", "text.activation")
_OTHER_FIELDS = (
    "regions.num_heads", "regions.activation", "co_num_heads", "text_co_layers", "region_co_layers", "fusion",
)  # fmt: skip
_ANSWER_FIELDS = {"vqa": ("answer_head", "num_vqa_answers"), "gqa": ("num_gqa_answers",)}
_PARTS = (
    "text embeddings", "text layers", "region embeddings", "region layers", "co-attention layers", "text pooler",
    "region pooler",
)  # fmt: skip


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


class Plan(NamedTuple):
    """Which parameters of a model come from a source, by path."""

    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    left: tuple[str, ...]  # of the source; the model has no use for them


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
            name. A BERT gives the text stream and the masked-word head; the rest starts fresh.
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
    opened = open_source(source, config)
    config = config or opened.config
    heads = default_heads(opened) if heads is None else tuple(heads)
    for head in set(opened.heads) & set(heads) & _ANSWER_FIELDS.keys() - set(fresh):
        config = dataclasses.replace(config, **{name: getattr(opened.config, name) for name in _ANSWER_FIELDS[head]})
    model = make_model(config, heads)
    plan = make_plan(opened, model, fresh)
    abstract = placed(abstract_params(model))
    params = opened.read({path: abstract[path] for path in plan.loaded}) | fresh_params(model, plan, abstract, seed)
    return model, traverse_util.unflatten_dict(params, sep="/")


def starting_point(
    config: InitConfig, model_config: ViLBERTConfig, heads: Sequence[str], outputs: Outputs, workdir: Path
) -> tuple[InitConfig, ViLBERTConfig]:
    """What fine-tuning starts from, and the model it trains.

    A ViLBERT is fine-tuned as it is: its config replaces the recipe's, which is for a start at random or from a BERT.
    Only the computation dtype is always the recipe's.
    Heads that the source does not have start fresh, so that pre-training needs no list of them.

    Args:
        config: from the recipe.
        model_config: from the recipe.
        heads: of the task.
        outputs: of the answer heads, which fix their sizes.
        workdir: of the run; one that resumes does not need its source any more.

    Raises:
        InputError: the source cannot be used.
    """
    if config.init_from:
        source = open_source(workdir if has_checkpoints(workdir / RUN_CHECKPOINTS) else config.init_from)
        fresh = {head for head in config.fresh_heads.split(",") if head}
        if not source.text_only:
            model_config = dataclasses.replace(source.config, dtype=model_config.dtype)
            fresh |= set(heads) - set(source.heads)
            config = dataclasses.replace(config, fresh_heads=",".join(sorted(fresh)))
    sizes = {name: len(outputs[head]) for head, name in SIZES.items() if head in outputs}
    return config, dataclasses.replace(model_config, **sizes)


def prepare_init(
    config: InitConfig,
    model: Model,
    workdir: Path,
    tokenizer: Tokenizer,
    contract: FeatureContract,
    *,
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
    source = open_source(origin)
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


def make_plan(source: Source, model: Model, fresh: Sequence[str] = ()) -> Plan:
    """Compares what a source has with what a model needs.

    Args:
        source: from ``open_source``.
        model: the model.
        fresh: heads (or ``task_tokens``) that are not to be loaded.

    Raises:
        InputError: naming at once every parameter that is missing, misshaped or has no place, and every config field
            that would silently change what the parameters compute.
    """
    wanted, heads = abstract_params(model), heads_of(model)
    unknown = sorted(set(fresh) - {*heads, *([TASK_TOKENS] if model.config.num_task_embeddings else [])})
    if unknown:
        raise InputError(f"fresh names {', '.join(unknown)}; this model has the heads {', '.join(heads)}.")
    started = {path for path in wanted if _is_named(path, fresh) or (source.text_only and not in_bert(path))}
    problems = []
    for path in wanted.keys() - started:
        if path not in source.shapes:
            part = TASK_TOKENS if "task_embeddings" in path else head_of(path)
            hint = f" (to start it at random, name it as fresh: {part})" if part else ""
            problems.append(f"missing: {path} {[*wanted[path].shape]}{hint}")
        elif source.shapes[path] != wanted[path].shape:
            problems.append(f"misshaped: {path} is {[*source.shapes[path]]}, the model has {[*wanted[path].shape]}")
    left = source.shapes.keys() - (wanted.keys() - started)
    problems += [f"without a place in the model: {path}" for path in left if not _may_be_left(path, model, fresh)]
    if source.states_config:
        problems += _other_function(source, model.config)
    if problems:
        raise InputError(
            f"{source.origin} ({source.kind}) does not fit the model, in {len(problems)} places:\n  "
            + "\n  ".join(sorted(problems))
        )
    return Plan(tuple(sorted(wanted.keys() - started)), tuple(sorted(started)), tuple(sorted(left)))


def fresh_params(model: Model, plan: Plan, abstract: Mapping[str, Any], seed: int) -> dict[str, jax.Array]:
    """The parameters that a plan leaves to initialisation, by path."""
    if not plan.fresh:
        return {}

    def initialise(key: jax.Array) -> dict[str, jax.Array]:
        leaves = named_leaves(init_params(model, key))
        return {path: leaves[path] for path in plan.fresh}

    shardings = {path: abstract[path].sharding for path in plan.fresh}
    return jax.jit(initialise, out_shardings=shardings)(jax.random.key(seed))


def placed(abstract: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.ShapeDtypeStruct]:
    """Abstract parameters with shardings: over the active mesh, or on the first device."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = {path: device for path in abstract}
    elif not set(AXES) <= set(mesh.axis_names):
        raise InputError(
            f"the active mesh has the axes {', '.join(map(str, mesh.axis_names))}; parameters are placed over "
            f"{', '.join(AXES)}: make the mesh with vilbert_jax.sharding.make_mesh."
        )
    else:
        shardings = named_leaves(state_shardings(traverse_util.unflatten_dict(dict(abstract), sep="/"), mesh))
    return {p: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=shardings[p]) for p, a in abstract.items()}


def summary(plan: Plan, sizes: Mapping[str, Any], origin: str) -> str:
    """A short table: which parts of a model come from where, in millions of parameters."""
    lines = []
    for where, paths in ((f"from {origin}", plan.loaded), ("fresh", plan.fresh)):
        groups: dict[str, int] = {}
        for path in paths:
            groups[_part(path)] = groups.get(_part(path), 0) + sizes[path].size
        order = sorted(groups, key=lambda part: (_PARTS.index(part) if part in _PARTS else len(_PARTS), part))
        lines += [f"  {part:24}{groups[part] / 1e6:9.2f} M  {where}" for part in order]
    return "\n".join(lines)


def _part(path: str) -> str:
    """The part of the model, for people, that a parameter belongs to."""
    names = path.split("/")
    if names[0] != "trunk":
        return names[0].replace("_", " ")
    if names[1] == "encoder":
        return {"text": "text layers", "region": "region layers", "co": "co-attention layers"}[names[2].split("_")[0]]
    return names[1].replace("_", " ")


def default_heads(source: Source) -> tuple[str, ...]:
    """The heads of the model that a source makes when none are named: its own, or those of pre-training."""
    return PRETRAINING_HEADS if source.text_only or not source.heads else source.heads


def _is_named(path: str, fresh: Sequence[str]) -> bool:
    return (head_of(path) or "") in fresh or (TASK_TOKENS in fresh and "task_embeddings" in path)


def _may_be_left(path: str, model: Model, fresh: Sequence[str]) -> bool:
    """Parameters of a source that a model may do without: heads, and the exchange when it is off."""
    if _is_named(path, fresh):
        return True
    head = head_of(path)
    if head is not None:
        return head not in heads_of(model)
    return "/co_layer_" in path and not model.config.use_coattention


def _other_function(source: Source, config: ViLBERTConfig) -> list[str]:
    fields = _TEXT_FIELDS if source.text_only else (*_TEXT_FIELDS, *_OTHER_FIELDS)
    pairs = [(name, _field(source.config, name), _field(config, name)) for name in fields]
    return [f"config: {name} is {theirs}, the model has {ours}" for name, theirs, ours in pairs if theirs != ours]


def _field(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config

"""Which parameters of a model come from a source, which start fresh, and whether the two belong together."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from flax import traverse_util

from vilbert_jax.checkpoints.conversion import PRETRAINING_HEADS, Model, abstract_params, head_of, heads_of
from vilbert_jax.checkpoints.hf_bert import in_bert, may_lack
from vilbert_jax.checkpoints.sources import Source
from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.errors import InputError
from vilbert_jax.model import init_params
from vilbert_jax.paths import named_leaves
from vilbert_jax.sharding import AXES, state_shardings

TASK_TOKENS = "task_tokens"

# Fields that change what is computed without changing a shape.
_TEXT_FIELDS = ("text.num_heads", "text.activation")
_OTHER_FIELDS = (
    "regions.num_heads", "regions.activation", "co_num_heads", "text_co_layers", "region_co_layers", "fusion",
)  # fmt: skip
_JOINT = "joint layers"  # of one stream
_PARTS = (
    "text embeddings", "text layers", "region embeddings", "region layers", "co-attention layers", _JOINT,
    "text pooler", "region pooler", "pooler",
)  # fmt: skip


class Plan(NamedTuple):
    """Which parameters of a model come from a source, by path."""

    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    left: tuple[str, ...]  # of the source; the model has no use for them


def make_plan(source: Source, model: Model, fresh: Sequence[str] = ()) -> Plan:
    """Compares what a source has with what a model needs.

    Args:
        source: from ``open_source``, as the model reads it (``Source.for_model``).
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
    started = {path for path in wanted if _is_named(path, fresh) or _is_beyond_bert(path, source, model.config)}
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
    are_numbered = _layers_of(plan.loaded) and _layers_of(plan.fresh)  # a BERT may be the first of them
    for where, paths in ((f"from {origin}", plan.loaded), ("fresh", plan.fresh)):
        groups: dict[str, int] = {}
        for path in paths:
            groups[_part(path)] = groups.get(_part(path), 0) + sizes[path].size
        order = sorted(groups, key=lambda part: (_PARTS.index(part) if part in _PARTS else len(_PARTS), part))
        labels = {_JOINT: f"{_JOINT} {_layers_of(paths)}"} if are_numbered else {}
        lines += [f"  {labels.get(part, part):24}{groups[part] / 1e6:9.2f} M  {where}" for part in order]
    return "\n".join(lines)


def _part(path: str) -> str:
    """The part of the model, for people, that a parameter belongs to."""
    names = path.split("/")
    if names[0] != "trunk":
        return names[0].replace("_", " ")
    if names[1] == "encoder":
        kinds = {"text": "text layers", "region": "region layers", "co": "co-attention layers", "layer": _JOINT}
        return kinds[names[2].split("_")[0]]
    return names[1].replace("_", " ")


def _layers_of(paths: Sequence[str]) -> str:
    """The numbers of the joint layers among the paths, "0 to 11"; empty if there are none."""
    found = [re.match(r"trunk/encoder/layer_(\d+)/", path) for path in paths]
    numbers = [int(match[1]) for match in found if match]
    return f"{min(numbers)} to {max(numbers)}" if numbers else ""


def default_heads(source: Source) -> tuple[str, ...]:
    """The heads of the model that a source makes when none are named: its own, or those of pre-training."""
    return PRETRAINING_HEADS if source.text_only or not source.heads else source.heads


def _is_named(path: str, fresh: Sequence[str]) -> bool:
    return (head_of(path) or "") in fresh or (TASK_TOKENS in fresh and "task_embeddings" in path)


def _is_beyond_bert(path: str, source: Source, config: ViLBERTConfig) -> bool:
    """Whether the source is a BERT that does not have this parameter, and need not have it."""
    if not source.text_only:
        return False
    return not in_bert(path, config.num_streams) or (path not in source.shapes and may_lack(path, source.config))


def _may_be_left(path: str, model: Model, fresh: Sequence[str]) -> bool:
    """Parameters of a source that a model may do without: heads, and the exchange when it is off."""
    if _is_named(path, fresh):
        return True
    head = head_of(path)
    if head is not None:
        return head not in heads_of(model)
    return "/co_layer_" in path and not model.config.use_coattention


def _other_function(source: Source, config: ViLBERTConfig) -> list[str]:
    fields = _TEXT_FIELDS if source.text_only or config.num_streams == 1 else (*_TEXT_FIELDS, *_OTHER_FIELDS)
    pairs = [(name, _field(source.config, name), _field(config, name)) for name in fields]
    return [f"config: {name} is {theirs}, the model has {ours}" for name, theirs, ours in pairs if theirs != ours]


def _field(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config

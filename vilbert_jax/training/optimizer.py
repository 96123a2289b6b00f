"""The two Adam variants of the released code and their schedules, as one optax transformation.

Both differ from ``optax.adamw``: eps is added to sqrt(nu) before bias correction, and AdamW's decay acts on the already
updated parameter. Closed forms: pytorch_transformers 1.0.0 ``AdamW`` and pytorch_pretrained_bert 0.6.2 ``BertAdam``.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from vilbert_jax.errors import InputError
from vilbert_jax.paths import named_leaves, path_name
from vilbert_jax.training.state import Params

Schedule = Callable[[Any], Array]  # completed updates -> learning rate of the next one
PathTable = tuple[tuple[str, float], ...]

_CLIP_EPS = 1e-6  # as in torch.nn.utils.clip_grad_norm_


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Optimizer, schedule, weight decay and clipping.

    The path tables are ordered ``(regular expression, value)`` pairs matched in full against "/"-joined parameter paths
    (``trunk/text_pooler/kernel``); the first match wins.

    Released pre-training: vilbert-multi-task has ``clip="none", decay="multitask"``; the paper's code (vilbert_beta)
    ``variant="bertadam", b2=0.999, eps=1e-6, bias_correction=False, schedule_offset=1, clip="per_tensor",
    decay="original"``.

    Released fine-tuning, ``total_steps`` being 20 epochs:

    - vilbert_beta, the paper's: as its pre-training, with ``schedule="constant", drop_at=(0.6, 0.8)`` (epochs 12, 16)
      and the head of VQA at 1e-4: ``learning_rate=4e-5, learning_rate_by_path=((r"vqa_head/.*", 2.5),)``.
    - vilbert-multi-task: ``b2=0.999, eps=1e-6, bias_correction=False, schedule_offset=1, clip="none",
      decay="multitask", schedule="linear"``, and the heads whose released names have "vil_" at 1e-4:
      ``learning_rate_by_path=((r"(vqa|gqa|binary|choice|entailment)_head/.*", 1e-4 / learning_rate),)``.

    Attributes:
        variant: "adamw" decays the updated parameter; "bertadam" adds the decay to the update.
        learning_rate: peak rate.
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: added to sqrt(nu) before bias correction.
        bias_correction: "bertadam" has none.
        schedule: after the warm-up, "linear" falls to 0 at ``total_steps`` and "constant" stays.
        warmup_fraction: share of ``total_steps`` over which the rate rises from 0.
        drop_at: shares of ``total_steps``, ascending; from each on, the rate is multiplied by ``drop_factor``.
        drop_factor: what one drop leaves of the rate.
        schedule_offset: update k (from 1) uses the schedule at k - schedule_offset; with 1 the first update has rate 0.
        weight_decay: value for the parameters that ``decay`` selects.
        decay: "clean" is kernels and embedding tables; "multitask" (vilbert-multi-task) adds the norm scales that its
            name test misses; "original" (vilbert_beta) is the inverse of that, as released.
        weight_decay_by_path: overrides the two fields above for the parameters it matches.
        learning_rate_by_path: multipliers, 1 where nothing matches; 0 freezes exactly (no decay, no moments).
        clip: "global" scales all gradients by one factor, "per_tensor" each by its own.
        clip_norm: largest norm that "global" and "per_tensor" let through.
    """

    variant: Literal["adamw", "bertadam"] = "adamw"
    learning_rate: float = 1e-4
    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-8
    bias_correction: bool = True
    schedule: Literal["linear", "constant"] = "linear"
    warmup_fraction: float = 0.1
    drop_at: tuple[float, ...] = ()
    drop_factor: float = 0.1
    schedule_offset: Literal[0, 1] = 0
    weight_decay: float = 0.01
    decay: Literal["clean", "multitask", "original"] = "clean"
    weight_decay_by_path: PathTable = ()
    learning_rate_by_path: PathTable = ()
    clip: Literal["none", "global", "per_tensor"] = "global"
    clip_norm: float = 1.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, choices = getattr(self, field.name), get_args(field.type)
            if Literal[choices] == field.type and value not in choices:
                raise InputError(f"optimizer.{field.name} is {value!r}; choose one of {', '.join(map(repr, choices))}.")
        for name in ("b1", "b2"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"optimizer.{name} is {getattr(self, name)}; it must lie between 0 and 1.")
        if not 0 <= self.warmup_fraction < 1:
            raise InputError(f"optimizer.warmup_fraction is {self.warmup_fraction}; it must be at least 0 and below 1.")
        numbers = isinstance(self.drop_at, tuple) and all(isinstance(share, int | float) for share in self.drop_at)
        if not numbers or not all(a < b for a, b in itertools.pairwise((0, *self.drop_at, 1))):
            raise InputError(
                f"optimizer.drop_at is {self.drop_at!r}; it must hold ascending shares of the run between 0 and 1, "
                "such as (0.6, 0.8), with a comma after a single one."
            )
        if not 0 <= self.drop_factor <= 1:
            raise InputError(f"optimizer.drop_factor is {self.drop_factor}; it must be at least 0 and at most 1.")
        for name in ("learning_rate", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"optimizer.{name} is {getattr(self, name)}; it must be a number of at least 0.")
        for name in ("eps", "clip_norm"):
            if not getattr(self, name) > 0:
                raise InputError(f"optimizer.{name} is {getattr(self, name)}; it must be above 0.")
        if self.variant == "bertadam" and self.bias_correction:
            raise InputError("optimizer.variant 'bertadam' has no bias correction: set bias_correction=False.")
        for name in ("weight_decay_by_path", "learning_rate_by_path"):
            table = getattr(self, name)
            pairs = isinstance(table, tuple) and all(isinstance(row, tuple) and len(row) == 2 for row in table)
            if not pairs or not all(isinstance(p, str) and isinstance(v, int | float) for p, v in table):
                raise InputError(
                    f"optimizer.{name} is {table!r}; it must hold (pattern, number) pairs, such as (('.*bias', 0.0),) "
                    "with the outer comma."
                )
            for pattern, _ in table:
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise InputError(
                        f"optimizer.{name}: {pattern!r} is not a regular expression ({error}); escape its special "
                        "characters."
                    ) from error


class AdamState(NamedTuple):
    """Moments in the shape of the parameters, so that a moment's path ends in its parameter's path."""

    num_updates: Int[Array, ""]  # completed, int32
    mu: Params
    nu: Params


def make_schedule(config: OptimizerConfig, total_steps: int) -> Schedule:
    """Returns the learning rate of the next update as a function of the number of completed ones."""
    warmup = config.warmup_fraction * total_steps
    # The first s of each drop: a whole number, lest 0.55 x 100 = 55.000000000000007 put it off by a step.
    drops = [math.ceil(round(share * total_steps, 6)) for share in config.drop_at]

    def schedule(num_updates: Any) -> Array:
        s = jnp.asarray(num_updates, float) + (1 - config.schedule_offset)
        after = jnp.ones_like(s) if config.schedule == "constant" else (total_steps - s) / (total_steps - warmup)
        factor = jnp.where(s < warmup, s / max(warmup, 1e-9), jnp.maximum(after, 0))
        for drop in drops:
            factor = jnp.where(s < drop, factor, factor * config.drop_factor)
        return config.learning_rate * factor

    return schedule


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """Returns the transformation; ``update`` needs the parameters.

    ``init`` raises InputError when a pattern of a path table matches no parameter. It needs shapes only, so it may run
    under ``jax.eval_shape``.
    """
    schedule = make_schedule(config, total_steps)

    def init(params: Params) -> AdamState:
        _check_patterns_match(config, params)
        mu, nu = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return AdamState(jnp.zeros([], jnp.int32), mu, nu)

    def update(grads: Params, state: AdamState, params: Params | None = None) -> tuple[Params, AdamState]:
        if params is None:
            raise ValueError("the decay acts on the parameters: call update(grads, state, params)")
        multipliers = jax.tree_util.tree_map_with_path(lambda path, _: _multiplier(config, path_name(path)), params)
        decays = jax.tree_util.tree_map_with_path(lambda path, _: _decay(config, path_name(path)), params)
        # A frozen parameter must not take part in the global norm, as if it had no gradient.
        grads = jax.tree.map(lambda g, multiplier: g if multiplier else jnp.zeros_like(g), grads, multipliers)
        grads = _clip(grads, config)
        mu = jax.tree.map(lambda m, g: config.b1 * m + (1 - config.b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: config.b2 * v + (1 - config.b2) * g * g, state.nu, grads)
        rate, correction = schedule(state.num_updates), _bias_correction(config, state.num_updates + 1)

        def delta(p, m, v, multiplier, decay):
            if multiplier == 0:
                return jnp.zeros_like(p)
            lr = multiplier * rate
            move = (lr * correction) * m / (jnp.sqrt(v) + config.eps)
            if decay == 0:
                return -move
            return -(move + lr * decay * (p - move if config.variant == "adamw" else p))

        updates = jax.tree.map(delta, params, mu, nu, multipliers, decays)
        return updates, AdamState(state.num_updates + 1, mu, nu)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType] optax types states as trees


def _bias_correction(config: OptimizerConfig, updates: Array) -> Array:
    """``sqrt(1 - b2^k) / (1 - b1^k)``; expm1 keeps the digits that 1 - 0.999^1 loses in float32."""
    if not config.bias_correction:
        return jnp.ones([])
    k = jnp.asarray(updates, float)
    return jnp.sqrt(-jnp.expm1(k * math.log(config.b2))) / -jnp.expm1(k * math.log(config.b1))


def _clip(grads: Params, config: OptimizerConfig) -> Params:
    def scale(norm):
        return jnp.minimum(1.0, config.clip_norm / (norm + _CLIP_EPS))

    if config.clip == "none":
        return grads
    if config.clip == "per_tensor":
        return jax.tree.map(lambda g: g * scale(optax.tree.norm(g)), grads)
    factor = scale(optax.tree.norm(grads))
    return jax.tree.map(lambda g: g * factor, grads)


def _first_match(table: PathTable, path: str) -> float | None:
    return next((value for pattern, value in table if re.fullmatch(pattern, path)), None)


def _multiplier(config: OptimizerConfig, path: str) -> float:
    value = _first_match(config.learning_rate_by_path, path)
    return 1.0 if value is None else value


def _decay(config: OptimizerConfig, path: str) -> float:
    value = _first_match(config.weight_decay_by_path, path)
    if value is not None:
        return value
    if config.decay == "clean":
        selected = path.rsplit("/", 1)[-1] in ("kernel", "embedding")
    else:
        selected = _decays_by_released_name(path) == (config.decay == "multitask")
    return config.weight_decay if selected else 0.0


def _decays_by_released_name(path: str) -> bool:
    """The released scripts exempt names containing ``bias`` or ``LayerNorm.weight``.

    The norms named ``LayerNorm1``, ``LayerNorm2`` (co-attention output) and ``logit_fc.2`` (answer heads) escape it.
    """
    if path.endswith("bias"):
        return False
    missed = r".*co_layer_\d+/(text|region)_attention_output_norm/scale|.*_head/hidden_norm/scale"
    return not path.endswith("norm/scale") or re.fullmatch(missed, path) is not None


def _check_patterns_match(config: OptimizerConfig, params: Params) -> None:
    paths = list(named_leaves(params))
    for name in ("weight_decay_by_path", "learning_rate_by_path"):
        for pattern, _ in getattr(config, name):
            if not any(re.fullmatch(pattern, path) for path in paths):
                raise InputError(
                    f"optimizer.{name}: {pattern!r} matches none of the {len(paths)} parameters. It must match a whole "
                    f"path such as {paths[0]!r}; start it with '.*' to match anywhere. Correct or remove it."
                )

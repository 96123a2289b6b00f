"""The lengths and intervals of a training run."""

import dataclasses
from typing import get_args

from vilbert_jax.errors import InputError
from vilbert_jax.nn.remat import Remat
from vilbert_jax.training.precision import ParamDType


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long and how often; steps are completed optimizer steps, from 1.

    Attributes:
        total_steps: length of the run and of the learning-rate schedule.
        batch_size: rows a step, of all hosts.
        seed: root of parameter initialisation and dropout.
        log_every: steps between lines of metrics.jsonl. Finiteness is checked for every step, logged or not.
        eval_every: steps between evaluations; there is always one at the end.
        checkpoint_every: steps between checkpoints; there is always one at the end.
        keep_checkpoints: newest checkpoints to keep.
        num_microbatches: parts a batch is worked through in, to save memory.
        param_dtype: of the parameters that a step computes with; the state and the checkpoints keep float32.
        remat: what the backward pass computes again instead of keeping it, to save memory: "none"; "light" is all but
            products with parameters; "full" is everything inside a layer.
        num_workers: processes that prepare batches; 0 uses threads.
        patience: evaluations in a row without a better value of the selected metric after which the run stops; 0 is
            never.
    """

    total_steps: int
    batch_size: int
    seed: int = 0
    log_every: int = 50
    eval_every: int = 1000
    checkpoint_every: int = 1000
    keep_checkpoints: int = 3
    num_microbatches: int = 1
    param_dtype: ParamDType = "float32"
    remat: Remat = "none"
    num_workers: int = 0
    patience: int = 0

    def __post_init__(self):
        for field in (field for field in dataclasses.fields(self) if field.type is int):
            value, least = getattr(self, field.name), 0 if field.name in ("seed", "num_workers", "patience") else 1
            if not least <= value < 2**63:
                raise InputError(f"{field.name} is {value}; it must be at least {least} and below 2**63.")
        for name, choices in (("param_dtype", get_args(ParamDType)), ("remat", get_args(Remat))):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}.")

    def check_precision(self, compute_dtype: str) -> None:
        """Raises InputError for parameters that are coarser than what is computed with them."""
        if self.param_dtype == "bfloat16" and compute_dtype != "bfloat16":
            raise InputError(
                f"param_dtype is bfloat16 and model.dtype {compute_dtype}: the parameters would be rounded for "
                "nothing. Set model.dtype=bfloat16 as well, or leave param_dtype at float32."
            )

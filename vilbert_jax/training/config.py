"""The lengths and intervals of a training run."""

import dataclasses

from vilbert_jax.errors import InputError


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
    num_workers: int = 0
    patience: int = 0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), 0 if field.name in ("seed", "num_workers", "patience") else 1
            if not least <= value < 2**63:
                raise InputError(f"{field.name} is {value}; it must be at least {least} and below 2**63.")

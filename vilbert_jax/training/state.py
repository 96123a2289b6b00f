"""What a training step reads and writes."""

from typing import Any, NamedTuple

from jaxtyping import Array, Int

Params = Any  # nested dict of arrays


class TrainState(NamedTuple):
    """Everything that changes from step to step; a checkpoint holds exactly this."""

    step: Int[Array, ""]  # completed steps, int32
    params: Params
    opt_state: Any  # as the optimizer's init returns it

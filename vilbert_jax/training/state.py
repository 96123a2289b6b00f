"""What a training step reads and writes."""

from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Int

from vilbert_jax.errors import InputError
from vilbert_jax.paths import named_leaves

Params = Any  # nested dict of arrays


class TrainState(NamedTuple):
    """Everything that changes from step to step; a checkpoint holds exactly this."""

    step: Int[Array, ""]  # completed steps, int32
    params: Params
    opt_state: Any  # as the optimizer's init returns it


def adopt(params: Params, abstract: Params) -> Params:
    """Places parameters from elsewhere as the ``ShapeDtypeStruct``s of ``abstract`` say.

    Raises:
        InputError: their paths or shapes are others.
    """
    expected, given = ({name: x.shape for name, x in named_leaves(tree).items()} for tree in (abstract, params))
    wrong = sorted(path for path in expected.keys() | given.keys() if expected.get(path) != given.get(path))
    if wrong:
        path = wrong[0]
        raise InputError(
            f"the initial parameters do not fit the model in {len(wrong)} place(s), first {path}: given "
            f"{given.get(path)}, expected {expected.get(path)}. Start from weights of the same configuration."
        )
    return jax.tree.map(lambda x, a: jax.device_put(x.astype(a.dtype), a.sharding), params, abstract)

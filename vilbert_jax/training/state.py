"""What a training step reads and writes."""

from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Int

Params = Any  # nested dict of arrays


class TrainState(NamedTuple):
    """Everything that changes from step to step; a checkpoint holds exactly this."""

    step: Int[Array, ""]  # completed steps, int32
    params: Params
    opt_state: Any  # as the optimizer's init returns it


def path_name(path: tuple[Any, ...]) -> str:
    """A tree path as tables and messages write it: ``trunk/text_pooler/kernel``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by path."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}

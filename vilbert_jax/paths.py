"""Names for the leaves of a parameter tree, as tables and messages write them: ``trunk/text_pooler/kernel``."""

from typing import Any

import jax


def path_name(path: tuple[Any, ...]) -> str:
    """The name of one tree path."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by name."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}

"""What can be found wrong with a grid before hours are spent on it, and the size of its models."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vilbert_jax.ablation.grid import Grid, Variant
from vilbert_jax.ablation.plan import config_flags, model_flags
from vilbert_jax.ablation.records import Run
from vilbert_jax.config import ViLBERTConfig
from vilbert_jax.errors import InputError
from vilbert_jax.model_size import forward_flops

Parse = Callable[[Sequence[str]], Mapping[str, Any]]  # --config and --config.KEY=VALUE -> the recipe's entries
_DATA_SETS = ("annotations", "regions", "given_regions")


def check_recipes(runs: Sequence[Run], parse: Parse) -> list[str]:
    """Reads the recipe of every run with its flags, and makes its model's config.

    Args:
        runs: of the grid.
        parse: reads a recipe.

    Returns:
        Names of the data sets that the recipes read.

    Raises:
        InputError: naming the run: there is no such recipe, it has no such key, or no model can be made.
    """
    seen: set[tuple[str, ...]] = set()
    found: dict[str, None] = {}
    for run in runs:
        flags = tuple(part for part in run.command if part.startswith("--config") and not _varies(part))
        if flags in seen:
            continue
        seen.add(flags)
        try:
            recipe = parse(flags)
            ViLBERTConfig.from_dict(recipe["model"])
        except InputError as error:
            raise InputError(f"{run.name} cannot be run: {error}") from error
        found |= dict.fromkeys(recipe[key] for key in _DATA_SETS if recipe.get(key))
    return list(found)


def model_sizes(grid: Grid, variants: Sequence[Variant], parse: Parse) -> dict[str, tuple[int, int]]:
    """Parameters of each variant's model, and operations of a forward pass on a pair as long as pre-training's.

    Args:
        grid: for the recipe of pre-training.
        variants: the models.
        parse: reads a recipe.
    """
    sizes = {}
    for variant in variants:
        flags = config_flags((*grid.pretraining_flags, *model_flags(variant)))
        recipe = parse((f"--config={grid.pretraining}", *flags))
        model = ViLBERTConfig.from_dict(recipe["model"])
        flops = forward_flops(model, recipe["text_length"], recipe["max_regions"] + 1)  # the global region is one more
        sizes[variant.name] = (model.num_parameters(), flops)
    return sizes


def _varies(flag: str) -> bool:
    """Paths and numbers that a recipe takes as they are."""
    return flag.startswith(("--config.seed=", "--config.data_dir=", "--config.init_from="))
